"""How the trials of a search are run: heads on cached features, or whole networks on images."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.cluster.session import node_resources
from orchestrator.config.specs import Resources, TuneSpec
from orchestrator.config.workers import Session, plan_workers
from orchestrator.data.parquet import write_parquet
from orchestrator.data.source import IngestedSource
from orchestrator.pipelines.prepare.features import feature_engine, prepare_backbone
from orchestrator.pipelines.tune.cached_trial import CachedTrial
from orchestrator.pipelines.tune.data import Division, build_fold, find_store, prepare_features
from orchestrator.pipelines.tune.head_training import Fold, SearchTask
from orchestrator.pipelines.tune.held_out import Measure, Measured, measure_cached
from orchestrator.pipelines.tune.live_trial import LiveSearch, LiveTrial, train_live
from orchestrator.pipelines.tune.search import Runner
from orchestrator.progress import Reporter
from orchestrator.runs.run_dir import RunDir


@dataclass(frozen=True)
class SearchPlan:
    """How trials are run.

    Args:
        runner: runs a trial.
        concurrent: trials that fit the cluster at a time.
        measure: starts to train the configurations that are compared on the held-out fold.
        features: the packed feature set, where there is one.
    """

    runner: Runner
    concurrent: int
    measure: Measure
    features: Path | None


def plan_cached(
    spec: TuneSpec,
    dataset: IngestedSource,
    rows: pa.Table,
    names: pa.Array,
    division: Division,
    session: Session,
    run: RunDir,
    reporter: Reporter,
) -> SearchPlan:
    """One pass of the backbone; then heads on one CPU each."""
    store = find_store(run)
    features = prepare_features(spec, dataset, rows, division, store, session, reporter)
    task = SearchTask(spec, features, division.folds)
    fold = training_fold(rows, names, division)
    return SearchPlan(
        Runner(CachedTrial, {"task": task}, {"cpu": task.num_threads}, reuse=True),
        concurrent=sum(int(node.get("CPU", 0)) for node in node_resources()),
        measure=functools.partial(measure_cached, task, fold, division.held_out, reporter),
        features=features,
    )


def plan_live(
    spec: TuneSpec,
    dataset: IngestedSource,
    rows: pa.Table,
    names: pa.Array,
    division: Division,
    session: Session,
    run: RunDir,
    reporter: Reporter,
) -> SearchPlan:
    """A Ray Train run a trial; as many at a time as have all their workers at once."""
    engines = feature_engine(session) == "openvino"
    prepare_backbone(spec, run.backbone.parent, session, reporter, engines=engines)
    folder = run.live_trials
    search = LiveSearch(
        spec,
        dataset,
        folder,
        _write_division(RunDir(folder).splits, rows, names, division),
        run.backbone.parent,
        session,
    )
    each = Resources(
        cpus_per_worker=session.cpus_per_worker, gpus_per_worker=session.gpus_per_worker
    )
    fitting = plan_workers(each, node_resources()).num_workers

    def measure(configs: Mapping[str, Mapping[str, float]]) -> Callable[[], Measured]:
        found = {
            name: np.stack([train_live(search, name, config, judge=True)["probabilities"]])
            for name, config in configs.items()
        }
        return lambda: found

    return SearchPlan(
        # The process only watches: the CPUs are its workers', but Ray Tune wants a request that is
        # not empty. Ending the process ends the workers of a trial that is stopped.
        Runner(LiveTrial, {"search": search}, {"cpu": 0, "memory": 1}, reuse=False),
        concurrent=fitting // session.num_workers,
        measure=measure,
        features=None,
    )


def _write_division(final: Path, rows: pa.Table, names: pa.Array, division: Division) -> Path:
    """Writes which rows a live trial trains on; the held-out ones take the place of the test's."""
    split = np.array([{"train": "train", "val": "val"}.get(name) for name in names.to_pylist()])
    split[division.held_out] = "test"
    stored = rows.select(["row", "label", "patient_id"])
    write_parquet(final, stored.append_column("split", pa.array(split, pa.string())))
    return final


def training_fold(rows: pa.Table, names: pa.Array, division: Division) -> Fold:
    """The search's training rows with the split's own validation rows."""
    split = np.array([name or "" for name in names.to_pylist()])
    train = np.setdiff1d(np.flatnonzero(split == "train"), division.held_out)
    val = np.flatnonzero(split == "val")
    return build_fold(rows, train, val)
