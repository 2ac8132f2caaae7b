"""The process of a trial on images: a Ray Train run of its own, watched epoch by epoch.

For networks whose backbone is trained too. The process itself needs no CPU; how many run at a
time is bounded by the workers that fit the cluster, so that none waits for workers that never come.
"""

import json
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from orchestrator.cluster.live_loop import LiveTask, fit_network
from orchestrator.cluster.release import Task, load_parts
from orchestrator.cluster.session import Session
from orchestrator.cluster.trainer import run_training
from orchestrator.cluster.tune_trial import SCORE, describe_error
from orchestrator.data.source import IngestedSource
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.objectives import OBJECTIVES, higher_is_better
from orchestrator.run_dir import RunDir
from orchestrator.spec import TrainSpec, TuneSpec

_POLL_S = 0.2


@dataclass(frozen=True)
class LiveSearch:
    """What the process of a live trial needs; pickled.

    Args:
        spec: the search.
        dataset: the images.
        run: folder of the search; trials have folders below it.
        splits: tables of rows to train on and choose by, one a fold.
        backbone: the exported backbone.
        session: size of a trial's workers and their number.
    """

    spec: TuneSpec
    dataset: IngestedSource
    run: Path
    splits: tuple[Path, ...]
    backbone: Path
    session: Session


def train_live(
    search: LiveSearch,
    name: str,
    fold: int,
    trained: TrainSpec,
    judged: str | None = None,
) -> dict[str, Any]:
    """Trains one configuration on one fold, going on where an interrupted one was.

    Args:
        search: the search.
        name: of the training's folder.
        fold: which of the search's folds.
        trained: the configuration, alpha and lr as numbers.
        judged: a split of the fold's table whose logits are wanted too.

    Returns:
        `history`, `best_epoch` and `logits` of "val" and of `judged`.
    """
    run = live_run(search, name)
    if not run.splits.exists():
        run.splits.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(search.splits[fold], run.splits)
        shutil.copytree(search.backbone.parent, run.backbone.parent)
    task = Task(
        spec=trained,
        run=run.path,
        bundle=run.path,
        num_shards=search.dataset.num_shards,
        alpha=float(trained.alpha),
        lr=float(trained.lr),
        num_threads=search.session.threads_per_worker,
        fingerprint="",
        counts={},
        audit={},
        samples=None,
    )
    config = {"live": LiveTask(task, search.dataset), "judged": judged}
    found: dict[str, Any] = run_training(
        _train,
        config,
        run.checkpoints / "network",
        search.session.num_workers,
        search.session,
        lambda: None,
    )
    return found


def live_run(search: LiveSearch, name: str) -> RunDir:
    """Returns the folder of one training of a search."""
    return RunDir(search.run / "_live" / name)


def _train(config: dict[str, Any]) -> dict[str, Any]:
    """The loop of the Ray Train run."""
    worker, history, best_epoch = fit_network(config["live"])
    if worker.rank:
        return {}
    logits: dict[str, Any] = {}
    if config["judged"]:
        from orchestrator.cluster.live_loop import trained_network

        found, parts = trained_network(worker), load_parts(RunDir(config["live"].task.run))
        # The judged rows are kept as the test part of the table.
        logits = {name: found.logits(parts[name]).tolist() for name in ("val", config["judged"])}
    return {"history": history, "best_epoch": best_epoch, "logits": logits}


class LiveTrial(Trainable):
    """Watches the trainings of one configuration, fold after fold; a step is one epoch of a fold.

    With several folds the objective after each epoch is the mean over the folds begun.
    """

    def setup(self, config: dict[str, Any], search: LiveSearch) -> None:
        """Starts the first training in a thread."""
        self._search = search
        self._config = config
        self._began = time.perf_counter()
        self._told: list[float] = []
        self._found: list[dict[str, Any]] = []
        self._error: str | None = None
        self._thread = threading.Thread(target=self._train_all, daemon=True)
        self._thread.start()

    def _train_all(self) -> None:
        try:
            for fold in range(len(self._search.splits)):
                trained = live_spec(self._search.spec, self._config, fold)
                found = train_live(self._search, self._name(fold), fold, trained)
                self._found.append(found)
        except Exception as error:
            # Whatever a configuration does wrong is the trial's result, not the search's end.
            cause = error.__cause__ if isinstance(error, OrchestratorError) else None
            self._error = describe_error(cause or error)

    def _name(self, fold: int) -> str:
        return f"{self._config['number']:05d}-{fold}"

    def step(self) -> dict[str, Any]:
        """Waits for the next epoch, or for the end."""
        while True:
            finished = not self._thread.is_alive()
            rows = self._rows()
            if finished and self._error:
                return {"error": self._error, "done": True}
            if finished or sum(map(len, rows)) > len(self._told):
                return self._describe(rows, finished)
            time.sleep(_POLL_S)

    def _rows(self) -> list[list[dict[str, float]]]:
        """History of each fold begun."""
        found = []
        for fold in range(len(self._search.splits)):
            path = live_run(self._search, self._name(fold)).history
            if path.exists():
                found.append(json.loads(path.read_text(encoding="utf-8")))
        return found

    def _describe(self, rows: list[list[dict[str, float]]], finished: bool) -> dict[str, Any]:
        name, mode = OBJECTIVES[self._search.spec.objective]
        best = max if mode == "max" else min
        epochs = len(self._told) + 1 if not finished else sum(map(len, rows))
        while len(self._told) < epochs:
            left, values = len(self._told) + 1, []
            for history in rows:
                seen, left = history[:left], left - len(history)
                if seen:
                    values.append(best(row[name] for row in seen))
                if left <= 0:
                    break
            self._told.append(sum(values) / len(values))
        sign = 1.0 if higher_is_better(self._search.spec.objective) else -1.0
        out_of_time = time.perf_counter() - self._began > self._config["seconds_left"]
        if finished:
            values = [
                row["history"][row["best_epoch"] - 1][name] for row in self._found
            ]
            self._told[-1] = sum(values) / len(values)
        return {
            SCORE: sign * self._told[-1],
            "values": values,
            "history": list(self._told),
            "best_epochs": [found["best_epoch"] for found in self._found],
            "startup_s": None,
            "seconds": time.perf_counter() - self._began,
            "finished": finished,
            "done": finished or out_of_time,
        }


def live_spec(spec: TuneSpec, config: Mapping[str, float], fold: int) -> TrainSpec:
    """Returns the training of one configuration on one fold."""
    from orchestrator.cluster.tune import build_train_spec

    return build_train_spec(spec, config, seed=spec.seed + fold)
