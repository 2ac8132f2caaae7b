"""Live training against stock `keras.Model.fit`, images a second, on the same images in one run.

The network is a frozen EfficientNetB5 (random weights: speed does not depend on them) with the
paper's head and focal loss, batch 32, no augmentation on either side, so that both do the same
work. On a CPU one and two workers are timed, with the network in TensorFlow (`live`) and, as the
product does there, the frozen backbone in the scoring engine (`engine`); under
`KERAS_BACKEND=jax` one accelerator, and the cached path beside it. Rounds are interleaved; the
table gives medians and ratios paired by round.

    python -m benchmarks.train --images 320 --rounds 5
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
EPOCHS = 2  # timed, after one that compiles


class MemoryStore:
    """Decoded images in memory behind the interface of `ImageStore`."""

    def __init__(self, count: int, size_px: int) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, size_px, size_px), dtype=np.uint8)
        self.labels = (np.arange(count) % 4 > 0).astype(np.int8)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns copies of some images, uint8 [n, S, S]."""
        return self.images[rows]


def build(options: argparse.Namespace) -> Any:
    """The compiled network that every peer trains."""
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.keras import set_policy
    from orchestrator.model.fit import compile_model
    from orchestrator.model.network import build_network

    network = build_network(build_backbone(options.backbone, "none", options.size), 0.2)
    if options.precision != "f32":
        set_policy(network, options.precision)
    return compile_model(network, lr=0.001, alpha=0.257, gamma=2.0, seed=0)


def time_fit_auto(options: argparse.Namespace, store: MemoryStore) -> float:
    """Stock Keras: `fit` on arrays, compiled as Keras chooses."""
    return _time_fit(options, store, "auto")


def time_fit(options: argparse.Namespace, store: MemoryStore) -> float:
    """`fit` without XLA, which on a CPU slows convolutions: the stronger peer there."""
    import keras

    return _time_fit(options, store, keras.backend.backend() != "tensorflow")


def _time_fit(options: argparse.Namespace, store: MemoryStore, jit: Any) -> float:
    network = build(options)
    network.jit_compile = network.jit_compile if jit == "auto" else jit
    inputs, labels = store.images[..., None], store.labels[:, None].astype(np.float32)
    network.fit(inputs, labels, batch_size=options.batch, epochs=1, verbose=0)
    started = time.perf_counter()
    network.fit(inputs, labels, batch_size=options.batch, epochs=EPOCHS, verbose=0)
    return EPOCHS * len(labels) / (time.perf_counter() - started)


def time_live(options: argparse.Namespace, store: MemoryStore) -> float:
    """The product's live loop as on GPUs: every step computes the whole network."""
    make_step = _open_steps(options)
    return _time_steps(options, store, make_step, build(options))


def time_engine(options: argparse.Namespace, store: MemoryStore) -> float:
    """The product's live loop as on CPUs: the engine computes the backbone, a step the head."""
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.export import export_ir
    from orchestrator.model.engine.openvino import openvino_engine
    from orchestrator.model.live import FeatureBatches

    make_step = _open_steps(options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "backbone.xml")
        export_ir(build_backbone(options.backbone, "none", options.size), path, options.threads)
        engine = openvino_engine(path, options.threads, "f32")
    head = build_compiled_head(engine.num_outputs)
    return _time_steps(
        options, store, make_step, head, lambda batches: FeatureBatches(batches, engine.predict)
    )


def _workers() -> tuple[int, int]:
    """This process's number and how many there are, as TF_CONFIG names them."""
    described = json.loads(os.environ.get("TF_CONFIG", "{}"))
    size = len(described.get("cluster", {}).get("worker", [0]))
    return described.get("task", {}).get("index", 0), size


def _open_steps(options: argparse.Namespace) -> Any:
    from orchestrator.model.live import open_steps

    return open_steps(_workers()[1], options.threads)


def _time_steps(
    options: argparse.Namespace,
    store: MemoryStore,
    make_step: Any,
    model: Any,
    wrap: Callable[[Any], Any] = lambda batches: batches,
) -> float:
    from orchestrator.model.live import ImageBatches

    rank, size = _workers()
    rows = np.arange(len(store.labels))
    step = make_step(model, options.batch, len(rows), 0)
    images = ImageBatches(
        store, rows, store.labels, options.batch, 0, options.augmentation, rank, size
    )
    batches = wrap(images)
    step.train_epoch(batches.epoch(0))
    started = time.perf_counter()
    for epoch in range(EPOCHS):
        step.train_epoch(batches.epoch(1 + epoch))
    return EPOCHS * len(rows) / (time.perf_counter() - started)


def build_compiled_head(num_features: int) -> Any:
    """The head alone, compiled as `build` compiles the network."""
    from orchestrator.model.fit import compile_model
    from orchestrator.model.network import build_head

    head = build_head(num_features, 0.2)
    return compile_model(head, lr=0.001, alpha=0.257, gamma=2.0, seed=0)


def time_cached(options: argparse.Namespace, store: MemoryStore) -> float:
    """The head on cached features: an epoch's images a second once the features are there."""
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.keras import keras_engine
    from orchestrator.model.fit import ArrayBatches
    from orchestrator.model.steps import KerasStep

    engine = keras_engine(build_backbone(options.backbone, "none", options.size))
    features = engine.predict(store.images)[None]
    step = KerasStep(build_compiled_head(features.shape[-1]), options.batch)
    batches = ArrayBatches(features, store.labels, options.batch, 0)
    step.train_epoch(batches.epoch(0))
    started = time.perf_counter()
    for epoch in range(EPOCHS):
        step.train_epoch(batches.epoch(1 + epoch))
    return EPOCHS * len(store.labels) / (time.perf_counter() - started)


TIMED = {
    "fit": time_fit,
    "fit-auto": time_fit_auto,
    "live": time_live,
    "engine": time_engine,
    "cached": time_cached,
}


def run_peer(name: str, options: argparse.Namespace) -> float:
    """Times one peer in processes of its own; `live N` and `engine N` run N workers."""
    kind, _, number = name.partition(" ")
    workers = int(number or 1)
    threads = max(1, (os.cpu_count() or 1) // workers)
    command = [sys.executable, "-m", "benchmarks.train", "--peer", kind]
    for key in ("images", "backbone", "size", "batch", "precision", "augmentation"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--threads", str(threads)]
    addresses = [f"127.0.0.1:{_free_port()}" for _ in range(workers)]
    running = []
    for rank in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
        if workers > 1:
            environment["TF_CONFIG"] = json.dumps(task)
        running.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    outputs = [process.communicate() for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        if process.returncode:
            sys.exit(f"{name} failed:\n{errors[-2000:]}")
    return float(outputs[0][0].strip().splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="EfficientNetB5")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="f32", choices=("f32", "mixed_bfloat16"))
    parser.add_argument("--augmentation", default="none", choices=("none", "paper", "light"))
    parser.add_argument("--peers", default="", help="comma-separated; the first is the baseline")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", choices=TIMED, help="time this one alone and print its rate")
    options = parser.parse_args()
    if options.peer:
        store = MemoryStore(options.images, options.size)
        print(TIMED[options.peer](options, store))
        return
    on_cpu = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
    default = "fit,fit-auto,live 1,engine 1,engine 2,cached" if on_cpu else "fit,live 1,cached"
    peers = (options.peers or default).split(",")
    rates: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(options.rounds):
        for peer, measured in rates.items():
            measured.append(run_peer(peer, options))
    print(
        f"{options.backbone} at {options.size} px, batch {options.batch}, {options.precision}, "
        f"{options.images} images, augmentation {options.augmentation}, {os.cpu_count()} cores, "
        f"backend {os.environ.get('KERAS_BACKEND', 'tensorflow')}, medians of {options.rounds}"
    )
    print(f"{'':<10}{'images/s':>10}{'/ ' + peers[0]:>10}{'/ live 1':>10}")
    for peer, measured in rates.items():
        row = f"{peer:<10}{statistics.median(measured):>10.1f}"
        for other in (peers[0], "live 1"):
            pairs = zip(measured, rates.get(other, []), strict=False)
            ratios = [mine / its for mine, its in pairs]
            row += f"{statistics.median(ratios):>10.2f}" if ratios else f"{'':>10}"
        print(row)


if __name__ == "__main__":
    main()
