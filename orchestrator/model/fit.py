"""The training loop: epochs, Keras callbacks, the best epoch, state that can be resumed.

The loop is ours and the callbacks are Keras's own. What one step does to the weights is the
`Step`'s business: `KerasStep` runs on one device under any backend.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from orchestrator.model.network import focal_loss

Array = npt.NDArray[Any]
PLATEAU_FACTOR = 0.3  # the paper: "decay to 30%"
PLATEAU_PATIENCE = 1


class Batches(Protocol):
    """Training batches in an order that depends on the epoch alone."""

    def epoch(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Yields inputs [n, ...] and labels float32 [n, 1]; the last batch may be short."""


@dataclass(frozen=True)
class ArrayBatches:
    """Batches over arrays in memory, one view of each example an epoch.

    Args:
        views: float32 [num_views, num_examples, ...].
        labels: int8 [num_examples].
        batch_size: examples a batch.
        seed: order and view are functions of (seed, epoch).
    """

    views: Array
    labels: Array
    batch_size: int
    seed: int

    def epoch(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Yields the batches of one epoch; an example shows its views in turn."""
        num_views, num_examples = self.views.shape[:2]
        first_view: Array = np.random.default_rng(self.seed).integers(
            num_views, size=(num_examples,)
        )
        order = np.random.default_rng([self.seed, epoch]).permutation(num_examples)
        for start in range(0, num_examples, self.batch_size):
            chosen = order[start : start + self.batch_size]
            view = (first_view[chosen] + epoch) % num_views
            yield self.views[view, chosen], self.labels[chosen, None].astype(np.float32)


def compile_model(model: keras.Model, *, lr: float, alpha: float, gamma: float, seed: int) -> None:
    """Makes a model ready for `Fit`: Adam, focal loss, and every seed set.

    Args:
        model: a model of `build_head` or `build_network`.
        lr: learning rate.
        alpha: focal weight of PNEUMONIA.
        gamma: focal exponent.
        seed: of what is still random from here on.
    """
    keras.utils.set_random_seed(seed)
    model.compile(
        optimizer=keras.optimizers.Adam(lr),
        loss=focal_loss(alpha, gamma),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
    )
    # Built now, so that a checkpoint can be loaded before the first step.
    model.optimizer.build(model.trainable_variables)


class Step(Protocol):
    """Changes the model by one batch, and predicts with it."""

    def train_epoch(self, batches: Iterator[tuple[Array, Array]]) -> dict[str, float]:
        """Trains on every batch; returns mean `loss` and `accuracy` over the examples."""

    def predict(self, inputs: Array) -> Array:
        """Returns probabilities, float64 [n]."""


@dataclass
class KerasStep:
    """One device, any backend: Keras's own compiled step.

    Args:
        model: compiled with one metric named `accuracy`.
        batch_size: examples a prediction batch.
    """

    model: keras.Model
    batch_size: int

    def train_epoch(self, batches: Iterator[tuple[Array, Array]]) -> dict[str, float]:
        """Trains on every batch; see `Step.train_epoch`."""
        total = {"loss": 0.0, "accuracy": 0.0}
        count = 0
        for inputs, labels in batches:
            # Keras starts its metrics anew at each call, so these are the batch's own means.
            logs = self.model.train_on_batch(inputs, labels, return_dict=True)
            count += len(labels)
            for name in total:
                total[name] += float(logs[name]) * len(labels)
        return {name: value / count for name, value in total.items()}

    def predict(self, inputs: Array) -> Array:
        """Returns probabilities, float64 [n]."""
        out = self.model.predict(inputs, batch_size=self.batch_size, verbose=0)
        return np.asarray(out, np.float64)[:, 0]


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Args:
        epochs: most epochs.
        patience: epochs without a better validation AUROC before stopping.
    """

    epochs: int
    patience: int


@dataclass
class FitState:
    """What a checkpoint holds besides the model and optimizer."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Fit:
    """One training: call `run`, or `load` and then `run` to go on from a checkpoint.

    Args:
        model: compiled; ends holding the weights of its best epoch.
        step: what trains it.
        config: how long.
    """

    model: keras.Model
    step: Step
    config: FitConfig
    state: FitState = field(default_factory=FitState)

    def __post_init__(self) -> None:
        # Selection by AUROC, never by the focal loss: its scale moves with alpha and gamma.
        self._stopper = keras.callbacks.EarlyStopping(
            monitor="val_auroc",
            mode="max",
            patience=self.config.patience,
            restore_best_weights=True,
        )
        self._plateau = keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
        )
        self._callbacks = keras.callbacks.CallbackList(
            [self._stopper, self._plateau], add_history=False, model=self.model
        )
        self._callbacks.on_train_begin()

    def run(
        self,
        train: Batches,
        val_inputs: Array,
        val_labels: Array,
        on_epoch: Callable[[dict[str, float]], None],
    ) -> list[dict[str, float]]:
        """Trains until the last epoch or until validation AUROC stops rising.

        Args:
            train: training batches.
            val_inputs: [n, ...].
            val_labels: int8 [n], both classes present.
            on_epoch: called after each epoch with its row of the history; `save` is valid there.

        Returns:
            One row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_auroc,
            val_log_loss, lr.
        """
        while self.state.epoch < self.config.epochs and not self.model.stop_training:
            epoch = self.state.epoch
            self._callbacks.on_epoch_begin(epoch)
            lr = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            logs = self.step.train_epoch(train.epoch(epoch))
            logs |= self._validate(val_inputs, val_labels)
            self._callbacks.on_epoch_end(epoch, logs)
            self.state.epoch += 1
            self.state.history.append({"epoch": self.state.epoch, **logs, "lr": lr})
            on_epoch(self.state.history[-1])
        self._callbacks.on_train_end()  # EarlyStopping puts the best epoch's weights back
        return self.state.history

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, whose weights the model ends with."""
        return int(self._stopper.best_epoch) + 1

    def _validate(self, inputs: Array, labels: Array) -> dict[str, float]:
        probabilities = self.step.predict(inputs)
        targets = labels[:, None].astype(np.float32)
        losses = self.model.loss(targets, probabilities[:, None].astype(np.float32))
        return {
            "val_loss": float(keras.ops.convert_to_numpy(losses)),
            "val_accuracy": float(np.mean((probabilities >= 0.5) == (labels == 1))),
            "val_auroc": float(roc_auc_score(labels, probabilities)),
            "val_log_loss": float(log_loss(labels, probabilities, labels=[0, 1])),
        }

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer, seed, callback state and history into a folder."""
        arrays = {
            f"model/{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self._saved_model())
        }
        arrays |= {
            f"optimizer/{i}": keras.ops.convert_to_numpy(v)
            for i, v in enumerate(self.model.optimizer.variables)
        }
        arrays |= {f"best/{i}": w for i, w in enumerate(self._stopper.best_weights or [])}
        with (folder / "state.npz").open("wb") as handle:
            np.savez(handle, **arrays)
        described = {
            "epoch": self.state.epoch,
            "history": self.state.history,
            "stop_training": bool(self.model.stop_training),
            "stopper": {k: getattr(self._stopper, k) for k in _STOPPER_FIELDS},
            "plateau": {k: getattr(self._plateau, k) for k in _PLATEAU_FIELDS},
        }
        (folder / "state.json").write_text(json.dumps(described, default=float), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes up the state that `save` wrote; `run` goes on after its epoch."""
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            for i, variable in enumerate(self._saved_model()):
                variable.assign(arrays[f"model/{i}"])
            for i, variable in enumerate(self.model.optimizer.variables):
                variable.assign(arrays[f"optimizer/{i}"])
            best = [
                arrays[f"best/{i}"] for i in range(len(self.model.weights)) if f"best/{i}" in arrays
            ]
        described = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.state = FitState(described["epoch"], described["history"])
        self.model.stop_training = described["stop_training"]
        for name, value in described["stopper"].items():
            setattr(self._stopper, name, value)
        for name, value in described["plateau"].items():
            setattr(self._plateau, name, value)
        self._stopper.best_weights = best or None

    def _saved_model(self) -> list[Any]:
        """Every variable, the seeds of dropout among them."""
        return list(self.model.variables)


_STOPPER_FIELDS = ("wait", "stopped_epoch", "best", "best_epoch")
_PLATEAU_FIELDS = ("wait", "best", "cooldown_counter")
