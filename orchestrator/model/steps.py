"""What one step of a training does: the interface, and Keras's own step on one device.

Several workers step together in `multiworker.py`; the loop over epochs is in `fit.py`.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt

from orchestrator.cluster.worker_context import never
from orchestrator.model.dropout_masks import DropoutMasks

Array = npt.NDArray[Any]


class ModelInputs(Protocol):
    """What a model takes, [n, ...]: an array, or something that loads its slices."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Returns consecutive examples."""


@dataclass
class EpochPart:
    """What is done of an epoch.

    Args:
        steps: its global batches.
        loss: sum over their examples.
        correct: examples that were answered right.
    """

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0


class Step(Protocol):
    """Changes the model by one batch, and predicts with it."""

    @property
    def told(self) -> bool:
        """Whether the group is to leave, as all of its workers know since the last step."""

    def train_epoch(
        self, batches: Iterator[tuple[Array, Array]], part: EpochPart | None = None
    ) -> dict[str, float]:
        """Trains on every batch; returns mean `loss` and `accuracy` over the examples.

        Args:
            batches: those that are left of the epoch.
            part: what is done of it, nothing otherwise; kept up by a step that may leave midway.

        Raises:
            Leave: the group is to leave, and batches are left.
        """

    def predict(self, inputs: ModelInputs) -> Array:
        """Returns logits, float64 [n]."""


@dataclass
class KerasStep:
    """One device, any backend: Keras's own compiled step.

    Args:
        model: compiled with one metric named `accuracy`.
        batch_size: examples a prediction batch.
        seed: of the masks of dropout.
        leaving: whether the worker is to leave; it does so between epochs.
    """

    model: keras.Model
    batch_size: int
    seed: int = 0
    leaving: Callable[[], bool] = never

    def __post_init__(self) -> None:
        self._masks = DropoutMasks(self.model, self.seed)

    @property
    def told(self) -> bool:
        """See `Step.told`."""
        return self.leaving()

    def train_epoch(
        self, batches: Iterator[tuple[Array, Array]], part: EpochPart | None = None
    ) -> dict[str, float]:
        """Trains on every batch; see `Step.train_epoch`."""
        self._masks.reseed()
        if keras.backend.backend() == "tensorflow":
            return self._train_batches(batches)
        use_ema = self.model.optimizer.use_ema
        with warnings.catch_warnings():
            # Keras warns of a generator that ends; the data decide how many batches there are.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            # One call an epoch: it reads the figures from the device at the end, not at each step.
            logs = self.model.fit(
                (batch for batch in batches), verbose=0, shuffle=False, callbacks=[_KeepWeights()]
            ).history
        self.model.optimizer.use_ema = use_ema
        return {name: float(logs[name][0]) for name in ("loss", "accuracy")}

    def _train_batches(self, batches: Iterator[tuple[Array, Array]]) -> dict[str, float]:
        """Batch by batch: TensorFlow's `fit` over a generator begins one step too many at its end,
        which changes no weight but counts for Adam and dropout, and leaves half a megabyte behind.
        """
        sums, count = {"loss": 0.0, "accuracy": 0.0}, 0
        for inputs, labels in batches:
            logs = self.model.train_on_batch(inputs, labels, return_dict=True)
            for name in sums:
                sums[name] += len(labels) * float(logs[name])
            count += len(labels)
        return {name: total / count for name, total in sums.items()}

    def predict(self, inputs: ModelInputs) -> Array:
        """Returns logits, float64 [n]."""
        found = [
            np.asarray(self.model.predict_on_batch(inputs[start : start + self.batch_size]))
            for start in range(0, len(inputs), self.batch_size)
        ]
        return np.concatenate(found).astype(np.float64)[:, 0]


class _KeepWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps Keras from putting averaged weights in place of the trained ones when `fit` ends."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model.optimizer.use_ema = False
