from typing import Any

import pytest

from orchestrator.evaluation.report.tuning import build_tuning_report, render_tuning_html

CONFIG = {"lr": 0.001, "alpha": 0.5, "gamma": 2.0, "dropout": 0.2}


def page(difference: dict[str, Any]) -> str:
    """The page of a search whose winner differs so from the default, in every metric."""
    trials = [
        {
            "number": number,
            "state": "finished",
            "config": CONFIG | {"lr": 0.001 * (number + 1)},
            "value": 0.9 + number / 100,
            "values": [0.9],
            "history": [0.9],
            "seconds": 1.0,
            "error": None,
        }
        for number in range(2)
    ]
    metrics = {name: [0.70, 0.75, 0.83] for name in ("auroc", "auprc", "log_loss")}
    judged = {"config": CONFIG, "metrics": metrics}
    figure = {"value": 0.9, "low": None, "high": None, "note": "none, for a reason"}
    shown = ("auroc", "auprc", "accuracy", "sensitivity", "specificity", "log_loss")
    evaluation = {"num_images": 9, "metrics": dict.fromkeys(shown, figure)}
    report = build_tuning_report(
        trials=trials,
        best=1,
        objective="auroc",
        importances={},
        held_out={
            "num_images": 30,
            "num_patients": 20,
            "winner": judged,
            "default": judged,
            "difference": dict.fromkeys(metrics, difference),
        },
        refit={"best_epoch": 1, "threshold": 0.5, "validation": evaluation},
        splits={},
        recipe={},
        run={},
    )
    return render_tuning_html(report)


@pytest.mark.parametrize(
    ("difference", "claims", "note"),
    [
        (
            {"value": 0.1, "low": 0.05, "high": 0.2, "num_seeds": 3},
            {"the winner is better beyond chance": 2, "the default is better beyond chance": 1},
            "trained with 3 seeds",
        ),
        (
            {"value": 0.1, "low": 0.05, "high": 0.2},  # of an earlier version, by the first seed
            {"the winner is better on these images": 2, "the default is better on these images": 1},
            "trained once",
        ),
        (
            {"value": 0.1, "low": -0.05, "high": 0.2, "num_seeds": 3},
            {"these images do not tell them apart": 3},
            "trained with 3 seeds",
        ),
        (
            {"value": 0.0, "low": None, "high": None, "note": "none at all", "num_seeds": 3},
            {"these images do not tell them apart": 3, ">none at all<": 4},
            "trained with 3 seeds",
        ),
    ],
)
def test_a_claim_goes_as_far_as_the_seeds_behind_it(
    difference: dict[str, Any], claims: dict[str, int], note: str
) -> None:
    html = page(difference)
    for claim, times in claims.items():
        assert html.count(claim) == times, claim
    assert ("beyond chance" in html) == any("beyond chance" in claim for claim in claims)
    assert note in html
    assert html.count("0.760") >= 6  # the mean over the seeds, of both in each metric
    assert "none, for a reason" in html
