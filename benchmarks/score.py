"""Scoring, end to end, against stock Keras, Ray Data's pattern and the bare engine.

All score the same JPEG files with the same untrained network (speed does not depend on weights), in
turn, each in a process of its own; the tables give medians over the rounds and the medians of the
ratios within a round. Start-up (Ray, imports, loading the model, the first call) is left out of all
and shown apart. Keras runs the model as it is saved, in float32, whatever the precision of the
product, and its clock stops at its last batch: TensorFlow's tuner of input pipelines sleeps for up
to a minute, and now and then the end of the loop waits for it. The ceiling is what the engine and
the decoder allow on the same cores, one after the other, with the seconds that the product took for
tables and report. ONNX Runtime takes part where the extra `bench` is installed.

    python -m benchmarks.score --images 1000 --rounds 5
    python -m benchmarks.score --images 1000 --rounds 5 --precision bf16
    python -m benchmarks.score --images 1000 --rounds 5 --precision int8      # needs the extra int8
    python -m benchmarks.score --images 200 --rounds 5 --size 456
    python -m benchmarks.score --images 1000 --rounds 5 --backbone efficientnet-lite0 --size 224
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
from importlib.util import find_spec
from pathlib import Path

from benchmarks import score_peers
from benchmarks.score_peers import BATCH, Timed, make_images

SOURCE = Path(__file__).parent.parent.parent / "shared" / "data" / "fullres"


def make_bundle(folder: Path, backbone: str, size_px: int) -> None:
    """Writes a bundle of an untrained network."""
    from orchestrator.data.schema import CLASS_NAMES
    from orchestrator.evaluation.figures import Calibration, Threshold
    from orchestrator.model import bundle
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.bundle_writer import write_bundle
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
        threshold=Threshold(0.5, "fixed"),
        calibration=Calibration(),
        metrics={},
        data=bundle.TrainingData(fingerprint="", counts={}),
        training={},
        seed=0,
        versions={},
    )
    write_bundle(folder, network, info)


def add_int8(model: Path, images: Path) -> None:
    """Puts an int8 network into a bundle, past the gate: an untrained network calls nothing."""
    import numpy as np

    from orchestrator.data.decode.images import Limits, decode
    from orchestrator.evaluation.figures import Calibration, Interval, Threshold
    from orchestrator.model import bundle
    from orchestrator.model.bundle_writer import copy_bundle
    from orchestrator.model.engine.openvino import openvino_engine
    from orchestrator.model.engine.quantize import LAYERS_F32, quantize_ir
    from orchestrator.model.golden import render_golden

    info = bundle.load_info(model)
    files = sorted(images.rglob("*.jpeg"))[:BATCH]
    pixels = [decode(path.read_bytes(), info.size_px, Limits()).pixels for path in files]
    with tempfile.TemporaryDirectory() as scratch:
        network = Path(scratch, bundle.INT8_FILE)
        arithmetic = quantize_ir(model / bundle.IR_FILE, network, np.stack(pixels))
        golden = network.with_name(bundle.GOLDEN_INT8_FILE)
        golden.write_text(render_golden(openvino_engine(network, None, "int8"), 0.0))
        int8 = bundle.Quantized(
            date=info.created,
            arithmetic=arithmetic,
            layers_f32=LAYERS_F32,
            num_calibration=len(files),
            threshold=Threshold(0.5, "fixed"),
            calibration=Calibration(),
            num_images=1,
            auroc_change=Interval(None),
            calls_changed=Interval(None),
            speed=1.0,
            versions={},
        )
        added = {name: network.with_name(name) for name in bundle.INT8_FILES}
        copy_bundle(model, model, info.model_copy(update={"int8": int8}), added=added)


def time_product(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """The product: decode, predict, Parquet, report."""
    from orchestrator.cluster.session import open_session
    from orchestrator.config.specs import Resources, ScoreSpec
    from orchestrator.pipelines.score.score import score

    class Clock:
        """Notes when the first shard came back and when the last one did."""

        first = last = 0.0
        first_count = 0

        def say(self, line: str) -> None: ...

        def begin(self, label: str, total: int, unit: str) -> None: ...

        def advance(self, count: int) -> None:
            if not self.first:
                self.first, self.first_count = time.perf_counter(), count

        def end(self) -> None:
            self.last = time.perf_counter()

    started = time.perf_counter()
    with open_session(Resources()):
        clock = Clock()
        count = sum(1 for _ in images.rglob("*.jpeg"))
        spec = ScoreSpec(
            input=str(images),
            model=str(model),
            out=f"{out}/run",
            precision=precision,
            shard_rows=min(256, count // 4),
        )
        report = score(spec, Resources(), clock).report
        ended = time.perf_counter()
    scored = report["counts"]["scored"] - clock.first_count
    # From the first shard's end on, everything is steady: its images are left out of the count, and
    # so is their share of the tables.
    tables_s = (ended - clock.last) * scored / report["counts"]["scored"]
    return {
        "images_per_s": scored / (clock.last - clock.first + tables_s),
        "startup_s": clock.first - started,
        "tables_s": ended - clock.last,
    }


def time_engine(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """The engine alone on decoded arrays, and the machine's rate of matrix products."""
    import numpy as np

    from orchestrator.model.engine.load import load_engine

    count = sum(1 for _ in images.rglob("*.jpeg"))
    pixels = np.random.default_rng(0).integers(0, 256, (count, size_px, size_px), dtype=np.uint8)
    started = time.perf_counter()
    engine = load_engine(model, "openvino", os.cpu_count(), precision)
    engine.logits(pixels[:BATCH])
    loaded = time.perf_counter()
    engine.logits(pixels)
    images_per_s = count / (time.perf_counter() - loaded)
    return {
        "images_per_s": images_per_s,
        "startup_s": loaded - started,
        "gflop": count_operations(model) / 1e9,
        "peak_gflop_per_s": measure_peak(precision) / 1e9,
    }


def count_operations(model: Path) -> int:
    """Returns the multiplications and additions of one image's convolutions and dense layers."""
    import math

    import openvino

    network = openvino.Core().read_model(model / "openvino.xml")
    size_px = network.input(0).partial_shape[1].get_length()
    network.reshape([1, size_px, size_px])
    count = 0
    for node in network.get_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        weights = list(node.input(1).get_shape())
        outputs = math.prod(node.output(0).get_shape())
        if kind == "MatMul":
            each = list(node.input(0).get_shape())[-1]
        else:  # [groups,] outputs, inputs, height, width
            each = math.prod(weights[2 if kind == "GroupConvolution" else 1 :])
        count += 2 * outputs * each
    return count


def measure_peak(precision: str) -> float:
    """Returns the operations a second of a product of large matrices, the best of ten."""
    import numpy as np
    import openvino
    from openvino import opset13

    size = 4096
    values = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    left = opset13.parameter([size, size], np.float32)
    network = openvino.Model([opset13.matmul(left, opset13.constant(values), False, False)], [left])
    hint = "f32" if precision == "int8" else precision  # int8's own peak is not measured
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": os.cpu_count()}
    request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        request.infer([values], share_inputs=True)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def time_decoder(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """The product's decoding processes alone."""
    from orchestrator.data.decode.decoders import DecoderPool
    from orchestrator.data.decode.images import Limits
    from orchestrator.data.file_decoder import FileDecoder

    files = [path.relative_to(images) for path in images.rglob("*.jpeg")]
    started = time.perf_counter()
    decoder = FileDecoder((os.fsencode(images),), size_px, Limits(), None)
    pool = DecoderPool(decoder, os.cpu_count() or 1, 60.0, size_px)
    for future in [pool.submit((0, os.fsencode(path))) for path in files[:BATCH]]:
        future.result()
    loaded = time.perf_counter()
    for future in [pool.submit((0, os.fsencode(path))) for path in files]:
        future.result()
    ended = time.perf_counter()
    pool.close()
    return {"images_per_s": len(files) / (ended - loaded), "startup_s": loaded - started}


def time_first(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """The command from a cold start to its first committed prediction, on eight images."""
    main = "from orchestrator.cli.app import main; main()"
    few, run = out / "few", out / "run"
    make_images(images, few, 8)
    words = ["score", str(few), "--model", str(model), "--precision", precision, "--out"]
    started = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-c", main, *words, str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(run.glob("_shards/part-*")) and command.poll() is None:
        time.sleep(0.01)
    first = time.perf_counter() - started
    if command.wait():
        sys.exit("the command failed")
    seconds = time.perf_counter() - started
    return {"images_per_s": 8 / seconds, "startup_s": first}


PEERS: dict[str, Callable[[Path, Path, int, str, Path], Timed]] = {
    "product": time_product,
    "keras": score_peers.time_keras,
    "loop": score_peers.time_loop,
    "onnx": score_peers.time_onnx,
    "ray_data": score_peers.time_ray_data,
    "ray_data_pattern": score_peers.time_ray_data_pattern,
    "engine": time_engine,
    "decoder": time_decoder,
    "first": time_first,
}


OWN_GRAPH = ("loop", "ray_data")  # they compile the float32 graph, which has no int8


def run_peer(peer: str, options: argparse.Namespace, images: Path, model: Path) -> Timed:
    """Times one peer in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.score", "--peer", peer, "--folder", str(images)]
    command += ["--model", str(model), "--size", str(options.size), "--precision"]
    done = subprocess.run([*command, options.precision], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{peer} failed:\n{done.stderr[-2000:]}")
    timed: Timed = json.loads(done.stdout.strip().splitlines()[-1])
    return timed


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="EfficientNetB5")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16", "int8"))
    parser.add_argument("--source", type=Path, default=SOURCE)
    installed = [name for name in PEERS if name != "onnx" or find_spec("onnxruntime")]
    parser.add_argument("--peers", help="separated by commas; all that can run otherwise")
    parser.add_argument("--model", type=Path, help="a bundle to use; made otherwise")
    parser.add_argument("--peer", choices=PEERS, help="time this one alone and print JSON")
    parser.add_argument("--folder", type=Path, help="with --peer: the images")
    parser.add_argument("--out", type=Path, help="with --peer: a folder for what it writes")
    options = parser.parse_args()
    able = [name for name in installed if options.precision != "int8" or name not in OWN_GRAPH]
    peers = options.peers.split(",") if options.peers else able
    if unable := [name for name in peers if name not in able]:
        parser.error(f"{', '.join(unable)}: cannot run here; expected some of {', '.join(able)}")
    if options.peer:
        with tempfile.TemporaryDirectory() as scratch:
            task = (options.folder, options.model, options.size, options.precision)
            print(json.dumps(PEERS[options.peer](*task, options.out or Path(scratch))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        images, model = Path(scratch, "images"), options.model or Path(scratch, "model")
        make_images(options.source, images, options.images)
        if options.model is None:
            make_bundle(model, options.backbone, options.size)
            if options.precision == "int8":
                add_int8(model, images)
        timed_by: dict[str, list[Timed]] = {peer: [] for peer in peers}
        for _ in range(options.rounds):
            for peer, timed in timed_by.items():
                timed.append(run_peer(peer, options, images, model))
                print(f"{peer}: {timed[-1]}", file=sys.stderr, flush=True)
    print_rates(options, timed_by)
    if timed_by.keys() >= {"product", "keras", "engine", "decoder", "first"}:
        print_stages(options, timed_by)


def median(timed_by: dict[str, list[Timed]], peer: str, name: str) -> float:
    """Returns a figure's median over the rounds, not a number where the peer did not run."""
    values = [one[name] for one in timed_by.get(peer, [])]
    return statistics.median(values) if values else float("nan")


def print_rates(options: argparse.Namespace, timed_by: dict[str, list[Timed]]) -> None:
    """Prints medians and the ratio of the product to each peer, paired by round."""
    print(
        f"{options.backbone} at {options.size} px, {options.precision}, {options.images} images, "
        f"{os.cpu_count()} cores, medians of {options.rounds}"
    )
    print(f"{'':<18}{'images/s':>10}{'start-up s':>12}{'product / it':>14}")
    for peer in [name for name in PEERS if name != "first"]:
        if peer not in timed_by:
            continue
        pairs = zip(timed_by.get("product", []), timed_by[peer], strict=False)
        ratios = [product["images_per_s"] / one["images_per_s"] for product, one in pairs]
        print(
            f"{peer:<18}{median(timed_by, peer, 'images_per_s'):>10.1f}"
            f"{median(timed_by, peer, 'startup_s'):>12.1f}"
            f"{statistics.median(ratios) if ratios else float('nan'):>14.2f}"
        )


def print_stages(options: argparse.Namespace, timed_by: dict[str, list[Timed]]) -> None:
    """Prints seconds of each stage, the ceiling they allow, and the share of the machine's peak."""
    decode_s = options.images / median(timed_by, "decoder", "images_per_s")
    infer_s = options.images / median(timed_by, "engine", "images_per_s")
    tables_s = median(timed_by, "product", "tables_s")
    ceiling = options.images / (decode_s + infer_s + tables_s)
    peak = median(timed_by, "engine", "peak_gflop_per_s")
    gflop = median(timed_by, "engine", "gflop")
    print(
        f"stages, s: decode {decode_s:.1f}, inference {infer_s:.1f}, tables and report "
        f"{tables_s:.1f}; together {ceiling:.1f} images/s: "
        f"{ceiling / median(timed_by, 'keras', 'images_per_s'):.2f} x keras, "
        f"{ceiling / median(timed_by, 'engine', 'images_per_s'):.2f} x engine"
    )
    for peer in ("engine", "product", "keras"):
        share = median(timed_by, peer, "images_per_s") * gflop / peak
        print(f"share of the peak of a matrix product ({peak:,.0f} GFLOP/s), {peer}: {share:.0%}")
    print(f"first prediction of a cold command: {median(timed_by, 'first', 'startup_s'):.1f} s")


if __name__ == "__main__":
    main()
