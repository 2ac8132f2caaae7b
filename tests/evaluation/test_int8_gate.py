"""The gate of an int8 network: what it changes, with intervals, against hand-made logits."""

from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.int8_gate import Int8Change, measure_change
from orchestrator.evaluation.operating_point import OperatingPoint

PLAIN = OperatingPoint(Calibration(), Threshold(0.5, "youden"))
# 1,000 images of 500 patients: 498 of each class clear, one of each near the threshold and 2 wrong
LABELS = np.tile([0, 1], 500).astype(np.int8)
PATIENTS = [f"p{row // 2}" for row in range(1000)]
CLEAR = np.where(LABELS == 1, 3.0, -3.0) + np.linspace(-1, 1, 1000)


def change(int8: Any, point: OperatingPoint = PLAIN, f32: Any = CLEAR) -> Int8Change:
    return measure_change(LABELS, (f32, int8), (PLAIN, point), PATIENTS)


@pytest.mark.parametrize(("num_changed", "passes"), [(5, True), (6, False)])
def test_at_most_half_a_percent_of_the_calls_may_change(num_changed: int, passes: bool) -> None:
    f32 = CLEAR.copy()
    rows = np.arange(num_changed) * 100 + 1  # PNEUMONIA, just called so, of different patients
    f32[rows] = 0.01
    int8 = f32.copy()
    int8[rows] = -0.01
    found = change(int8, f32=f32)
    assert found.calls_changed.value == pytest.approx(num_changed / 1000)
    assert found.calls_changed.low < num_changed / 1000 < found.calls_changed.high
    assert found.auroc_change.value == 0
    assert (found.num_images, found.num_patients) == (1000, 500)
    assert found.passes is passes


@pytest.mark.parametrize(("lost", "passes"), [(0.002, True), (0.004, False)])
def test_at_most_0_002_of_auroc_may_be_lost(lost: float, passes: bool) -> None:
    int8 = CLEAR.copy()
    # One of 500 that falls below all NORMAL images, without a call that would change it alone.
    int8[np.arange(round(500 * lost)) * 2 + 1] = -10.0
    found = change(int8, OperatingPoint(Calibration(), Threshold(0.5, "youden")))
    assert found.auroc_change.value == pytest.approx(-lost)
    assert found.passes is passes


def test_no_changed_call_of_500_patients_still_has_an_upper_bound() -> None:
    found = change(CLEAR)
    assert (found.calls_changed.value, found.calls_changed.low) == (0.0, 0.0)
    # Clopper and Pearson over the 500 patients: 1 - 0.025 ** (1 / 500)
    assert found.calls_changed.high == pytest.approx(1 - 0.025 ** (1 / 500))
    assert found.passes
    assert "AUROC +0.0000, calls changed 0.00% [0.00% to 0.74%] on 1,000 images" in str(found)


def test_each_network_is_called_by_its_own_point() -> None:
    """Logits of another scale are the same calls by a curve and a threshold of their own."""
    int8 = 2 * CLEAR + 6
    assert not change(int8).passes
    own = OperatingPoint(Calibration(0.5, -3.0), Threshold(0.5, "youden"))
    assert change(int8, own).calls_changed.value == 0


def test_an_undefined_auroc_does_not_pass() -> None:
    ones = np.ones(10, np.int8)
    found = measure_change(ones, (CLEAR[:10], CLEAR[:10]), (PLAIN, PLAIN), None)
    assert found.auroc_change.value is None
    assert not found.passes
    assert "AUROC undefined" in str(found)
