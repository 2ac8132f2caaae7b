import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from orchestrator.model.backbones import build_backbone
from orchestrator.model.fit import compile_model
from orchestrator.model.network import HEAD_LAYERS, build_network
from orchestrator.model.slices import batch_counts, worker_slice
from orchestrator.model.steps import KerasStep
from tests.model.worker_run import FINETUNE_EPOCHS, HEAD_EPOCHS

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="several workers need TensorFlow"
)
NUM_EPOCHS = HEAD_EPOCHS + FINETUNE_EPOCHS


def run_workers(
    folder: Path,
    size: int,
    dropout: float,
    backbone: str = "tiny",
    size_px: int = 32,
    num_shares: int = 0,
) -> list[SimpleNamespace]:
    """Runs a group of worker processes and returns what each of them saved."""
    sockets = [socket.socket() for _ in range(size)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    workers = []
    for rank in range(size):
        group = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        command = [sys.executable, "-m", "tests.model.worker_run"]
        workers.append(
            subprocess.Popen(
                [
                    *(*command, str(folder / f"{size}-{rank}.npz"), str(dropout)),
                    *(backbone, str(size_px), str(num_shares)),
                ],
                env={**os.environ, "TF_CONFIG": json.dumps(group)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [worker.communicate(timeout=200)[1] for worker in workers]
    for worker, error in zip(workers, errors, strict=True):
        assert worker.returncode == 0, error[-3000:]
    found = []
    for rank in range(size):
        with np.load(folder / f"{size}-{rank}.npz") as stored:
            arrays = {name: stored[name] for name in stored.files if name != "described"}
            found.append(SimpleNamespace(weights=arrays, **json.loads(str(stored["described"]))))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("workers")
    return SimpleNamespace(one=run_workers(folder, 1, 0.3)[0], two=run_workers(folder, 2, 0.3))


def test_two_workers_train_as_one_does(runs: SimpleNamespace) -> None:
    one, two = runs.one, runs.two[0]
    assert [row["epoch"] for row in one.history] == list(range(1, NUM_EPOCHS + 1))
    for ours, theirs in zip(one.history, two.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert one.best_epoch == two.best_epoch
    # The training moved every weight that it may, so that equality says something.
    assert max(np.abs(one.weights[f"{NUM_EPOCHS}/0"] - one.weights["0/0"]).flat) > 1e-3
    assert one.weights.keys() == two.weights.keys()
    for name, array in one.weights.items():
        np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_workers_hold_equal_weights_and_figures_after_every_epoch(runs: SimpleNamespace) -> None:
    first, second = runs.two
    assert first.history == second.history
    for name, array in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], array, err_msg=name)


def test_a_frozen_backbone_keeps_its_weights_bit_for_bit(runs: SimpleNamespace) -> None:
    one = runs.one
    assert one.trainable_in_head == 2 * len(HEAD_LAYERS)
    num_weights = sum(name.startswith("0/") for name in one.weights)
    for index in range(num_weights - 2 * len(HEAD_LAYERS)):
        np.testing.assert_array_equal(
            one.weights[f"{HEAD_EPOCHS}/{index}"], one.weights[f"0/{index}"]
        )


def test_fine_tuning_leaves_batch_normalization_alone(runs: SimpleNamespace) -> None:
    names = [w.path for w in build_network(build_backbone("tiny", "none", 32), 0.0).weights]
    norms = [index for index, name in enumerate(names) if name.startswith("norm_")]
    assert len(norms) == 12
    for index in range(len(names) - 2 * len(HEAD_LAYERS)):
        same = (runs.one.weights[f"{NUM_EPOCHS}/{index}"] == runs.one.weights[f"0/{index}"]).all()
        assert same == (index in norms), names[index]


def test_averaged_weights_are_what_is_kept(runs: SimpleNamespace) -> None:
    best = runs.one.best_epoch
    assert best >= HEAD_EPOCHS + 2  # the first epoch of fine-tuning is not a candidate
    kept, raw = runs.one.weights["end/0"], runs.one.weights[f"{best}/0"]
    assert 0 < np.abs(kept - raw).max() < 0.1


@pytest.mark.slow
def test_two_workers_train_an_efficientnet_as_one_does(tmp_path: Path) -> None:
    """Its stochastic depth is off while it is frozen, and drawn alike where it is fine-tuned."""
    one, again, two = (run_workers(tmp_path, n, 0.2, "EfficientNetB0", 64)[0] for n in (1, 1, 2))
    for name, array in one.weights.items():
        np.testing.assert_array_equal(again.weights[name], array, err_msg=name)
    # Of 21 images that hardly differ in their logits, rounding turns a pair round: no AUROC.
    for ours, theirs in zip(one.history, two.history, strict=True):
        for name in ("loss", "val_loss", "val_log_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name
    for name, array in one.weights.items():
        np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_batches_cut_into_shares_give_the_same_weights_for_any_number_of_workers(
    tmp_path: Path, runs: SimpleNamespace
) -> None:
    one, two, three = (run_workers(tmp_path, size, 0.3, num_shares=3)[0] for size in (1, 2, 3))
    for other in (two, three):
        for row, expected in zip(other.history, one.history, strict=True):
            assert row == pytest.approx(expected, abs=1e-7)
        for name, array in one.weights.items():
            np.testing.assert_array_equal(other.weights[name], array, err_msg=name)
    for name, array in runs.one.weights.items():
        np.testing.assert_allclose(one.weights[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_the_step_is_keras_own_also_on_a_short_batch() -> None:
    from orchestrator.model.multiworker import DistributedStep, Group

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 32, 32, 1)).astype(np.uint8)
    labels = rng.integers(0, 2, (21, 1)).astype(np.float32)

    def trained(distributed: bool) -> tuple[dict[str, float], list[np.ndarray], np.ndarray]:
        model = build_network(build_backbone("tiny", "none", 32, seed=1), 0.0, seed=1)
        model.trainable = True
        for layer in model.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        model = compile_model(model, lr=0.001, alpha=0.3, gamma=2.0, seed=0)
        step = DistributedStep(Group(), model, 8, 21) if distributed else KerasStep(model, 8)
        batches = [(images[s : s + 8], labels[s : s + 8]) for s in (0, 8, 16)]
        logs = step.train_epoch(iter(batches))
        return logs, model.get_weights(), step.predict(images)

    ours, stock = trained(True), trained(False)

    assert ours[0] == pytest.approx(stock[0], abs=1e-6)
    for a, b in zip(ours[1], stock[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[2], stock[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_probabilities_that_rounded_to_their_labels_leave_weights_finite(gamma: float) -> None:
    from orchestrator.model.multiworker import DistributedStep, Group

    model = build_network(build_backbone("tiny", "none", 32, seed=1), 0.0, seed=1)
    model.get_layer("logit").set_weights([np.full((32, 1), 1e3, "f4"), np.zeros(1, "f4")])
    model = compile_model(model, lr=0.001, alpha=0.3, gamma=gamma, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1)).astype(np.uint8)
    step = DistributedStep(Group(), model, 8, 8)
    logits = step.predict(images)
    assert np.abs(logits).min() > 60
    saturated = (logits > 0).astype(float)
    for labels in (saturated, 1 - saturated):
        logs = step.train_epoch(iter([(images, labels[:, None].astype(np.float32))]))
        assert np.isfinite(logs["loss"])
        assert all(np.isfinite(array).all() for array in model.get_weights())


def test_wrong_number_of_batches() -> None:
    from orchestrator.model.multiworker import DistributedStep, Group

    model = build_network(build_backbone("tiny", "none", 32), 0.0)
    model = compile_model(model, lr=0.001, alpha=0.3, gamma=2.0, seed=0)
    step = DistributedStep(Group(), model, 8, 21)
    batch = (np.zeros((8, 32, 32, 1), np.uint8), np.zeros((8, 1), np.float32))
    with pytest.raises(ValueError, match="shorter"):
        step.train_epoch(iter([batch]))


@pytest.mark.parametrize(("num_workers", "num_shares"), [(1, 0), (2, 0), (3, 0), (7, 0), (3, 4)])
@pytest.mark.parametrize("num_rows", [0, 1, 8, 13])
def test_slices_share_out_every_row_once(num_rows: int, num_workers: int, num_shares: int) -> None:
    slices = [worker_slice(num_rows, rank, num_workers, num_shares) for rank in range(num_workers)]
    assert [row for s in slices for row in range(s.start, s.stop)] == list(range(num_rows))
    each = -(-num_rows // (num_shares or num_workers))
    most = -(-(num_shares or num_workers) // num_workers)
    assert all(s.stop - s.start <= each * most for s in slices)


def test_batch_counts() -> None:
    assert batch_counts(45, 8) == [8, 8, 8, 8, 8, 5]
    assert batch_counts(16, 8) == [8, 8]
    assert batch_counts(0, 8) == []
