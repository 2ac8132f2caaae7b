"""Scoring, end to end, against stock Keras, Ray Data's pattern and the bare engine.

All four score the same JPEG files with the same B5 (random weights: speed does not depend on them),
in turn, in one run; the table gives medians and ratios. Start-up (Ray, imports, loading the model)
is left out of all four and shown apart.

    python -m benchmarks.score --images 1000 --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent.parent.parent / "shared" / "data" / "fullres"
BATCH = 32


def make_images(source: Path, folder: Path, count: int) -> None:
    """Copies X-rays, over and over, into the class folders of a new folder."""
    files = sorted(source.rglob("*.jpeg"))
    if not files:
        sys.exit(f"no X-rays under {source}; name a folder with --source")
    for index in range(count):
        path = files[index % len(files)]
        target = folder / path.parent.name / f"{index:06d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def make_bundle(folder: Path, backbone: str, size_px: int) -> None:
    """Writes a bundle of an untrained network."""
    from orchestrator.data.schema import CLASS_NAMES
    from orchestrator.model import bundle
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.network import build_network

    weights = "offline" if backbone == "efficientnet-lite0" else "none"
    network = build_network(build_backbone(backbone, weights, size_px), 0.2)
    info = bundle.BundleInfo(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        class_names=CLASS_NAMES,
        size_px=size_px,
        backbone=backbone,
        weights=weights,
        num_parameters=network.count_params(),
        num_trainable=0,
        threshold=bundle.Operating(value=0.5, rule="fixed"),
        calibration=bundle.Calibration(),
        metrics={},
        data=bundle.TrainingData(fingerprint="", counts={}),
        training={},
        seed=0,
        versions={},
    )
    bundle.write_bundle(folder, network, info)


def time_product(images: Path, model: Path, size_px: int, precision: str) -> dict[str, float]:
    """The product: decode, predict, Parquet, report."""
    from orchestrator.cluster.score import score
    from orchestrator.cluster.session import open_session
    from orchestrator.spec import Resources, ScoreSpec

    class Clock:
        """Notes when the first shard came back."""

        first = 0.0
        first_count = 0

        def say(self, line: str) -> None: ...

        def begin(self, label: str, total: int, unit: str) -> None: ...

        def advance(self, count: int) -> None:
            if not self.first:
                self.first, self.first_count = time.perf_counter(), count

        def end(self) -> None: ...

    with open_session(Resources()), tempfile.TemporaryDirectory() as out:
        clock = Clock()
        started = time.perf_counter()
        spec = ScoreSpec(input=str(images), model=str(model), out=f"{out}/run", precision=precision)
        report = score(spec, Resources(), clock).report
        ended = time.perf_counter()
    found = report["counts"]["scored"]
    # From the first shard's end on, everything is steady: its images are left out of the count.
    return {
        "images_per_s": (found - clock.first_count) / (ended - clock.first),
        "startup_s": clock.first - started,
    }


def time_keras(images: Path, model: Path, size_px: int, precision: str) -> dict[str, float]:
    """Stock Keras: `image_dataset_from_directory` and `model.predict`."""
    started = time.perf_counter()
    import keras

    if precision == "bf16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    network = keras.saving.load_model(model / "model.keras", compile=False)
    files = keras.utils.image_dataset_from_directory(
        images,
        labels=None,
        color_mode="grayscale",
        image_size=(size_px, size_px),
        batch_size=BATCH,
        shuffle=False,
        verbose=False,
    )
    network.predict(files.take(1), verbose=0)
    loaded = time.perf_counter()
    count = len(network.predict(files, verbose=0))
    return {
        "images_per_s": count / (time.perf_counter() - loaded),
        "startup_s": loaded - started,
    }


def time_ray_data(images: Path, model: Path, size_px: int, precision: str) -> dict[str, float]:
    """Ray Data's documented pattern: `read_images`, `map_batches` with a class, `write_parquet`."""
    from orchestrator.cluster.session import open_session
    from orchestrator.spec import Resources

    class Predictor:
        def __init__(self) -> None:
            import keras

            self.network = keras.saving.load_model(model / "model.keras", compile=False)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            pixels = batch["image"].mean(axis=-1, keepdims=True)
            return {
                "path": batch["path"],
                "probability": self.network.predict_on_batch(pixels)[:, 0],
            }

    with open_session(Resources()), tempfile.TemporaryDirectory() as out:
        import ray

        def run(folder: Path, target: str) -> None:
            data = ray.data.read_images(
                str(folder), size=(size_px, size_px), mode="RGB", include_paths=True
            )
            data.map_batches(
                Predictor, batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=1)
            ).write_parquet(target)

        with tempfile.TemporaryDirectory() as few:
            make_images(images, Path(few), BATCH)
            started = time.perf_counter()
            run(Path(few), f"{out}/few")
            startup = time.perf_counter() - started
        started = time.perf_counter()
        run(images, f"{out}/all")
        seconds = time.perf_counter() - started
        count = ray.data.read_parquet(f"{out}/all").count()
    # Its actor loads the model anew in each run: that start-up is left out as it is elsewhere.
    return {"images_per_s": count / max(seconds - startup, 1e-9), "startup_s": startup}


def time_engine(images: Path, model: Path, size_px: int, precision: str) -> dict[str, float]:
    """The engine alone on decoded arrays: the ceiling of the product."""
    import numpy as np

    from orchestrator.model.engine import load_engine

    count = sum(1 for _ in images.rglob("*.jpeg"))
    pixels = np.random.default_rng(0).integers(0, 256, (count, size_px, size_px), dtype=np.uint8)
    started = time.perf_counter()
    engine = load_engine(model, "openvino", os.cpu_count(), precision, batch_size=BATCH)
    engine.logits(pixels[:BATCH])
    loaded = time.perf_counter()
    engine.logits(pixels)
    return {
        "images_per_s": count / (time.perf_counter() - loaded),
        "startup_s": loaded - started,
    }


PEERS: dict[str, Callable[[Path, Path, int, str], dict[str, float]]] = {
    "product": time_product,
    "keras": time_keras,
    "ray_data": time_ray_data,
    "engine": time_engine,
}


def run_peer(peer: str, options: argparse.Namespace, images: Path, model: Path) -> dict[str, float]:
    """Times one peer in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.score", "--peer", peer, "--folder", str(images)]
    command += ["--model", str(model), "--size", str(options.size), "--precision"]
    done = subprocess.run([*command, options.precision], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{peer} failed:\n{done.stderr[-2000:]}")
    timed: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return timed


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="EfficientNetB5")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--peer", choices=PEERS, help="time this one alone and print JSON")
    parser.add_argument("--folder", type=Path, help="with --peer: the images")
    parser.add_argument("--model", type=Path, help="with --peer: the bundle")
    options = parser.parse_args()
    if options.peer:
        timed = PEERS[options.peer](options.folder, options.model, options.size, options.precision)
        print(json.dumps(timed))
        return
    with tempfile.TemporaryDirectory() as scratch:
        images, model = Path(scratch, "images"), Path(scratch, "model")
        make_images(options.source, images, options.images)
        make_bundle(model, options.backbone, options.size)
        timed_by: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
        for _ in range(options.rounds):
            for peer, timed in timed_by.items():
                timed.append(run_peer(peer, options, images, model))
    print_table(options, timed_by)


def print_table(options: argparse.Namespace, timed_by: dict[str, list[dict[str, float]]]) -> None:
    """Prints medians and the ratio of the product to each peer, paired by round."""
    print(
        f"{options.backbone} at {options.size} px, {options.precision}, {options.images} images, "
        f"{os.cpu_count()} cores, medians of {options.rounds}"
    )
    print(f"{'':<10}{'images/s':>10}{'start-up s':>12}{'product / it':>14}")
    for peer, timed in timed_by.items():
        rates = [one["images_per_s"] for one in timed]
        pairs = zip(timed_by["product"], timed, strict=True)
        ratios = [product["images_per_s"] / one["images_per_s"] for product, one in pairs]
        startup = statistics.median(one["startup_s"] for one in timed)
        print(
            f"{peer:<10}{statistics.median(rates):>10.1f}{startup:>12.1f}"
            f"{statistics.median(ratios):>14.2f}"
        )


if __name__ == "__main__":
    main()
