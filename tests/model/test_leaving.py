"""A training that leaves in the middle of an epoch, and goes on with batches cut as before."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from orchestrator.cluster.worker_context import Leave, never
from orchestrator.model.fit import ArrayBatches, Fit, FitConfig, compile_model
from orchestrator.model.network import build_head

NUM_TRAIN, BATCH, EPOCHS = 21, 4, 3  # six steps an epoch, the last one short
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="several workers need TensorFlow"
)


class Told:
    """Tells the worker to leave at its calls of some numbers, one call a step."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.count = calls, 0

    def __call__(self) -> bool:
        self.count += 1
        return self.count in self.calls


def build_fit(leaving: Callable[[], bool], num_shares: int = 0) -> Fit:
    from orchestrator.model.multiworker import DistributedStep, Group

    model = compile_model(build_head(8, 0.3, seed=1), lr=0.01, alpha=0.4, gamma=2.0, seed=0)
    step = DistributedStep(Group(), model, BATCH, NUM_TRAIN, 5, num_shares, leaving)
    return Fit(model, step, FitConfig(EPOCHS, EPOCHS))


def run(fit: Fit, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    rng = np.random.default_rng(2)
    labels = (rng.random(NUM_TRAIN) < 0.5).astype(np.int8)
    views = rng.normal(size=(1, NUM_TRAIN, 8)).astype(np.float32) + labels[:, None]
    return fit.run(ArrayBatches(views, labels, BATCH, 3), views[0], labels, rows.append)


def test_a_training_that_left_midway_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    calm = build_fit(never)
    expected = run(calm, [])
    left, rows = build_fit(Told(8)), []
    with pytest.raises(Leave):
        run(left, rows)
    assert (left.state.epoch, left.state.part.steps) == (1, 3)  # one step after it was told
    left.save(tmp_path)

    again = build_fit(Told(3, 9))  # at the last steps of that epoch and of all
    again.load(tmp_path)
    with pytest.raises(Leave):
        run(again, rows)
    assert (again.state.epoch, again.state.part.steps) == (2, 0)
    assert run(again, rows) == rows == expected  # there was nothing left to leave
    for ours, theirs in zip(again.model.get_weights(), calm.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_shares_of_a_batch_add_up_to_it() -> None:
    whole, cut = build_fit(never), build_fit(never, num_shares=3)
    expected, found = run(whole, []), run(cut, [])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for ours, theirs in zip(cut.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
