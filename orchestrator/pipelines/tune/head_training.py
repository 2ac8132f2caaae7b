"""The training of one head on one fold of a packed feature set, epoch by epoch.

Imports Keras when a training begins; the trials of a search and their judging after it use this.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from orchestrator.config.specs import SEARCHED, TuneSpec
from orchestrator.pipelines.prepare.feature_set import FeatureSet, IntArray

Array = npt.NDArray[Any]
_PREDICTED = 1024  # rows of a prediction batch, at least


@dataclass(frozen=True)
class Fold:
    """Rows to train on and rows to choose by.

    Args:
        train_rows: int64, manifest rows.
        train_labels: int8.
        val_rows: int64.
        val_labels: int8.
    """

    train_rows: IntArray
    train_labels: Array
    val_rows: IntArray
    val_labels: Array


@dataclass(frozen=True)
class SearchTask:
    """What the process of a trial needs; pickled.

    Args:
        spec: the search.
        features: folder of the packed feature set.
        folds: every trial trains on each.
        num_threads: compute threads of a trial.
    """

    spec: TuneSpec
    features: Path
    folds: tuple[Fold, ...]
    num_threads: int = 1


def limit_process(num_threads: int) -> None:
    """Gives this process its share of the machine; call it before Keras is imported.

    A head is too small to gain from a GPU, and TensorFlow would take all of its memory.
    """
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(num_threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


class HeadTraining:
    """The training of a head, which begins again with each configuration.

    Args:
        features: memory-mapped; nothing of the training rows is copied but the batch at hand.
        fold: rows.
        spec: epochs, batch size, views, patience, objective.
        seed: of weights, dropout and order.
    """

    def __init__(self, features: FeatureSet, fold: Fold, spec: TuneSpec, seed: int) -> None:
        from orchestrator.model.fit import ArrayBatches
        from orchestrator.model.reusable_head import ReusableHead

        self._spec = spec
        self._features = features
        self._fold = fold
        self._batches = ArrayBatches(
            features.augmented[: spec.views],
            fold.train_labels,
            spec.batch_size,
            seed,
            features.places(fold.train_rows),
        )
        self._val = features.take(fold.val_rows)[0]
        self._seed = seed
        self._head = ReusableHead(self._val.shape[-1], seed)

    def begin(self, config: Mapping[str, float]) -> None:
        """Begins with a configuration: lr, alpha, gamma, dropout."""
        from orchestrator.model.fit import Fit, FitConfig
        from orchestrator.model.steps import KerasStep

        spec = self._spec
        model = self._head.begin(**{name: config[name] for name in SEARCHED})
        plan = FitConfig(spec.epochs, spec.patience, objective=spec.objective)
        # Small prediction batches would cost as much as the training.
        self._fit = Fit(model, KerasStep(model, max(spec.batch_size, _PREDICTED), self._seed), plan)

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        return self._fit.done

    @property
    def best(self) -> float:
        """The objective of the best epoch so far; call it after an epoch."""
        return self._fit.best

    @property
    def best_epoch(self) -> int:
        """From 1."""
        return self._fit.best_epoch

    def run_epoch(self) -> None:
        """Trains one epoch and measures on the validation rows."""
        self._fit.run_epoch(self._batches, self._val, self._fold.val_labels)

    def run(self) -> None:
        """Trains all epochs that are left; the head then has the weights of its best epoch."""
        self._fit.run(self._batches, self._val, self._fold.val_labels, lambda row: None)

    def logits(self, rows: IntArray) -> Array:
        """Returns the logits of rows, float64 [n], in their order; call it after `begin`."""
        return self._fit.step.predict(self._features.take(rows)[0])
