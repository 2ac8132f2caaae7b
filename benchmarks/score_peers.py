"""Peers of `benchmarks.score`, on the product's own network.

Stock Keras and `ray_data_pattern` are what the documentations show. `loop`, `ray_data` and `onnx`
are by somebody who knows the libraries: they decode with Pillow on every core and write a Parquet
table of paths and probabilities. The first two run the bundle's OpenVINO graph at the same
precision, one stream a core; `onnx` runs the same network in ONNX Runtime in float32 (extra
`bench`), converted before its clock starts.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BATCH = 32
Timed = dict[str, float]
_LOOP_BATCH = 4  # of 1, 2, 4, 8 and 32 the fastest, or as fast
_ONNX_BATCH = 8
_RAY_BATCH, _RAY_BLOCKS_A_CORE = 16, 4


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


def time_keras(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """Stock Keras: `image_dataset_from_directory` and `model.predict`."""
    started = time.perf_counter()
    import keras

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

    class Clock(keras.callbacks.Callback):
        """Notes when the last batch was done."""

        last = 0.0

        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            self.last = time.perf_counter()

    network.predict(files.take(1), verbose=0)
    loaded = time.perf_counter()
    clock = Clock()
    count = len(network.predict(files, verbose=0, callbacks=[clock]))
    return {
        "images_per_s": count / (clock.last - loaded),
        "startup_s": loaded - started,
        "waited_s": time.perf_counter() - clock.last,
    }


def time_ray_data_pattern(
    images: Path, model: Path, size_px: int, precision: str, out: Path
) -> Timed:
    """Ray Data's documented pattern: `read_images`, `map_batches` with a class, `write_parquet`."""
    from orchestrator.cluster.session import open_session
    from orchestrator.config.specs import Resources

    class Predictor:
        def __init__(self) -> None:
            import keras

            self.network = keras.saving.load_model(model / "model.keras", compile=False)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            pixels = batch["image"][..., None]
            return {
                "path": batch["path"],
                "probability": self.network.predict_on_batch(pixels)[:, 0],
            }

    with open_session(Resources()):
        import ray

        def run(folder: Path, target: str) -> None:
            data = ray.data.read_images(
                str(folder), size=(size_px, size_px), mode="L", include_paths=True
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
    # Its actor loads the model again in each run: that start-up, a batch included, is left out.
    return {"images_per_s": (count - BATCH) / (seconds - startup), "startup_s": startup}


def read_pixels(file: Any, size_px: int) -> Any:
    """Decodes an image file to grey pixels, uint8 [S, S]."""
    with Image.open(file) as image:
        grey = image.convert("L").resize((size_px, size_px), Image.Resampling.BILINEAR)
        return np.asarray(grey)


def compile_graph(model: Path, size_px: int, precision: str, num_threads: int, batch: int) -> Any:
    """Compiles the graph of a bundle for images of a fixed batch size."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(model / "openvino.xml")
    graph.reshape([batch, size_px, size_px])
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": num_threads,
        "INFERENCE_NUM_THREADS": num_threads,
        "ENABLE_CPU_PINNING": False,  # two processes of one thread each would share the first core
    }
    compiled = core.compile_model(graph, "CPU", settings)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != precision:
        raise SystemExit(f"asked for {precision}; OpenVINO computes in {used} on this CPU")
    return compiled


def probabilities(logits: Any) -> Any:
    """Returns the probabilities of logits [N, 1]."""
    return 1 / (1 + np.exp(-logits[:, 0]))


def time_loop(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """OpenVINO's own asynchronous queue, fed by a pool of threads that decode."""
    import openvino

    cores = os.cpu_count() or 1
    started = time.perf_counter()
    compiled = compile_graph(model, size_px, precision, cores, _LOOP_BATCH)
    files = [str(path) for path in sorted(images.rglob("*.jpeg"))]
    files = files[: len(files) // _LOOP_BATCH * _LOOP_BATCH]
    found: dict[int, Any] = {}

    def keep(request: Any, number: int) -> None:
        found[number] = np.array(request.get_output_tensor(0).data)

    queue = openvino.AsyncInferQueue(compiled, 2 * cores)
    queue.set_callback(keep)
    queue.start_async(np.zeros((_LOOP_BATCH, size_px, size_px), np.uint8), -1)
    queue.wait_all()
    loaded = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        decoding = pool.map(lambda file: read_pixels(file, size_px), files)
        for number in range(len(files) // _LOOP_BATCH):
            queue.start_async(np.stack(list(islice(decoding, _LOOP_BATCH))), number)
        queue.wait_all()
        logits = np.concatenate([found[number] for number in range(len(found) - 1)])
        table = pa.table({"path": files, "probability": probabilities(logits)})
        pq.write_table(table, f"{out}/predictions.parquet")
        seconds = time.perf_counter() - loaded
    return {"images_per_s": len(files) / seconds, "startup_s": loaded - started}


def write_onnx(model: Path, path: Path) -> None:
    """Converts a bundle's network: images float32 [N, S, S, 1] -> logits float32 [N, 1]."""
    import keras
    import onnx
    import tensorflow as tf
    import tf2onnx

    from orchestrator.model.network import logit_model

    network = logit_model(keras.saving.load_model(model / "model.keras", compile=False))
    signature = [tf.TensorSpec(network.input_shape, tf.float32, name="images")]
    function = tf.function(lambda images: network(images, training=False), signature)
    converted, _ = tf2onnx.convert.from_function(function, signature, opset=17)
    # What it captured that is no weight, as the mean of a Normalization, comes out as an input.
    captured = {
        placeholder.name: value.numpy()
        for value, placeholder in function.get_concrete_function().graph.captures
        if value.dtype != tf.resource
    }
    for given in [each for each in converted.graph.input if each.name in captured]:
        converted.graph.input.remove(given)
        constant = onnx.numpy_helper.from_array(captured[given.name], given.name)
        converted.graph.initializer.append(constant)
    onnx.save(converted, path)


def time_onnx(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """ONNX Runtime in a pool of threads that each decode and predict batches of their own."""
    import onnxruntime

    network = out / "network.onnx"
    command = "import sys; from pathlib import Path; from benchmarks.score_peers import write_onnx"
    subprocess.run(
        [sys.executable, "-c", f"{command}; write_onnx(*map(Path, sys.argv[1:]))", model, network],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(files: list[str]) -> Any:
        pixels = np.stack([read_pixels(file, size_px) for file in files])
        return session.run(None, {name: pixels[..., np.newaxis].astype(np.float32)})[0]

    files = [str(path) for path in sorted(images.rglob("*.jpeg"))]
    batches = [files[start : start + _ONNX_BATCH] for start in range(0, len(files), _ONNX_BATCH)]
    predict(batches[0])
    loaded = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        logits = np.concatenate([*pool.map(predict, batches)])
    table = pa.table({"path": files, "probability": probabilities(logits)})
    pq.write_table(table, f"{out}/predictions.parquet")
    return {
        "images_per_s": len(files) / (time.perf_counter() - loaded),
        "startup_s": loaded - started,
    }


class Predictor:
    """Decodes and predicts batches of files, on one core."""

    def __init__(self, model: Path, size_px: int, precision: str) -> None:
        self.size_px = size_px
        self.compiled = compile_graph(model, size_px, precision, 1, _RAY_BATCH)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import io

        pixels = np.stack([read_pixels(io.BytesIO(each), self.size_px) for each in batch["bytes"]])
        count = len(pixels)
        padded = np.pad(pixels, ((0, _RAY_BATCH - count), (0, 0), (0, 0)))
        logits = self.compiled([padded])[0][:count]
        return {"path": batch["path"], "probability": probabilities(logits)}


def time_ray_data(images: Path, model: Path, size_px: int, precision: str, out: Path) -> Timed:
    """Ray Data with an actor a core that decodes and predicts: no pixels pass the object store."""
    from orchestrator.cluster.session import open_session
    from orchestrator.config.specs import Resources

    cores = os.cpu_count() or 1
    with open_session(Resources()):
        import ray

        def run(paths: list[str], target: str) -> None:
            blocks = min(_RAY_BLOCKS_A_CORE * cores, len(paths))
            data = ray.data.read_binary_files(
                paths,
                include_paths=True,
                override_num_blocks=blocks,
                ray_remote_args={"num_cpus": 0.1},
            )
            data.map_batches(
                Predictor,
                fn_constructor_args=(model, size_px, precision),
                batch_size=_RAY_BATCH,
                compute=ray.data.ActorPoolStrategy(size=cores),
                num_cpus=0.7,
            ).write_parquet(target)

        files = [str(path) for path in sorted(images.rglob("*.jpeg"))]
        few = files[: cores * _RAY_BATCH]
        started = time.perf_counter()
        run(few, f"{out}/few")
        startup = time.perf_counter() - started
        started = time.perf_counter()
        run(files, f"{out}/all")
        seconds = time.perf_counter() - started
        count = ray.data.read_parquet(f"{out}/all").count()
    # Its actors load the network again in each run: that start-up, some batches included, is left
    # out.
    return {"images_per_s": (count - len(few)) / (seconds - startup), "startup_s": startup}
