"""Search the settings of a training for the price of one feature pass, and release the best.

folder -> split -> held-out fold -> features, once -> trials of heads -> the winner against the
default configuration on the held-out fold, and meanwhile the winner trained on all training rows ->
bundle.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.cluster.session import open_session
from orchestrator.config.load import dump_yaml
from orchestrator.config.specs import SEARCHED, Resources, TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation.objectives import higher_is_better
from orchestrator.evaluation.report.tuning import build_tuning_report, render_tuning_html
from orchestrator.pipelines.prepare.images import Prepared, prepare_images
from orchestrator.pipelines.train.check import check_run_folder, check_spec
from orchestrator.pipelines.train.train import train
from orchestrator.pipelines.tune.data import divide, find_store
from orchestrator.pipelines.tune.held_out import default_config, start_judging
from orchestrator.pipelines.tune.runners import SearchPlan, plan_cached, plan_live, training_fold
from orchestrator.pipelines.tune.search import run_search
from orchestrator.pipelines.tune.space import (
    build_train_spec,
    count_grid,
    find_importances,
    num_trials,
)
from orchestrator.pipelines.tune.trials import FAILED, Trial, TrialLedger, write_trials
from orchestrator.progress import Reporter, TableReporter
from orchestrator.runs.atomic import write_errors, write_json, write_text
from orchestrator.runs.folders import make_folder
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.run_dir import RunDir

_SHOWN = 5  # of the best trials, while the search lasts
_MAX_GRID = 100_000


@dataclass(frozen=True)
class TuneResult:
    """What a search made.

    Args:
        run: its folder, with `report.html`, `trials.parquet`, `best.yaml` and the bundle `model`.
        report: as in `report.json`.
    """

    run: Path
    report: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The released model."""
        return RunDir(self.run).bundle


def tune(
    spec: TuneSpec, resources: Resources, reporter: Reporter, *, run_folder: Path | None = None
) -> TuneResult:
    """Searches, compares the winner with the default, and releases the winner as a bundle.

    Args:
        spec: what to search, on what.
        resources: what to use of the cluster.
        reporter: receives every step and every trial.
        run_folder: folder of the run; `out` of the spec, or a new one under `runs/` otherwise.

    Returns:
        Where the run and its bundle are, and its report.

    Raises:
        SpecError: the spec cannot be met.
        DataError: the images cannot be trained on, leak from split to split, or no trial ended
            well.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    spec = _check(spec)
    check_inputs([spec.data])
    if spec.features == "live" and resources.workers is None:
        resources = resources.model_copy(update={"workers": 1})  # of each trial
    folder = run_folder or (Path(spec.out) if spec.out else None)
    check_run_folder(folder)
    with open_run("tune", folder, spec, resources, reporter=reporter) as opened:
        if not opened.completed:
            _tune(spec, resources, opened.run, reporter)
    return TuneResult(opened.run.path, opened.load_report())


def _check(spec: TuneSpec) -> TuneSpec:
    """Returns the spec with names in their canonical form; raises SpecError before any work."""
    if spec.features == "cached" and spec.finetune != "none":
        raise SpecError(
            f"--finetune {spec.finetune} changes the backbone in every trial; add --features live"
        )
    if spec.features == "live" and spec.folds > 1:
        raise SpecError(
            f"--folds {spec.folds} trains every network {spec.folds} times over; it is offered "
            "with --features cached"
        )
    checked = check_spec(build_train_spec(spec, dict.fromkeys(SEARCHED, 0.5)))
    if spec.search == "grid" and count_grid(spec) > _MAX_GRID:
        raise SpecError(
            f"the grid has {count_grid(spec):,} points; expected at most {_MAX_GRID:,}: give "
            "fewer values, or --search random"
        )
    names = ("backbone", "weights", "views")
    return spec.model_copy(update={name: getattr(checked, name) for name in names})


def _tune(spec: TuneSpec, resources: Resources, run: RunDir, reporter: Reporter) -> None:
    """Searches in a claimed run and leaves the report there."""
    reads, writes = [Path(spec.data), Path(spec.weights), Path(spec.backbone)], [run.path]
    if spec.features == "cached":
        writes.append(find_store(run))
        with write_errors(writes[-1]):
            make_folder(writes[-1])
    with open_session(resources, reads=reads, writes=writes) as session:
        report = _search_and_refit(spec, resources, session, run, reporter)
    write_json(run.report_json, report)
    write_text(run.report_html, render_tuning_html(report))


def _search_and_refit(
    spec: TuneSpec, resources: Resources, session: Session, run: RunDir, reporter: Reporter
) -> dict[str, Any]:
    """All steps inside an open session; returns the report."""
    prepared = prepare_images(spec, session, run, reporter)
    dataset, rows, names = prepared.dataset, prepared.rows, prepared.split
    division = divide(rows, names, spec)
    ledger = TrialLedger(run.trials)
    plan = plan_cached if spec.features == "cached" else plan_live
    searched = plan(spec, dataset, rows, names, division, session, run, reporter)
    _search(spec, searched, ledger, run, reporter)
    best = _choose(spec, ledger)
    default = default_config(training_fold(rows, names, division), spec.finetune)
    judge = start_judging(
        spec,
        {"winner": best.config, "default": default},
        LabelledRows.of(rows.take(pa.array(division.held_out))),
        searched.measure,
        run,
        reporter,
    )
    refit = _refit(spec, best, prepared, resources, run, reporter, searched.features)
    write_trials(run.trials_table, ledger.trials, SEARCHED)
    return build_tuning_report(
        trials=[vars(trial) for trial in ledger.trials],
        best=best.number,
        objective=spec.objective,
        importances=find_importances(spec, ledger.ended),
        held_out=judge(),
        refit=refit,
        splits=prepared.counts,
        recipe=spec.model_dump(mode="json", exclude={"out", "overwrite"}),
        run={
            "run_id": run.path.name,
            "started_at": run.load_status().get("running_at"),
            "search_s": max(trial.ended_s or 0.0 for trial in ledger.ended),
        },
    )


def _search(
    spec: TuneSpec, searched: SearchPlan, ledger: TrialLedger, run: RunDir, reporter: Reporter
) -> None:
    """Runs the trials that are left."""
    told = _TrialLines(spec, ledger, reporter)

    def on_end(trial: Trial) -> None:
        # A live trial that was stopped leaves its checkpoint.
        shutil.rmtree(run.live_trials / f"{trial.number:05d}", ignore_errors=True)
        told.tell(trial)

    try:
        run_search(
            spec,
            searched.runner,
            ledger,
            run.ray_results,
            max(1, min(spec.max_concurrent or searched.concurrent, searched.concurrent)),
            on_end,
        )
    finally:
        reporter.end()


class _TrialLines:
    """Says one line a trial, and keeps a table of the best on a terminal."""

    def __init__(self, spec: TuneSpec, ledger: TrialLedger, reporter: Reporter) -> None:
        self._spec = spec
        self._ledger = ledger
        self._reporter = reporter
        reporter.begin("trials", num_trials(spec), "trials")
        reporter.advance(len(ledger.ended))
        self._show()

    def tell(self, trial: Trial) -> None:
        """Says how a trial ended."""
        settings = "  ".join(f"{name} {trial.config[name]:.3g}" for name in SEARCHED)
        ending = f"{self._spec.objective} {trial.value:.4f}" if trial.value is not None else ""
        if trial.state == FAILED:
            ending = f"failed: {trial.error}"
        epochs = f"{len(trial.history)} epochs" + (" (stopped)" if trial.state == "stopped" else "")
        self._reporter.say(f"trial {trial.number:>3}  {settings}  {epochs}  {ending}")
        self._reporter.advance(1)
        self._show()

    def _show(self) -> None:
        if isinstance(self._reporter, TableReporter):
            rows = [
                (
                    str(trial.number),
                    *(f"{trial.config[name]:.3g}" for name in SEARCHED),
                    f"{trial.value:.4f}",
                )
                for trial in rank(self._spec, self._ledger)[:_SHOWN]
            ]
            self._reporter.show_table(("best", *SEARCHED, self._spec.objective), rows)


def rank(spec: TuneSpec, ledger: TrialLedger) -> list[Trial]:
    """Returns the trials that have a value, the best first, the earlier first of equals."""
    sign = -1.0 if higher_is_better(spec.objective) else 1.0
    found = [(sign * trial.value, trial) for trial in ledger.ended if trial.value is not None]
    return [trial for _, trial in sorted(found, key=lambda pair: (pair[0], pair[1].number))]


def _choose(spec: TuneSpec, ledger: TrialLedger) -> Trial:
    ranked = rank(spec, ledger)
    if not ranked:
        errors = [trial.error for trial in ledger.ended if trial.error]
        why = f"the first failed with {errors[0]}" if errors else "the time budget was over before"
        raise DataError(f"no trial succeeded: {why}; change the ranges or the budget")
    return ranked[0]


def _refit(
    spec: TuneSpec,
    best: Trial,
    prepared: Prepared,
    resources: Resources,
    run: RunDir,
    reporter: Reporter,
    features: Path | None,
) -> dict[str, Any]:
    """Trains the best configuration on all training rows and releases it; returns its report."""
    trained = build_train_spec(spec, best.config)
    name = f"{run.path.name}-best"[:60]
    write_text(run.best_spec, dump_yaml("train", name, trained, resources))
    reporter.say(f"training the best configuration, of trial {best.number}, on all training rows")
    if run.refit.success.exists():
        found: dict[str, Any] = json.loads(run.refit.report_json.read_text(encoding="utf-8"))
        return found
    # What is left of an attempt that cannot be resumed is replaced.
    given = trained.model_copy(update={"out": str(run.bundle), "overwrite": True})
    return train(
        given,
        resources,
        reporter,
        run_folder=run.refit.path,
        prepared=prepared,
        features=features,
    ).report
