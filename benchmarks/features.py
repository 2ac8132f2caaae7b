"""The feature pass of cached training against the bare engine, on the same images.

Both compute four views of each image with the same backbone, in turn and each in a process of its
own: the engine all of them plain, the pass one plain and three augmented, and its table. Start-up
is left out.

    python -m benchmarks.features
    python -m benchmarks.features --backbone EfficientNetB5 --size 150
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VIEWS = 4
PEERS = ("engine", "light", "paper")


@dataclass
class OneShard:
    """What the pass reads of an ingested data set."""

    images: Any

    def load_table(self, shard: int) -> Any:
        """Returns the rows with their pixels."""
        import pyarrow as pa

        count = len(self.images)
        return pa.table(
            {
                "row": np.arange(count),
                "code": pa.nulls(count, pa.string()),
                "image": pa.FixedShapeTensorArray.from_numpy_ndarray(self.images),
            }
        )


def time_peer(peer: str, options: argparse.Namespace) -> float:
    """Returns the images a second of the engine, or of the pass with one recipe."""
    from orchestrator.data.phantoms import draw_phantoms
    from orchestrator.model.engine.load import load_engine
    from orchestrator.pipelines.prepare.features import FeatureStage

    drawn = draw_phantoms(options.size)
    images = np.resize(drawn, (options.images, *drawn.shape[1:]))
    cores, splits = os.cpu_count() or 1, ["train"] * options.images
    folder = options.folder
    if peer == "engine":
        engine = load_engine(folder, "openvino", cores)
        engine.predict(images[:64])
        started = time.perf_counter()
        for _ in range(VIEWS):
            engine.predict(images)
    else:
        dataset: Any = OneShard(images)
        stage = FeatureStage(dataset, splits, folder, VIEWS, 0, peer, cores, "openvino")
        stage.dataset = OneShard(images[:64])  # type: ignore[assignment]
        stage(0)
        stage.dataset = dataset
        started = time.perf_counter()
        stage(0)
    return VIEWS * options.images / (time.perf_counter() - started)


def main() -> None:
    """Prints images a second, and the ratio of the pass to the engine, paired by round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--peer", choices=PEERS, help="time this one alone and print JSON")
    parser.add_argument("--folder", type=Path, help="with --peer: the exported backbone")
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(time_peer(options.peer, options)))
        return
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.engine.export import export_backbone

    weights = "offline" if options.backbone == "efficientnet-lite0" else "none"
    with tempfile.TemporaryDirectory() as folder:
        export_backbone(build_backbone(options.backbone, weights, options.size), Path(folder))
        rates: dict[str, list[float]] = {peer: [] for peer in PEERS}
        words = ["--folder", folder, "--images", options.images, "--size", options.size]
        command = [sys.executable, "-m", "benchmarks.features", *map(str, words), "--peer"]
        for _ in range(options.rounds):
            for peer, found in rates.items():
                done = subprocess.run([*command, peer], capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{options.backbone} at {options.size} px, {VIEWS} views, {os.cpu_count()} cores, f32")
    print(f"{'':<10}{'images/s':>10}{'it / engine':>14}")
    for peer, found in rates.items():
        shares = [one / engine for one, engine in zip(found, rates["engine"], strict=True)]
        print(f"{peer:<10}{statistics.median(found):>10.1f}{statistics.median(shares):>14.2f}")


if __name__ == "__main__":
    main()
