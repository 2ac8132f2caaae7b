from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, false_discovery_control

from orchestrator.evaluation.drift import (
    DriftCounts,
    Spread,
    compare,
    holm,
    stability_index,
    two_sample_p,
)

WHOLE = ("all", "")


def report(spreads: dict[str, Spread], **groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """Groups as keywords: `all`, or `root_0` and the like."""
    counts = DriftCounts(spreads)
    for name, figures in groups.items():
        kind, _, rest = name.partition("_")
        for half in range(2):  # two shards
            counts.add((kind, rest), {of: values[half::2] for of, values in figures.items()})
    return compare(counts, {})


@pytest.fixture(scope="module")
def spreads() -> dict[str, Spread]:
    rng = np.random.default_rng(0)
    return {f"figure_{n}": Spread.of(rng.normal(size=600)) for n in range(13)}


def draw(rng: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    return {f"figure_{n}": rng.normal(size=number) for n in range(13)}


def test_bins_are_the_tenths_and_hold_every_image() -> None:
    spread = Spread.of(np.arange(1000))
    assert len(spread.counts) == 10 and set(spread.counts) == {100}
    assert spread.count([-5, 0, 999, 5000]).tolist() == [2, *[0] * 8, 2]


def test_values_that_are_all_equal_have_a_bin_below_and_one_above() -> None:
    spread = Spread.of(np.full(50, 224.0))
    assert spread.counts == [0, 50, 0]
    assert spread.count([223, 224, 224, 225]).tolist() == [1, 2, 1]
    moved = report({"width": spread}, all={"width": np.full(60, 225.0)})
    assert moved["drifted"]


def test_index_by_hand() -> None:
    before, after = np.array([60, 40]), np.array([20, 80])
    a, b = np.array([60.5, 40.5]) / 101, np.array([20.5, 80.5]) / 101
    expected = (b[0] - a[0]) * np.log(b[0] / a[0]) + (b[1] - a[1]) * np.log(b[1] / a[1])
    assert stability_index(before, after) == pytest.approx(expected)
    assert stability_index(before, before) == 0


def test_chances_are_those_of_scipy() -> None:
    before, after = np.array([10, 0, 25, 7]), np.array([30, 0, 20, 9])
    expected = chi2_contingency(np.stack([before, after])[:, [0, 2, 3]], correction=False).pvalue
    assert two_sample_p(before, after) == pytest.approx(expected)
    assert two_sample_p(before, np.zeros(4, np.int64)) == 1.0


def test_correction_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    values = [0.001, 0.2, 0.04]
    assert all(a >= b for a, b in zip(holm(values), false_discovery_control(values), strict=True))


def test_a_shift_of_one_figure_is_found_and_named(spreads: dict[str, Spread]) -> None:
    figures = draw(np.random.default_rng(1), 150)
    figures["figure_3"] = figures["figure_3"] + 1.0
    found = report(spreads, all=figures)
    assert found["drifted"]
    (whole,) = found["groups"]
    assert [of["name"] for of in whole["figures"] if of["drifted"]] == ["figure_3"]
    third = whole["figures"][3]
    assert third["above"][0] == pytest.approx(0.1) and third["above"][1] > 0.25
    assert third["below"][1] < 0.05
    assert whole["images"] == 150


@pytest.mark.parametrize("number", [20, 300])
def test_samples_of_the_same_images_raise_no_alarm(spreads: dict[str, Spread], number: int) -> None:
    rng = np.random.default_rng(number)
    alarms = [report(spreads, all=draw(rng, number))["drifted"] for _ in range(50)]
    assert sum(alarms) == 0


def test_a_sure_but_small_change_is_no_drift() -> None:
    rng = np.random.default_rng(2)
    spread = {"figure": Spread.of(rng.normal(size=5000))}
    found = report(spread, all={"figure": rng.normal(loc=0.2, size=5000)})
    assert found["groups"][0]["figures"][0]["p"] < 1e-6
    assert not found["drifted"]


def test_one_root_of_two_that_drifts_is_named_and_small_ones_are_not_judged(
    spreads: dict[str, Spread],
) -> None:
    rng = np.random.default_rng(3)
    same, other = draw(rng, 500), {name: v + 1.5 for name, v in draw(rng, 60).items()}
    few = {name: values[:40] for name, values in other.items()}
    found = report(spreads, all=same, root_0=same, root_1=other, root_2=few)
    by_name = {
        (g["kind"], g["name"]): any(f["drifted"] for f in g["figures"]) for g in found["groups"]
    }
    assert by_name == {WHOLE: False, ("root", "0"): False, ("root", "1"): True}
    assert found["drifted"]


def test_nearer_images_are_no_drift_and_farther_ones_are() -> None:
    rng = np.random.default_rng(4)
    spreads = {"distance": Spread.of(rng.normal(1.0, 0.1, 300))}
    assert not report(spreads, all={"distance": rng.normal(0.8, 0.1, 100)})["drifted"]
    assert report(spreads, all={"distance": rng.normal(1.2, 0.1, 100)})["drifted"]
