import pytest

from orchestrator.evaluation.metrics import METRIC_NAMES
from orchestrator.evaluation.wording import (
    excludes_zero,
    format_difference,
    format_difference_range,
    format_figure,
    format_range,
    metric_title,
)


def bounds(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": 0.5, "low": low, "high": high}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.9999, ">0.999"),
        (1.0, "1.000"),
        (1e-5, "<0.001"),
        (0.0, "0.000"),
        (0.1234, "0.123"),
    ],
)
def test_a_figure_is_not_rounded_to_certainty(value: float | None, shown: str) -> None:
    assert format_figure(value) == shown


def test_ranges_and_differences() -> None:
    assert format_range(bounds(0.85, 0.9999)) == "0.850–>0.999"
    assert format_difference(-0.0123) == "−0.012"
    assert format_difference_range(bounds(-0.0123, 0.5)) == "−0.012 to +0.500"
    assert format_range(bounds(None, None)) == format_difference_range(bounds(None, None)) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.1, 0.1, False), (0.1, 0.2, True), (-0.2, -0.1, True), (None, None, False)],
)
def test_an_interval_leaves_out_zero(low: float | None, high: float | None, expected: bool) -> None:
    assert excludes_zero(bounds(low, high)) is expected


def test_every_metric_has_a_title_and_synonyms_share_one() -> None:
    titles = {name: metric_title(name) for name in METRIC_NAMES}
    assert titles["recall"] == titles["sensitivity"] == "Sensitivity (recall)"
    assert titles["precision"] == titles["ppv"] == "PPV (precision)"
    assert len(set(titles.values())) == len(titles) - 2
