from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import choose_threshold
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.paired import below_best
from orchestrator.evaluation.report.comparison import (
    Contender,
    build_comparison,
    render_comparison_html,
)
from orchestrator.evaluation.report.ensemble import build_ensemble
from tests.evaluation.report.test_comparison import LABELS, MODELS, PATIENTS, contender

RUN = {"run_id": "r1", "started_at": "now"}


def member(threshold: float, *probabilities: float) -> Contender:
    """A model of four images, each a patient of its own, the same on both splits."""
    rows = LabelledRows(np.arange(4), np.array([0, 0, 1, 1], np.int8), np.array(list("abcd")))
    given = np.array(probabilities, np.float32)
    report = {"threshold": threshold, "model": {"num_parameters": 10, "num_trainable": 2}}
    cost = {"features_s": 1.5, "images_per_s": 20.0, "training_s": 2.0}
    both = ("validation", "test")
    return Contender(
        "tiny", "focal", report, dict.fromkeys(both, rows), dict.fromkeys(both, given), cost
    )


def test_a_mean_and_a_vote_by_hand() -> None:
    first = member(0.5, 0.2, 0.6, 0.4, 0.8)
    second = member(0.3, 0.4, 0.2, 0.2, 0.6)
    mean = build_ensemble([first, second], "mean", "youden", 0)
    np.testing.assert_allclose(mean.probabilities["test"], [0.3, 0.4, 0.3, 0.7], atol=1e-6)
    # Half-way between the two highest: one of two found, no false alarm.
    assert mean.report["threshold"] == pytest.approx(0.55)
    vote = build_ensemble([first, second], "vote", "youden", 0)
    np.testing.assert_array_equal(vote.probabilities["test"], [0.5, 0.5, 0.0, 1.0])
    # Of a tie PNEUMONIA: both of the first two are false alarms.
    assert vote.report["threshold"] == 0.5
    assert vote.report["test"]["confusion"] == {"tn": 0, "fp": 2, "fn": 1, "tp": 1}
    assert vote.report["test"]["metrics"]["auroc"]["value"] == 0.5


def test_it_costs_what_its_members_cost_together() -> None:
    pair = [member(0.5, 0.2, 0.6, 0.4, 0.8), member(0.3, 0.4, 0.2, 0.2, 0.6)]
    found = build_ensemble(pair, "mean", "0.5", 0)
    assert found.cost == {"features_s": 3.0, "images_per_s": 10.0, "training_s": 4.0}
    assert found.report["model"] == {"weights": None, "num_parameters": 20, "num_trainable": 4}
    pair[1] = replace(pair[1], cost={**pair[1].cost, "images_per_s": None})
    assert build_ensemble(pair, "mean", "0.5", 0).cost["images_per_s"] is None


@pytest.mark.parametrize("how", ["mean", "vote"])
def test_it_is_judged_compared_and_shown_as_the_others_are(how: str) -> None:
    found = build_ensemble(MODELS, how, "sensitivity@0.9", 7)
    threshold = 0.5
    if how == "mean":
        chosen = choose_threshold(LABELS, found.probabilities["validation"], "sensitivity@0.9")
        threshold = chosen.value
    for split in ("validation", "test"):
        expected = evaluate(LABELS, found.probabilities[split], threshold, PATIENTS, seed=7)
        assert found.report[split] == expected.as_dict()
    area = found.report["test"]["metrics"]["auroc"]["value"]
    assert area == pytest.approx(roc_auc_score(LABELS, found.probabilities["test"]))
    contenders = [*MODELS, found]
    recipe = {"threshold": "sensitivity@0.9", "ensemble": how, "finetune": "all"}
    report = build_comparison(contenders, recipe=recipe, run=RUN, seed=0)
    row = report["rows"][-1]
    assert row["backbone"] == f"ensemble ({how})"
    assert row["members"] == [model.backbone for model in MODELS]
    assert row["metrics"] == found.report["test"]["metrics"]
    # It may be the best itself: then the others are paired with it.
    given = [model.probabilities["test"] for model in contenders]
    best, differences = below_best(LABELS, given, PATIENTS, seed=0)
    assert report["against_best"] == [
        {
            "backbone": contenders[place].backbone,
            "best": contenders[best].backbone,
            "loss": "focal",
            "auroc": difference.as_dict(),
        }
        for place, difference in differences.items()
    ]
    html = render_comparison_html(report, contenders)
    assert html.count(f"ensemble ({how})") >= 4  # figures, curves, difference and cost
    assert "3 backbones, each fine-tuned under the same head" in html
    assert "starts from no weights (random)" in html
    assert report["notes"][0].startswith("The ensemble") and report["notes"][0] in html.replace(
        "&#39;", "'"
    )


def test_trainings_of_one_seed_make_an_ensemble_of_that_seed() -> None:
    first = replace(member(0.5, 0.2, 0.6, 0.4, 0.8), repeats=(member(0.5, 0.0, 0.2, 0.6, 1.0),))
    second = replace(member(0.3, 0.4, 0.2, 0.2, 0.6), repeats=(member(0.3, 0.2, 0.0, 0.4, 0.6),))
    found = build_ensemble([first, second], "mean", "youden", 0)
    expected = ([0.3, 0.4, 0.3, 0.7], [0.1, 0.1, 0.5, 0.8])
    for training, probabilities in zip(found.trainings, expected, strict=True):
        np.testing.assert_allclose(training.probabilities["test"], probabilities, atol=1e-6)
    assert found.thresholds == pytest.approx([0.55, 0.3])


def test_models_of_other_images_make_no_ensemble() -> None:
    other = contender("tiny", 1.0, 5)
    rows = other.rows["validation"]
    moved = {**other.rows, "validation": replace(rows, rows=rows.rows + 1)}
    with pytest.raises(DataError, match="measured on other validation images"):
        build_ensemble([MODELS[0], replace(other, rows=moved)], "mean", "youden", 0)
