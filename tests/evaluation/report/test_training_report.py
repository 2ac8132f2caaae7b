import html
import json
import re

import numpy as np

from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.report.training_report import (
    build_training_report,
    render_training_html,
)

LABELS = np.array([0, 1] * 20)
PROBABILITIES = np.clip(np.linspace(0, 0.6, 40) + 0.3 * LABELS, 0, 1)
EXAMPLE = {"splits": ["train", "test"], "paths": ["train/<a>.jpeg", "test/b.jpeg"], "bits": 3}
AUDIT = {
    "same_patient": 0,
    "same_bytes": 2,
    "near_duplicate": 9,
    "possible": 170,
    "blocking": False,
    "examples": {"same_patient": [], "near_duplicate": [EXAMPLE] * 9},
}


def build(with_test=True, audit=AUDIT):
    evaluation = evaluate(LABELS, PROBABILITIES, 0.4, num_resamples=20)
    report = build_training_report(
        history=[
            {"epoch": 1, "loss": 0.5, "val_loss": 0.6, "accuracy": 0.7, "lr": 0.01},
            {"epoch": 2, "loss": 0.4, "val_loss": 0.5, "accuracy": 0.8, "lr": 0.003},
        ],
        best_epoch=2,
        splits={
            "val": {"NORMAL": 268, "PNEUMONIA": 775},
            "train": {"NORMAL": 1073, "PNEUMONIA": 3100, "no label": 0, "patients": 2276},
            "unused": {"NORMAL": 8, "PNEUMONIA": 8, "no label": 0, "patients": 16},
        },
        audit=audit,
        validation=evaluation,
        test=evaluation if with_test else None,
        threshold=Threshold(0.4, "sensitivity@0.9"),
        calibration=Calibration(1.5, -0.25),
        model={"backbone": "tiny"},
        recipe={"lr": 0.01, "alpha": "auto"},
        run={"run_id": "train-<1>"},
    )
    assert report == json.loads(json.dumps(report, allow_nan=False))
    columns = (LABELS, PROBABILITIES)
    page = render_training_html(report, columns, columns if with_test else None)
    visible = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page.replace("</", " </"))))
    return report, page, visible


def test_page_holds_every_part():
    report, page, visible = build()
    assert report["validation"]["metrics"]["auroc"] == report["test"]["metrics"]["auroc"]
    assert report["calibration"] == {"slope": 1.5, "intercept": -0.25}
    for text in (
        "Research use only",
        "weights of epoch 2 kept",
        "Training 1,073 3,100 4,173 74.3%",
        "Total 1,341 3,875 5,216 74.3%",
        "Identical files in more than one split 2",
        "such as train/<a>.jpeg (train), test/b.jpeg (test)",
        "16 more images are in no split",
        "170",
        "Loss",
        "Accuracy",
        "Validation: 40 images",
        "Test: 40 images",
        "highest specificity with a sensitivity of at least 0.9",
        "sigmoid(1.5 × logit + -0.25)",
        "alpha auto",
        "train-<1>",
    ):
        assert text in visible, text
    assert visible.index("Training 1,073") < visible.index("Validation 268")
    assert page.count("<svg") >= 12
    assert "<script" not in page and "<a>" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_without_test_images_the_page_says_so():
    report, _, visible = build(with_test=False)
    assert report["test"] is None
    assert "No test images" in visible
    assert "Test: " not in visible


def test_blocking_leakage_is_said():
    _, _, visible = build(audit={**AUDIT, "blocking": True})
    assert "the metrics below flatter the model" in visible
    assert "None of this counts as proven leakage" not in visible
