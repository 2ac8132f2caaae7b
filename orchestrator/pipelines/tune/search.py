"""The search: Ray Tune runs the trials, the ledger says which and remembers how they ended."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import (
    Callback,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    TuneConfig,
    TuneError,
    Tuner,
    with_parameters,
    with_resources,
)
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.config.specs import TuneSpec
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.evaluation.objectives import higher_is_better
from orchestrator.pipelines.tune.cached_trial import SCORE, describe_error
from orchestrator.pipelines.tune.space import num_trials, suggest
from orchestrator.pipelines.tune.trials import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Trial,
    TrialLedger,
)

_MAX_LOSSES = 2  # of a trial's process; with the next one the trial is given up
_ASHA_FACTOR = 3  # one trial of three goes on at each rung
_ASHA_FIRST = 10  # the first rung is at a tenth of the epochs


@dataclass(frozen=True)
class Runner:
    """What runs a trial.

    Args:
        trainable: class of Ray Tune; a step is an epoch.
        arguments: of its `setup`, shared by all trials.
        resources: of Ray, for the process of a trial.
        reuse: keep the processes of trials for later ones.
    """

    trainable: type
    arguments: Mapping[str, Any]
    resources: Mapping[str, float]
    reuse: bool


def run_search(
    spec: TuneSpec,
    runner: Runner,
    ledger: TrialLedger,
    folder: Path,
    max_concurrent: int,
    on_end: Callable[[Trial], None],
) -> None:
    """Runs every trial of the search that has not ended yet.

    Args:
        spec: the search.
        runner: runs a trial.
        ledger: trials that are known; those that end are stored in it.
        folder: for files of Ray Tune; nothing in it is needed again.
        max_concurrent: trials at a time.
        on_end: called in this process with each trial that ends.

    Raises:
        OrchestratorError: the ledger cannot be written.
        ClusterError: Ray Tune failed.
    """
    book = _Book(spec, ledger, max_concurrent, on_end)
    if not book.left():
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    shared = with_parameters(runner.trainable, **runner.arguments)
    tuner = Tuner(
        with_resources(shared, dict(runner.resources)),
        tune_config=TuneConfig(
            search_alg=_LedgerSearcher(book),
            scheduler=_build_scheduler(spec, ledger),
            num_samples=-1,  # the searcher says when there are no more
            reuse_actors=runner.reuse,
            trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}-{trial.trial_id}",
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[_LedgerCallback(book)],
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            # Of lost processes and nodes: an error of the trial itself is one of its results.
            failure_config=FailureConfig(max_failures=_MAX_LOSSES),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except TuneError as error:
        if book.error is None:
            raise ClusterError(
                f"the search failed: {describe_error(error)}; finished trials are kept: run the "
                "same command again to continue"
            ) from error
    if book.error is not None:
        raise book.error


class _Book:
    """What the searcher and the callback of one search share."""

    def __init__(
        self,
        spec: TuneSpec,
        ledger: TrialLedger,
        max_concurrent: int,
        on_end: Callable[[Trial], None],
    ) -> None:
        self.spec = spec
        self.ledger = ledger
        self.max_concurrent = max_concurrent
        self.running: dict[str, int] = {}  # Ray Tune's id -> number
        self.error: OrchestratorError | None = None
        self._on_end = on_end
        self._waiting = [trial.number for trial in ledger.trials if trial.state == RUNNING]
        self._next = max((trial.number for trial in ledger.trials), default=-1) + 1
        spent = max((trial.ended_s or 0.0 for trial in ledger.ended), default=0.0)
        self._began = time.monotonic() - spent

    def left(self) -> bool:
        """Whether a trial is to be run, and there is time for it."""
        waits = bool(self._waiting) or self._next < num_trials(self.spec)
        return waits and self.seconds_left() > 0 and self.error is None

    def seconds(self) -> float:
        """Seconds of the search so far, those before an interruption included."""
        return time.monotonic() - self._began

    def seconds_left(self) -> float:
        """Seconds of the budget; infinite without one."""
        budget = self.spec.time_budget
        return math.inf if budget is None else budget.total_seconds() - self.seconds()

    def take(self, trial_id: str) -> dict[str, Any]:
        """Decides the next trial, stores its configuration and returns it."""
        if self._waiting:
            number = self._waiting.pop(0)
        else:
            number = self._next
            self._next += 1
        known = self.ledger.get(number)
        if known is None:
            earlier = [trial for trial in self.ledger.trials if trial.number < number]
            config = suggest(self.spec, number, earlier)
            self.ledger.begin(number, config)
        else:
            config = known.config
        self.running[trial_id] = number
        return {"number": number, "seconds_left": self.seconds_left(), **config}

    def put_back(self, number: int) -> None:
        """Has a trial that did not begin run again."""
        self._waiting.append(number)

    def end(self, number: int, found: dict[str, Any], error: str | None) -> None:
        """Stores how a trial ended."""
        kept = {name: found.get(name) for name in ("startup_s", "seconds")}
        if error is None:
            kept["state"] = FINISHED if found["finished"] else STOPPED
            sign = 1.0 if higher_is_better(self.spec.objective) else -1.0
            kept["value"] = sign * found[SCORE]
            kept |= {name: tuple(found[name]) for name in ("values", "history", "best_epochs")}
        else:
            kept |= {"state": FAILED, "error": error}
        try:
            self._on_end(self.ledger.end(number, **kept, ended_s=self.seconds()))
        except OrchestratorError as failure:
            self.error = failure  # Ray Tune would make it the trial's failure and go on

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles searchers and callbacks to resume from them; the ledger is
        what this search resumes from."""
        return {}


class _LedgerSearcher(Searcher):
    """Gives Ray Tune the trials of the book, no more than `max_concurrent` at a time."""

    def __init__(self, book: _Book) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._book = book

    def suggest(self, trial_id: str) -> Any:
        """Returns a configuration, None for later, or that the search is over."""
        if not self._book.left():
            # A running trial may yet be put back.
            return None if self._book.running else Searcher.FINISHED
        if len(self._book.running) >= self._book.max_concurrent:
            return None
        try:
            return self._book.take(trial_id)
        except OrchestratorError as failure:
            self._book.error = failure
            return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Makes room for another trial."""
        self._book.running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: see `_Book.__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class _LedgerCallback(Callback):
    """Stores in the book how trials ended."""

    def __init__(self, book: _Book) -> None:
        self._book = book

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Ended by itself or by the scheduler."""
        found = trial.last_result
        self._book.end(trial.config["number"], found, found.get("error"))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process died, once too often or between the last trial and this one."""
        if trial.should_recover():
            # Ray Tune gives up a trial at once where the process that waits for it is dead.
            self._book.put_back(trial.config["number"])
            return
        failure = trial.get_error()
        reason = describe_error(failure) if failure else "the process died"
        self._book.end(trial.config["number"], {}, f"process lost: {reason}")


def _build_scheduler(spec: TuneSpec, ledger: TrialLedger) -> Any:
    """ASHA by epochs that knows the trials of an interrupted search, or none."""
    epochs = spec.epochs if spec.finetune == "none" else spec.epochs + spec.finetune_epochs
    first = max(1, epochs // _ASHA_FIRST)
    if spec.scheduler == "none" or epochs <= first:
        return FIFOScheduler()
    scheduler = AsyncHyperBandScheduler(
        metric=SCORE,
        mode="max",
        max_t=epochs,
        grace_period=first,
        reduction_factor=_ASHA_FACTOR,
    )
    sign = 1.0 if higher_is_better(spec.objective) else -1.0
    for trial in ledger.ended:
        known = SimpleNamespace(trial_id=f"ended-{trial.number}")
        scheduler.on_trial_add(None, known)
        for epoch, value in enumerate(trial.history, 1):
            result = {"training_iteration": epoch, SCORE: sign * value}
            scheduler.on_trial_result(None, known, result)
    return scheduler
