import numpy as np
import pytest

from orchestrator.config.specs import SEARCHED, TuneSpec
from orchestrator.pipelines.tune.space import find_importances, num_trials, suggest
from orchestrator.pipelines.tune.trials import FAILED, FINISHED, RUNNING, STOPPED, Trial


def spec_of(**changes: object) -> TuneSpec:
    return TuneSpec.model_validate({"data": "x", "dropout": 0.2, "gamma": "0,2"} | changes)


def rows_of(spec: TuneSpec, count: int) -> list[Trial]:
    """A search whose objective prefers alpha near 0.3."""
    rows: list[Trial] = []
    for number in range(count):
        config = suggest(spec, number, rows)
        value = 1 - (config["alpha"] - 0.3) ** 2 + 0.001 * config["gamma"]
        state = STOPPED if number % 4 == 3 else FINISHED
        rows.append(Trial(number, config, state, value, (value,), (0.5, value), (2,)))
    return rows


@pytest.mark.parametrize("search", ["tpe", "random"])
def test_values_are_in_their_ranges_and_differ(search: str) -> None:
    spec = spec_of(search=search)
    configs = [row.config for row in rows_of(spec, 30)]
    for config in configs:
        assert list(config) == list(SEARCHED)
        assert 1e-4 <= config["lr"] <= 1e-2 and 0.1 <= config["alpha"] <= 0.9
        assert config["gamma"] in (0.0, 2.0) and config["dropout"] == 0.2
    assert len({config["lr"] for config in configs}) == 30
    # Logarithmic: half of a random search lies below the geometric middle.
    below = np.mean([suggest(spec_of(search="random"), n, [])["lr"] < 1e-3 for n in range(300)])
    assert 0.4 < below < 0.6


def test_a_configuration_depends_on_seed_number_and_earlier_trials_alone() -> None:
    spec = spec_of()
    rows = rows_of(spec, 20)
    assert suggest(spec, 15, rows[:15]) == rows[15].config
    assert suggest(spec_of(seed=1), 15, rows[:15]) != rows[15].config
    other = [Trial(r.number, r.config, r.state, -r.value, r.values, r.history) for r in rows[:15]]
    assert suggest(spec, 15, other) != rows[15].config
    for number in range(5):
        random = spec_of(search="random")
        assert suggest(random, number, rows[:number]) == suggest(random, number, [])


def test_tpe_goes_where_it_was_good_and_passes_over_what_failed_or_runs() -> None:
    rows = rows_of(spec_of(), 40)
    late = [abs(row.config["alpha"] - 0.3) for row in rows[25:]]
    assert np.median(late) < 0.1
    lower = [Trial(r.number, r.config, r.state, 1 - r.value, (), ()) for r in rows[:20]]
    assert suggest(spec_of(objective="log_loss"), 20, lower)  # the other way round
    unfinished = [Trial(20, rows[20].config, RUNNING), Trial(21, rows[21].config, FAILED)]
    assert suggest(spec_of(), 22, [*rows[:20], *unfinished])


def test_a_grid_has_every_point_once_in_an_order_of_the_seed() -> None:
    spec = spec_of(search="grid", trials=100, alpha="0.2,0.5")
    assert num_trials(spec) == 3 * 2 * 2
    points = [tuple(suggest(spec, n, []).values()) for n in range(12)]
    assert len(set(points)) == 12
    assert sorted({lr for lr, *_ in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert num_trials(spec.model_copy(update={"trials": 5})) == 5
    again = spec.model_copy(update={"seed": 3})
    assert [tuple(suggest(again, n, []).values()) for n in range(12)] != points


def test_importance_finds_what_matters() -> None:
    spec = spec_of()
    rows = rows_of(spec, 30)
    found = find_importances(spec, rows)
    assert next(iter(found)) == "alpha" and found["alpha"] > 0.8
    assert "dropout" not in found  # never varied
    assert sum(found.values()) == pytest.approx(1.0)
    assert find_importances(spec, rows) == found
    assert find_importances(spec, rows[:3]) == {}
