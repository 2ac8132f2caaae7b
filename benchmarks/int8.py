"""Networks in int8 against their float32 ones: images/s, and how far the logits are.

Each backbone with the paper's head, untrained but for what comes with a package (speed does not
depend on weights), is quantised by NNCF (extra `int8`) on some X-rays. Both networks then compute
the same others in turn, in blocks; the table gives the median ratio of a block's times, and the
root mean square of the logits' difference over their standard deviation. What a trained model
loses is told by `orchestrator quantize`. Where a network has swish, which int8 leaves as it is, a
third one has a ReLU in its place, which costs next to nothing: what int8 could gain at most.

    python -m benchmarks.int8
    python -m benchmarks.int8 --backbones EfficientNetB5 --size 456 --images 40
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.score import SOURCE, make_bundle


def cpu_name() -> str:
    """Returns the CPU's name, and how it can compute in int8."""
    from orchestrator.model.engine.openvino import int8_arithmetics

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    ways = ", ".join(int8_arithmetics())
    return f"{names[0] if names else 'unknown CPU'} ({ways}), {len(names)} cores"


def load_images(source: Path, size_px: int, count: int) -> Any:
    """Returns X-rays spread over a folder, uint8 [count, size_px, size_px]."""
    from orchestrator.data.decode.images import Limits, decode

    files = sorted(source.rglob("*.jpeg"))
    if not files:
        sys.exit(f"no X-rays under {source}; name a folder with --source")
    chosen = [files[place * len(files) // count] for place in range(count)]
    return np.stack([decode(path.read_bytes(), size_px, Limits()).pixels for path in chosen])


def write_without_swish(quantized: Path, target: Path) -> bool:
    """Writes an IR with a ReLU for every swish; returns whether there was one."""
    import openvino

    model = openvino.Core().read_model(quantized)
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Swish"]
    for node in found:
        node.output(0).replace(openvino.opset13.relu(node.input_value(0)).output(0))
    openvino.save_model(model, target, compress_to_fp16=False)
    return bool(found)


def measure(
    backbone: str, size_px: int, images: Any, block: int
) -> tuple[float, float, float, float]:
    """Returns images/s in float32, how many times as many int8 computes, and the difference.

    The last value is how many times as many int8 would compute without swish; not a number where
    there is none.

    Args:
        backbone: its name.
        size_px: height and width of the images.
        images: uint8 [N, size_px, size_px]; every other one gives the ranges.
        block: images that one network computes before the other one does.
    """
    from orchestrator.model.engine.openvino import openvino_engine
    from orchestrator.model.engine.quantize import quantize_ir

    with tempfile.TemporaryDirectory() as scratch:
        model, quantized = Path(scratch, "model"), Path(scratch, "int8.xml")
        without = Path(scratch, "without.xml")
        make_bundle(model, backbone, size_px)
        quantize_ir(model / "openvino.xml", quantized, images[::2])
        engines = [
            openvino_engine(model / "openvino.xml", None, "f32"),
            openvino_engine(quantized, None, "int8"),
        ]
        if write_without_swish(quantized, without):
            engines.append(openvino_engine(without, None, "int8"))
        others = images[1::2]
        for engine in engines:
            engine.logits(others[:block])
        logits: list[list[Any]] = [[] for _ in engines]
        took: list[list[float]] = [[] for _ in engines]
        for start in range(0, len(others), block):
            for place, engine in enumerate(engines):
                began = time.perf_counter()
                logits[place].append(engine.logits(others[start : start + block]))
                took[place].append(time.perf_counter() - began)
    f32, int8 = (np.concatenate(found) for found in logits[:2])
    difference = float(np.sqrt(np.mean((f32 - int8) ** 2)) / f32.std())
    ratios = [
        statistics.median(one / other for one, other in zip(took[0], times, strict=True))
        for times in took[1:]
    ]
    at_most = ratios[1] if len(ratios) > 1 else float("nan")
    return block / statistics.median(took[0]), ratios[0], difference, at_most


def main() -> None:
    """Prints the table, a row as soon as it is known."""
    from orchestrator.model.backbones import REGISTRY, sizes_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", default="all", help="separated by commas")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--source", type=Path, default=SOURCE)
    options = parser.parse_args()
    names = list(REGISTRY) if options.backbones == "all" else options.backbones.split(",")
    images = load_images(options.source, options.size, options.images)
    print(
        f"{options.size} px, {len(images) // 2} X-rays in blocks of {options.block}, {cpu_name()}"
    )
    print(f"{'':<20}{'f32 images/s':>14}{'int8 / f32':>12}{'difference':>12}{'no swish':>12}")
    for name in names:
        if sizes_of(name).min_px > options.size:
            continue
        speed, *others = measure(name, options.size, images, options.block)
        row = "{:>12.2f}{:>12.3f}{:>12.2f}".format(*others)
        print(f"{name:<20}{speed:>14.1f}{row}", flush=True)


if __name__ == "__main__":
    main()
