"""The process of a trial on images: a Ray Train run of its own, watched epoch by epoch.

For networks whose backbone is trained too. The process itself needs no CPU; how many run at a time
is bounded by the workers that the cluster holds, so that none waits for workers that never come.
"""

import json
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune import Trainable

from orchestrator.cluster.ray_train import run_training
from orchestrator.cluster.worker_context import WorkerContext
from orchestrator.config.specs import TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.source import IngestedSource
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.calibration import fit_calibration
from orchestrator.evaluation.objectives import OBJECTIVES
from orchestrator.pipelines.train.live_loop import fit_network, trained_network
from orchestrator.pipelines.train.task import TrainingTask
from orchestrator.pipelines.tune.cached_trial import SCORE, describe_error
from orchestrator.pipelines.tune.space import build_train_spec
from orchestrator.runs.atomic import atomic_folder, atomic_path
from orchestrator.runs.run_dir import RunDir

_POLL_S = 0.2


@dataclass(frozen=True)
class LiveSearch:
    """What the process of a live trial needs; pickled.

    Args:
        spec: the search.
        dataset: the images.
        folder: of the trials' own folders.
        splits: table of the rows to train on, to choose by ("val"), and held out ("test").
        backbone: folder of the exported backbone.
        session: workers of one trial.
    """

    spec: TuneSpec
    dataset: IngestedSource
    folder: Path
    splits: Path
    backbone: Path
    session: Session


def train_live(
    search: LiveSearch, name: str, config: Mapping[str, float], *, judge: bool = False
) -> dict[str, Any]:
    """Trains one configuration on images; an interrupted training goes on.

    Args:
        search: the search.
        name: of the training's folder, which is removed when it has ended.
        config: its settings.
        judge: return calibrated probabilities of the held-out rows too.

    Returns:
        `history`, `best_epoch`, and `probabilities` [n] where asked for.
    """
    run = RunDir(search.folder / name)
    if not run.splits.exists():
        if not run.backbone.parent.exists():
            with atomic_folder(run.backbone.parent) as temporary:
                shutil.copytree(search.backbone, temporary, dirs_exist_ok=True)
        with atomic_path(run.splits) as temporary:
            shutil.copyfile(search.splits, temporary)
    spec = build_train_spec(search.spec, config)
    task = TrainingTask(
        spec=spec,
        run=run.path,
        alpha=config["alpha"],
        lr=float(spec.lr),
        num_threads=search.session.threads_per_worker,
    )
    found: dict[str, Any] = run_training(
        _train,
        (task, search.dataset, judge),
        run.checkpoints / "network",
        (search.session.num_workers,) * 2,
        search.session,
        lambda: None,
        lambda line: None,
    )
    shutil.rmtree(run.path, ignore_errors=True)  # checkpoints are large
    return found


def _train(
    worker: WorkerContext, task: TrainingTask, dataset: IngestedSource, judge: bool
) -> dict[str, Any]:
    """What each worker of the training does."""
    live, history, best_epoch = fit_network(worker, task, dataset)
    found: dict[str, Any] = {"history": history, "best_epoch": best_epoch}
    if judge and not worker.rank:
        trained, parts = trained_network(live), live.parts
        calibration = fit_calibration(trained.logits(parts["val"]), parts["val"].labels)
        found["probabilities"] = calibration.apply(trained.logits(parts["test"]))
    return found


class LiveTrial(Trainable):
    """Watches the training of one configuration; a step is one epoch."""

    def setup(self, config: dict[str, Any], search: LiveSearch) -> None:
        """Starts the training in a thread."""
        self._search = search
        self._config = config
        self._began = time.perf_counter()
        self._seen = 0
        self._rows: list[dict[str, float]] = []
        self._found: dict[str, Any] = {}
        self._error: str | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    @property
    def _run_name(self) -> str:
        return f"{self._config['number']:05d}"

    def _train(self) -> None:
        try:
            self._found = train_live(self._search, self._run_name, self._config)
        except Exception as error:
            # Whatever a configuration does wrong is the trial's result, not the search's end.
            known = isinstance(error, OrchestratorError)
            self._error = str(error) if known else describe_error(error)

    def step(self) -> dict[str, Any]:
        """Waits for the next epoch, or for the end."""
        history = RunDir(self._search.folder / self._run_name).history
        while self._thread.is_alive():
            if len(self._rows) > self._seen + 1:  # the last one comes with the end
                return self._describe()
            try:
                self._rows = json.loads(history.read_text(encoding="utf-8"))
            except FileNotFoundError:
                time.sleep(_POLL_S)
                continue
            time.sleep(_POLL_S)
        if self._error:
            return {"error": self._error, "done": True}
        self._rows = self._found["history"]
        return self._describe()

    def _describe(self) -> dict[str, Any]:
        self._seen += 1
        name, mode = OBJECTIVES[self._search.spec.objective]
        values = [row[name] for row in self._rows[: self._seen]]
        best = np.maximum if mode == "max" else np.minimum
        history = [float(value) for value in best.accumulate(values)]
        best_epoch = int(np.argmax(values) if mode == "max" else np.argmin(values)) + 1
        finished = bool(self._found) and self._seen == len(self._rows)
        if finished:
            # Fine-tuning takes one of its last epochs, which need not be the best of all.
            best_epoch = self._found["best_epoch"]
            history[-1] = values[best_epoch - 1]
        seconds = time.perf_counter() - self._began
        return {
            SCORE: history[-1] if mode == "max" else -history[-1],
            "values": [history[-1]],
            "history": history,
            "best_epochs": [best_epoch],
            "startup_s": None,
            "seconds": seconds,
            "finished": finished,
            "done": finished or seconds > self._config["seconds_left"],
        }
