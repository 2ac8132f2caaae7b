"""The process of a trial on cached features, as Ray Tune drives it: one step is one epoch.

The process stays for the next trial, which then starts without importing TensorFlow again.
"""

import time
from typing import Any

import numpy as np
from ray.tune import Trainable

from orchestrator.evaluation.objectives import higher_is_better
from orchestrator.pipelines.prepare.feature_set import open_features
from orchestrator.pipelines.tune.head_training import HeadTraining, SearchTask, limit_process

SCORE = "score"  # the objective, its sign such that more is better


class CachedTrial(Trainable):
    """Trains a head on each fold; an error ends the trial, never the process.

    `setup` does no more than take its arguments: Ray Tune replaces a process that is still
    starting when another one falls idle, and importing TensorFlow takes seconds.
    """

    def setup(self, config: dict[str, Any], task: SearchTask) -> None:
        """Takes the first trial."""
        limit_process(task.num_threads)
        self._task = task
        self._trainings: list[HeadTraining] = []
        self._idle_since = time.perf_counter()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = config
        self._history: list[float] = []
        self._startup_s = 0.0
        self._began = 0.0

    def step(self) -> dict[str, Any]:
        """Trains one epoch on every fold."""
        try:
            found = self._epoch()
        except Exception as error:
            # Whatever a configuration does wrong is the trial's result, not the search's end.
            found = {"error": describe_error(error), "done": True}
        self._idle_since = time.perf_counter()
        return found

    def _epoch(self) -> dict[str, Any]:
        if not self._history:
            self._open()
        for training in self._trainings:
            if not training.done:
                training.run_epoch()
        values = [training.best for training in self._trainings]
        self._history.append(float(np.mean(values)))
        finished = all(training.done for training in self._trainings)
        seconds = time.perf_counter() - self._began
        out_of_time = seconds > self._config["seconds_left"]
        sign = 1.0 if higher_is_better(self._task.spec.objective) else -1.0
        return {
            SCORE: sign * self._history[-1],
            "values": values,
            "history": list(self._history),
            "best_epochs": [training.best_epoch for training in self._trainings],
            "startup_s": self._startup_s,
            "seconds": seconds,
            "finished": finished,
            "done": finished or out_of_time,
        }

    def _open(self) -> None:
        """Builds the heads, or begins again with those of the last trial; counts as start-up."""
        spec = self._task.spec
        if not self._trainings:
            features = open_features(self._task.features)
            self._trainings = [
                HeadTraining(features, fold, spec, spec.seed + index)
                for index, fold in enumerate(self._task.folds)
            ]
        for training in self._trainings:
            training.begin(self._config)
        self._began = time.perf_counter()
        self._startup_s = self._began - self._idle_since


def describe_error(error: BaseException) -> str:
    """Returns an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
