"""The training loop: epochs, Keras callbacks, the best epoch, state that can be resumed.

The loop is ours and the callbacks are Keras's own. What one step does to the weights is the
`Step`'s business: `KerasStep` runs on one device under any backend, `multiworker.DistributedStep`
on one or several workers under TensorFlow.

Over 300 lines, since the loop and what it saves are read together.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from orchestrator.cluster.worker_context import Leave
from orchestrator.errors import DataError
from orchestrator.evaluation.objectives import (
    TRAINING_OBJECTIVES,
    average_precision,
    calibrated_log_loss,
)
from orchestrator.model.network import focal_loss, logit_model, settle_dropout
from orchestrator.model.steps import Array, EpochPart, ModelInputs, Step

PLATEAU_FACTOR = 0.3  # the paper: "decay to 30%"
PLATEAU_PATIENCE = 1
_LOWER = 1e-4  # share of the best validation loss by which a lower one counts
_MEASURES = {"val_auprc": average_precision, "val_calibrated_log_loss": calibrated_log_loss}


class Batches(Protocol):
    """Training batches in an order that depends on the epoch alone."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yields inputs [n, ...] and labels float32 [n, 1], from batch `first`.

        The last batch may be short.
        """


@dataclass(frozen=True)
class ArrayBatches:
    """Batches over arrays in memory, one view of each example an epoch.

    Args:
        views: float32 [num_views, num_examples, ...].
        labels: int8 [num_examples].
        batch_size: examples a batch.
        seed: order and view are functions of (seed, epoch).
        places: int64 [num_examples], where in `views` each example is, where `views` holds others
            too, such as a memory-mapped feature set of any float dtype.
    """

    views: Array
    labels: Array
    batch_size: int
    seed: int
    places: Array | None = None

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yields the batches of one epoch; an example shows its views in turn."""
        num_views, num_examples = len(self.views), len(self.labels)
        first_view: Array = np.random.default_rng(self.seed).integers(
            num_views, size=(num_examples,)
        )
        order = np.random.default_rng([self.seed, epoch]).permutation(num_examples)
        for start in range(first * self.batch_size, num_examples, self.batch_size):
            chosen = order[start : start + self.batch_size]
            view = (first_view[chosen] + epoch) % num_views
            place = chosen if self.places is None else self.places[chosen]
            inputs = self.views[view, place].astype(np.float32, copy=False)
            yield inputs, self.labels[chosen, None].astype(np.float32)


def compile_model(
    network: keras.Model, *, lr: float, alpha: float, gamma: float, seed: int
) -> keras.Model:
    """Returns the model that `Fit` trains: Adam, focal loss on the logit, and every seed set.

    Args:
        network: a model of `build_head` or `build_network`.
        lr: learning rate.
        alpha: focal weight of PNEUMONIA.
        gamma: focal exponent.
        seed: of what is still random from here on.

    Returns:
        The network without its last layer, as `logit_model` gives it: training it trains the
        network.
    """
    keras.utils.set_random_seed(seed)
    settle_dropout(network)
    model = logit_model(network)
    model.compile(
        optimizer=keras.optimizers.Adam(lr),
        loss=focal_loss(alpha, gamma),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    # Built now, so that a checkpoint can be loaded before the first step.
    model.optimizer.build(model.trainable_variables)
    return model


class _RelativePlateau(keras.callbacks.ReduceLROnPlateau):  # type: ignore[misc]
    """Counts a loss as lower where it is so by a share of the best one.

    Keras's difference is absolute, and focal losses are as small as it soon.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.best is not None and np.isfinite(self.best):
            self.min_delta = _LOWER * abs(self.best)
        super().on_epoch_end(epoch, logs)


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Args:
        epochs: most epochs.
        patience: epochs without a better objective before stopping.
        plateau: lower the learning rate where the validation loss stops falling; for an optimizer
            with a constant rate.
        first_epoch: epochs, from 0, before this one are not chosen as the best.
        objective: the validation figure that chooses the best epoch, a key of
            `evaluation.objectives.TRAINING_OBJECTIVES`.
    """

    epochs: int
    patience: int
    plateau: bool = True
    first_epoch: int = 0
    objective: str = "auroc"


@dataclass
class FitState:
    """What a checkpoint holds besides the model and optimizer.

    Args:
        epoch: epochs done.
        history: one row an epoch; rows of an earlier stage of the run come first.
        part: of the epoch that has begun.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    part: EpochPart = field(default_factory=EpochPart)

    @property
    def earlier(self) -> int:
        """Epochs of earlier stages."""
        return len(self.history) - self.epoch


@dataclass
class Fit:
    """One training: call `run`, or `load` and then `run` to go on from a checkpoint.

    Args:
        model: of `compile_model`; ends holding the weights of its best epoch.
        step: what trains it.
        config: how long.
    """

    model: keras.Model
    step: Step
    config: FitConfig
    state: FitState = field(default_factory=FitState)

    def __post_init__(self) -> None:
        self._monitor, mode = TRAINING_OBJECTIVES[self.config.objective]
        self._stopper = keras.callbacks.EarlyStopping(
            monitor=self._monitor,
            mode=mode,
            patience=self.config.patience,
            restore_best_weights=True,
            start_from_epoch=self.config.first_epoch,
        )
        self._kept: list[tuple[keras.callbacks.Callback, tuple[str, ...]]] = [
            (self._stopper, ("wait", "stopped_epoch", "best", "best_epoch"))
        ]
        if self.config.plateau:
            plateau = _RelativePlateau(
                monitor="val_loss", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
            )
            self._kept.append((plateau, ("wait", "best", "cooldown_counter")))
        self._callbacks = keras.callbacks.CallbackList(
            [callback for callback, _ in self._kept], add_history=False, model=self.model
        )
        self._callbacks.on_train_begin()

    def run(
        self,
        train: Batches,
        val_inputs: ModelInputs,
        val_labels: Array,
        on_epoch: Callable[[dict[str, float]], None],
    ) -> list[dict[str, float]]:
        """Trains until the last epoch or until the objective stops getting better.

        Args:
            train: training batches.
            val_inputs: [n, ...].
            val_labels: int8 [n], both classes present.
            on_epoch: called after each epoch with its row of the history; `save` is valid there.

        Returns:
            One row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_auroc,
            val_log_loss, lr, and the objective where it is none of these.

        Raises:
            Leave: the group is to leave; within an epoch, `save` is valid once more.
        """
        while not self.done:
            on_epoch(self.run_epoch(train, val_inputs, val_labels))
            if self.step.told and not self.done:
                raise Leave
        self.finish()
        return self.state.history

    @property
    def done(self) -> bool:
        """Whether no epoch is left to train."""
        return bool(self.state.epoch >= self.config.epochs or self.model.stop_training)

    def run_epoch(
        self, train: Batches, val_inputs: ModelInputs, val_labels: Array
    ) -> dict[str, float]:
        """Trains one epoch and returns its row of the history; arguments as `run` takes them."""
        epoch = self.state.epoch
        self._callbacks.on_epoch_begin(epoch)
        part = self.state.part
        logs = self.step.train_epoch(train.epoch(self.state.earlier + epoch, part.steps), part)
        lr = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        with self._averaged():
            logs |= self._validate(val_inputs, val_labels)
            self._callbacks.on_epoch_end(epoch, logs)
        row = {"epoch": len(self.state.history) + 1, **logs, "lr": lr}
        self.state.epoch += 1
        self.state.part = EpochPart()
        self.state.history.append(row)
        return row

    def finish(self) -> None:
        """Puts the weights of the best epoch back."""
        self._callbacks.on_train_end()

    @property
    def best(self) -> float:
        """The best epoch's objective; not finite before the first epoch."""
        return float(self._stopper.best)

    @property
    def best_epoch(self) -> int:
        """The epoch, as the history numbers them, whose weights the model ends with."""
        return self.state.earlier + int(self._stopper.best_epoch) + 1

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Puts the averages of the weights in their place, where the optimizer keeps averages."""
        if not self.model.optimizer.use_ema:
            yield
            return
        variables = self.model.trainable_variables
        trained = [keras.ops.convert_to_numpy(variable) for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        for variable in variables:
            # Under JAX weight and average are one buffer now, and a step may consume either.
            variable.assign(keras.ops.convert_to_numpy(variable))
        yield
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)

    def _validate(self, inputs: ModelInputs, labels: Array) -> dict[str, float]:
        logits = self.step.predict(inputs)
        targets = labels[:, None].astype(np.float32)
        losses = self.model.loss(targets, logits[:, None].astype(np.float32))
        probabilities = expit(logits)
        if not np.isfinite(logits).all():
            raise DataError(
                f"the training diverged in epoch {self.state.epoch + 1}: its outputs are not "
                "finite; lower the learning rate"
            )
        found = {
            "val_loss": float(keras.ops.convert_to_numpy(losses)),
            "val_accuracy": float(np.mean((probabilities >= 0.5) == (labels == 1))),
            "val_auroc": float(roc_auc_score(labels, probabilities)),
            "val_log_loss": float(log_loss(labels, probabilities, labels=[0, 1])),
        }
        if self._monitor not in found:
            found[self._monitor] = _MEASURES[self._monitor](labels, probabilities)
        return found

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
            "part": asdict(self.state.part),
            "stop_training": bool(self.model.stop_training),
            "callbacks": [
                {name: getattr(callback, name) for name in names} for callback, names in self._kept
            ],
        }
        (folder / "state.json").write_text(json.dumps(described, default=float), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes up the state that `save` wrote; `run` goes on after its epoch or step."""
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            for i, variable in enumerate(self._saved_model()):
                variable.assign(arrays[f"model/{i}"])
            for i, variable in enumerate(self.model.optimizer.variables):
                variable.assign(arrays[f"optimizer/{i}"])
            best = [
                arrays[f"best/{i}"] for i in range(len(self.model.weights)) if f"best/{i}" in arrays
            ]
        described = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        part = EpochPart(**described.get("part", {}))  # none in those of an earlier version
        self.state = FitState(described["epoch"], described["history"], part)
        self.model.stop_training = described["stop_training"]
        for (callback, _), values in zip(self._kept, described["callbacks"], strict=True):
            for name, value in values.items():
                setattr(callback, name, value)
        self._stopper.best_weights = best or None

    def _saved_model(self) -> list[Any]:
        """Every variable, the seeds of dropout among them."""
        return list(self.model.variables)
