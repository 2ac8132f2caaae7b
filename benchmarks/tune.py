"""Seconds a trial: heads on cached features, the whole network on images, and KerasTuner at both.

A trial is one training of the paper's head on a frozen backbone (random weights: speed does not
depend on them) for 20 epochs of batches of 32, every time on the same rows. Cached trials run
through the product's own search on Ray Tune, one at a time on one core, all epochs in full; trials
on images have all cores and are timed on a stated fraction of their steps. KerasTuner, where it is
installed (`pip install keras-tuner tensorboard`; it needs both), makes the same random search: its
tuner builds and fits a model each trial, on the same features and on the same images. Peers run in
turn, each in processes of its own.

    python -m benchmarks.tune --backbone EfficientNetB5 --size 150
    python -m benchmarks.tune --backbone efficientnet-lite0 --size 224
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train import MemoryStore

ROOT = Path(__file__).parent.parent
BATCH = 32
RANGES = {"lr": (1e-4, 1e-2), "alpha": (0.1, 0.9), "gamma": (0.0, 4.0), "dropout": (0.0, 0.6)}


def make_features(options: argparse.Namespace) -> dict[str, float]:
    """The feature pass that all cached trials share: seconds, and images a second."""
    from orchestrator.model.augment import augment
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.export import export_backbone
    from orchestrator.model.engine.load import load_engine

    store, rows = _store(options), np.arange(options.images)
    exported = options.folder / "backbone"
    export_backbone(build_backbone(options.backbone, "none", options.size), exported)
    engine = load_engine(exported, "openvino", options.threads)
    started = time.perf_counter()
    views = [engine.predict(store.images[rows])]
    for view in range(1, options.views):
        views.append(engine.predict(augment(store.images[rows], rows, view, 0)))
    plain = engine.predict(store.images[options.images :])
    seconds = time.perf_counter() - started
    np.save(options.folder / "augmented.npy", np.stack(views))
    np.save(options.folder / "plain.npy", plain[None])
    val = np.arange(options.images, options.images + options.val)
    np.savez(options.folder / "rows.npz", augmented=rows, plain=val)
    return {"seconds": seconds, "images_per_s": (options.views * len(rows) + len(val)) / seconds}


def time_cached(options: argparse.Namespace) -> dict[str, float]:
    """The product's search over the features."""
    from orchestrator.cluster.session import connect
    from orchestrator.config.specs import TuneSpec
    from orchestrator.pipelines.tune.cached_trial import CachedTrial
    from orchestrator.pipelines.tune.head_training import Fold, SearchTask
    from orchestrator.pipelines.tune.search import Runner, run_search
    from orchestrator.pipelines.tune.trials import TrialLedger

    connect(None, num_cpus=options.threads)
    labels, cut = _store(options).labels, options.images
    rows = np.arange(len(labels))
    fold = Fold(rows[:cut], labels[:cut], rows[cut:], labels[cut:])
    spec = TuneSpec(
        data="",
        views=options.views,
        epochs=options.epochs,
        patience=options.epochs,  # every trial in full
        batch_size=BATCH,
        trials=options.trials,
        search="random",
        scheduler="none",
    )
    task = SearchTask(spec, options.folder, (fold,))
    runner = Runner(CachedTrial, {"task": task}, {"cpu": 1}, reuse=True)
    with tempfile.TemporaryDirectory() as folder:
        ledger = TrialLedger(Path(folder) / "trials")
        run_search(spec, runner, ledger, Path(folder) / "_ray", 1, lambda trial: None)
    later = ledger.trials[1:]
    return {
        "seconds": statistics.mean(t.seconds + t.startup_s for t in later),
        "startup_s": statistics.mean(trial.startup_s for trial in later),
        "first_startup_s": ledger.trials[0].startup_s,
    }


def time_live(options: argparse.Namespace) -> dict[str, float]:
    """The product's live step on augmented images: some steps of an epoch, some of validation."""
    from orchestrator.model.live import ImageBatches, open_steps

    make_step = open_steps(1, options.threads)
    network = _network(options, {"lr": 0.001, "alpha": 0.3, "gamma": 2.0, "dropout": 0.2})
    store, count = _store(options), BATCH * options.live_steps
    step = make_step(network, BATCH, count, 0)
    rows = np.arange(count)
    batches = ImageBatches(store, rows, store.labels[rows], BATCH, 0, "paper")
    step.train_epoch(batches.epoch(0))
    step.predict(store.images[:BATCH, ..., None])
    started = time.perf_counter()
    step.train_epoch(batches.epoch(1))
    trained = time.perf_counter() - started
    started = time.perf_counter()
    step.predict(store.images[:count, ..., None])
    judged = time.perf_counter() - started
    epoch = trained * options.images / count + judged * options.val / count
    return {"seconds": options.epochs * epoch, "images_per_s": count / trained}


def time_tuner_cached(options: argparse.Namespace) -> dict[str, float]:
    """KerasTuner on the same features, all epochs in full."""
    from orchestrator.pipelines.tune.head_training import limit_process

    limit_process(1)  # one core, as the product's trials
    from orchestrator.model.fit import compile_model
    from orchestrator.model.network import build_head
    from orchestrator.pipelines.prepare.feature_set import open_features

    features, labels = open_features(options.folder), _store(options).labels
    cut, width = options.images, features.augmented.shape[-1]

    def build(settings: dict[str, float]) -> Any:
        head = build_head(width, settings["dropout"])
        rest = {name: value for name, value in settings.items() if name != "dropout"}
        return compile_model(head, seed=0, **rest)

    val = features.take(np.arange(cut, len(labels)))[0]
    ends = _run_tuner(
        build,
        options,
        options.epochs,
        np.asarray(features.augmented[0]),
        labels[:cut],
        (val, labels[cut:, None].astype(np.float32)),
    )
    return {"seconds": statistics.mean(np.diff(ends))}


def time_tuner_live(options: argparse.Namespace) -> dict[str, float]:
    """KerasTuner on images: one epoch of some steps a trial, scaled to the whole trial.

    Without augmentation and without validation images: less work than the product's live trial.
    """
    store, count = _store(options), BATCH * options.live_steps

    def build(settings: dict[str, float]) -> Any:
        network = _network(options, settings)
        network.jit_compile = False  # XLA would slow convolutions on a CPU
        return network

    images, labels = store.images[:count, ..., None], store.labels[:count]
    ends = {}
    for epochs in (1, 3):  # the difference leaves building and tracing out
        found = _run_tuner(build, options, epochs, images, labels, None, trials=2)
        ends[epochs] = found[-1] - found[-2]
    epoch = (ends[3] - ends[1]) / 2
    return {"seconds": options.epochs * epoch * options.images / count}


def _run_tuner(
    build: Any,
    options: argparse.Namespace,
    epochs: int,
    inputs: Any,
    labels: Any,
    validation: Any,
    trials: int | None = None,
) -> list[float]:
    """Runs KerasTuner's random search; returns when each trial ended."""
    import keras_tuner

    ends: list[float] = []

    def build_trial(hp: Any) -> Any:
        return build(
            {
                name: hp.Float(name, *bounds, sampling="log" if name == "lr" else "linear")
                for name, bounds in RANGES.items()
            }
        )

    class Clocked(keras_tuner.RandomSearch):  # type: ignore[misc]
        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        tuner = Clocked(
            build_trial,
            objective=keras_tuner.Objective("val_loss" if validation else "loss", "min"),
            max_trials=trials or options.trials,
            seed=0,
            directory=folder,
        )
        tuner.search(
            inputs,
            labels[:, None].astype(np.float32),
            validation_data=validation,
            epochs=epochs,
            batch_size=BATCH,
            verbose=0,
        )
    return ends


def _network(options: argparse.Namespace, settings: dict[str, float]) -> Any:
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.fit import compile_model
    from orchestrator.model.network import build_network

    network = build_network(
        build_backbone(options.backbone, "none", options.size), settings["dropout"]
    )
    return compile_model(network, seed=0, **{k: v for k, v in settings.items() if k != "dropout"})


def _store(options: argparse.Namespace) -> MemoryStore:
    return MemoryStore(options.images + options.val, options.size)


PEERS = {
    "features": make_features,
    "cached": time_cached,
    "KerasTuner, features": time_tuner_cached,
    "live": time_live,
    "KerasTuner, images": time_tuner_live,
}


def run_peer(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Times one peer in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tune", "--peer", name]
    for key in ("folder", "backbone", "size", "images", "val", "views", "epochs", "trials"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--live-steps", str(options.live_steps), "--threads", str(options.threads)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        text=True,
        capture_output=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def report(options: argparse.Namespace, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Prints the table of medians and of ratios paired by round."""
    share = BATCH * options.live_steps / (options.images * options.epochs)
    print(
        f"{options.backbone} at {options.size} px: {options.images} training and {options.val} "
        f"validation images, {options.views} views, {options.epochs} epochs, {os.cpu_count()} "
        f"cores, medians of {len(rounds)}; images: {share:.2%} of a trial's steps timed"
    )
    passes = [found["features"] for found in rounds]
    print(
        f"feature pass, once a search: {statistics.median(p['seconds'] for p in passes):.1f} s "
        f"({statistics.median(p['images_per_s'] for p in passes):.0f} images/s)"
    )
    print(f"{'':<24}{'s / trial':>12}{'/ cached':>12}{'live / it':>12}")
    for name in [name for name in rounds[0] if name != "features"]:
        times = [found[name]["seconds"] for found in rounds]
        to_cached = [found[name]["seconds"] / found["cached"]["seconds"] for found in rounds]
        of_live = [found["live"]["seconds"] / found[name]["seconds"] for found in rounds]
        row = f"{name:<24}{statistics.median(times):>12.2f}{statistics.median(to_cached):>12.2f}"
        print(f"{row}{statistics.median(of_live):>12.1f}")
    starts = [found["cached"] for found in rounds]
    print(
        "start-up of a cached trial after the first: "
        f"{statistics.median(s['startup_s'] for s in starts):.3f} s; of the first: "
        f"{statistics.median(s['first_startup_s'] for s in starts):.1f} s"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="EfficientNetB5")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--val", type=int, default=256)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--live-steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="of the features")
    parser.add_argument("--peer", choices=PEERS, help="time this one alone")
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(PEERS[options.peer](options)))
        return
    peers = list(PEERS)
    if importlib.util.find_spec("keras_tuner") is None:
        print("KerasTuner is not installed: pip install keras-tuner tensorboard")
        peers = [name for name in peers if "KerasTuner" not in name]
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        report(options, [{n: run_peer(n, options) for n in peers} for _ in range(options.rounds)])


if __name__ == "__main__":
    main()
