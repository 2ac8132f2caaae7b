import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from orchestrator.evaluation.metrics import Confusion
from orchestrator.evaluation.report import plots

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 300)
PROBABILITIES = np.clip(0.25 + 0.5 * LABELS + RNG.normal(0, 0.2, 300), 0, 1)
CONFUSION = Confusion(tn=1234, fp=66, fn=7, tp=93)
HISTORY = [
    {"epoch": epoch, "loss": 1 / epoch, "accuracy": 0.9, "val_accuracy": 0.8, "lr": 10**-epoch}
    for epoch in range(1, 5)
]
DRAW = {
    "confusion": lambda name: plots.confusion_matrix(CONFUSION, name),
    "roc": lambda name: plots.roc(LABELS, PROBABILITIES, CONFUSION, name),
    "pr": lambda name: plots.precision_recall(LABELS, PROBABILITIES, CONFUSION, name),
    "histogram": lambda name: plots.histogram(PROBABILITIES, LABELS, 0.5, name),
    "unlabelled": lambda name: plots.histogram(PROBABILITIES, None, 0.9, name),
    "reliability": lambda name: plots.reliability(LABELS, PROBABILITIES, name),
    "learning": lambda name: plots.learning_curve(HISTORY, "loss", 2, name),
}


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.text]


@pytest.mark.parametrize("kind", DRAW)
def test_one_small_deterministic_element(kind):
    svg = DRAW[kind]("a")
    assert svg == DRAW[kind]("a")
    assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>")
    assert 'role="img"' in svg[:200]
    assert len(svg) < 40_000
    assert "<text" in svg  # text stays text
    root = ElementTree.fromstring(re.sub(r"xlink:", "", svg))
    assert root.tag.endswith("svg")


def test_ids_differ_between_pictures_of_a_page():
    ids = [set(re.findall(r' id="([^"]+)"', DRAW["roc"](name))) for name in ("val", "test")]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", DRAW["roc"]("val"))) <= ids[0]


def test_confusion_matrix_shows_counts_and_rates():
    shown = texts(DRAW["confusion"]("a").replace("xlink:", ""))
    assert {"1,234", "66", "7", "93"} <= set(shown)
    assert {"94.9% of NORMAL", "5.1% of NORMAL", "7.0% of PNEUMONIA"} <= set(shown)
    empty = plots.confusion_matrix(Confusion(tn=3, fp=1, fn=0, tp=0), "a")
    assert empty.count("no such label") == 2


def test_operating_point_is_named():
    svg = DRAW["roc"]("a")
    assert "sensitivity 0.930" in svg and "specificity 0.949" in svg
    assert "PPV 0.585" in DRAW["pr"]("a")


def test_curves_of_many_points_stay_small():
    labels = np.arange(100_000) % 2
    probabilities = np.random.default_rng(1).random(100_000) * 0.5 + labels * 0.3
    assert len(plots.roc(labels, probabilities, CONFUSION, "a")) < 40_000
    assert len(plots.precision_recall(labels, probabilities, CONFUSION, "a")) < 40_000


def test_learning_curve_has_a_rate_axis_and_bears_gaps():
    svg = DRAW["learning"]("a")
    for text in ("training", "validation", "learning rate", "epoch", "0.0001"):
        assert text in svg
    assert "mathdefault" not in svg
    constant = plots.learning_curve([{"epoch": 1, "loss": 0.5, "lr": 0.004}], "loss", 1, "a")
    assert "0.004" in constant


def test_histogram_of_one_class_and_of_none():
    one = plots.histogram([0.2, 0.4], [0, 0], 0.5, "a")
    assert "NORMAL" in texts(one.replace("xlink:", "")) and "threshold 0.500" in one
    assert "PNEUMONIA" not in texts(one.replace("xlink:", ""))
