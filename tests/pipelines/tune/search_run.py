"""A search over made-up features, run in a process that tests kill: folder, search, trials."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import orchestrator.cluster  # noqa: F401 - sets Ray's environment
from orchestrator.cluster.session import connect
from orchestrator.config.specs import TuneSpec
from orchestrator.pipelines.tune.cached_trial import CachedTrial
from orchestrator.pipelines.tune.head_training import Fold, SearchTask
from orchestrator.pipelines.tune.search import Runner, run_search
from orchestrator.pipelines.tune.trials import Trial, TrialLedger


def write_features(folder: Path, num_features: int = 16, num_rows: int = 200) -> Fold:
    """Packed features of two classes that overlap, and a fold of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    labels = (rng.random(num_rows) < 0.6).astype(np.int8)
    views = rng.normal(size=(2, num_rows, num_features)) + 0.3 * labels[None, :, None]
    np.save(folder / "augmented.npy", views.astype(np.float16))
    np.save(folder / "plain.npy", np.zeros((1, 0, num_features), np.float16))
    rows, cut = np.arange(num_rows), num_rows * 3 // 4
    np.savez(folder / "rows.npz", augmented=rows, plain=rows[:0])
    return Fold(rows[:cut], labels[:cut], rows[cut:], labels[cut:])


def search(
    folder: Path,
    spec: TuneSpec,
    num_features: int = 16,
    on_end: Callable[[Trial], None] = lambda trial: None,
) -> TrialLedger:
    """Runs what is left of a search in a folder; a cluster is connected."""
    features = folder / "features"
    task = SearchTask(spec, features, (write_features(features, num_features),))
    ledger = TrialLedger(folder / "trials")
    runner = Runner(CachedTrial, {"task": task}, {"cpu": 1}, reuse=True)
    concurrent = spec.max_concurrent or 2
    run_search(spec, runner, ledger, folder / "_ray", concurrent, on_end)
    return ledger


def build_spec(kind: str, trials: int) -> TuneSpec:
    """A search under the settings in which it is the same however often it is interrupted."""
    return TuneSpec(
        data="",
        views=2,
        epochs=3,
        trials=trials,
        search=kind,
        scheduler="none",
        max_concurrent=1 if kind == "tpe" else 2,
        gamma=(0.0, 1.0, 2.0),
        dropout=(0.0, 0.2),
    )


if __name__ == "__main__":
    connect(None, num_cpus=2, object_store_bytes=100 * 2**20)
    search(Path(sys.argv[1]), build_spec(sys.argv[2], int(sys.argv[3])), int(sys.argv[4]))
