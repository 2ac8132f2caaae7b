from typing import Any

import numpy as np
import pytest

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.shifts import SHIFTS
from orchestrator.evaluation.figures import Calibration
from orchestrator.evaluation.metrics import point_metrics
from orchestrator.pipelines.train.evidence import count_shifted, measure_shifts

CURVE = Calibration(2.0, 0.1)


def make_part(num_rows: int) -> LabelledRows:
    labels = (np.arange(num_rows) % 2).astype(np.int8)
    patients = np.array([f"p{row // 2}" for row in range(num_rows)], object)
    return LabelledRows(np.arange(num_rows) + 1000, labels, patients)


def logits_of(part: LabelledRows, shift: int = 0) -> Any:
    """A network that every further shift makes worse."""
    noise = np.random.default_rng(0).normal(0, 1, 5000)[part.rows]
    return ((2 * part.labels - 1) * 1.0 + noise * (0.5 + shift)).astype(np.float32)


def test_shifted_copies_of_some_images_are_measured_at_the_threshold() -> None:
    seen: list[LabelledRows] = []

    def shifted(part: LabelledRows) -> Any:
        seen.append(part)
        return np.stack([logits_of(part, number) for number in range(1, 1 + len(SHIFTS))])

    part = make_part(260)
    found = measure_shifts(part, logits_of(part), shifted, CURVE, 0.6, seed=1)
    assert count_shifted(part) == 200 * len(SHIFTS)
    (some,) = seen
    assert found["num_images"] == len(some) == len(set(some.rows)) == 200
    assert list(found["metrics"]) == ["none", *SHIFTS]
    assert (np.diff(some.rows) > 0).all()
    assert (some.labels == part.labels[some.rows - 1000]).all()
    for number, figures in enumerate(found["metrics"].values()):
        own = point_metrics(some.labels, CURVE.apply(logits_of(some, number)), 0.6)
        for name in ("sensitivity", "specificity", "auroc"):
            assert figures[name]["value"] == pytest.approx(own[name])
            assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]


def test_a_head_on_cached_features_sees_no_images_to_shift() -> None:
    part = make_part(20)
    found = measure_shifts(part, logits_of(part), None, CURVE, 0.5, seed=0)
    assert found == {"num_images": 0, "metrics": {}}
