"""The rule of a verdict, case by case."""

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.evaluation.verdict import ENDPOINTS, Endpoint, Grounds, decide

EVEN = (0.0, -0.01, 0.01, -0.012)  # value, low, high, gain_low


def grounds(**given: Any) -> Grounds:
    """Two models that are alike, with some differences in place of theirs, at a margin of 0.02."""
    names = ("value", "low", "high", "gain_low")
    ends = {
        name: Endpoint(**dict(zip(names, given.pop(name, EVEN), strict=True))) for name in ENDPOINTS
    }
    plain = {"is_same": False, "margin": 0.02, "superiority": 0.0, "endpoints": ends}
    return Grounds(**plain | {"unusable": [], "worse_groups": []} | given)


BETTER = (0.03, 0.01, 0.05, 0.008)
OPEN = (0.0, -0.03, 0.03, -0.035)


@pytest.mark.parametrize(
    ("given", "word", "reason"),
    [
        ({"auroc": BETTER}, "promote", "better: AUROC +0.030"),
        ({"balanced_accuracy": BETTER}, "promote", "better: balanced accuracy +0.030"),
        # Its 95% interval leaves out 0, the one of 97.5% does not
        ({"auroc": (0.02, 0.001, 0.04, -0.001)}, "undecided", "not shown to be better"),
        ({"auroc": BETTER, "superiority": 0.01}, "undecided", "better by more than 0.01"),
        (
            {"auroc": BETTER, "sensitivity": (0.0, -0.02, 0.02, -0.03)},
            "undecided",
            "could be worse",
        ),
        ({"auroc": BETTER, "specificity": OPEN}, "undecided", "worse by 0.02 or more: specificity"),
        # Worse, and by less than the margin: that was stated beforehand
        ({"auroc": BETTER, "sensitivity": (-0.01, -0.015, -0.005, -0.016)}, "promote", "better"),
        ({"auroc": BETTER, "sensitivity": (-0.02, -0.03, -0.01, -0.04)}, "keep", "worse: sensitiv"),
        ({"auroc": (-0.02, -0.03, -0.01, -0.04)}, "keep", "worse: AUROC −0.020"),
        ({}, "keep", "neither AUROC nor balanced accuracy is better by 0.02 or more"),
        ({"auroc": OPEN}, "undecided", "could be worse by 0.02 or more: AUROC +0.000"),
        ({"auroc": BETTER, "worse_groups": ["Sex female"]}, "undecided", "worse: Sex female"),
        ({"worse_groups": ["Sex female"]}, "keep", "neither"),
        ({"auroc": BETTER, "unusable": ["few"]}, "undecided", "few"),
        ({"auroc": BETTER, "is_same": True, "unusable": ["few"]}, "keep", "the same bundle"),
    ],
)
def test_each_case(given: dict[str, Any], word: str, reason: str) -> None:
    found = decide(grounds(**given))
    assert found.word == word
    assert reason in "; ".join(found.reasons)


def test_grounds_without_a_figure_are_refused() -> None:
    whole = grounds().model_dump()
    del whole["endpoints"]["sensitivity"]
    with pytest.raises(ValidationError, match="expected the endpoints auroc, sensitivity"):
        Grounds.model_validate(whole)
    assert Grounds.model_validate(whole | {"endpoints": {}, "unusable": ["few"]})
