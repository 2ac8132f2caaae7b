"""Inference: uint8 grey images in, logits or features out.

Two engines behind one interface: OpenVINO for CPU workers, which needs neither TensorFlow nor
Keras in the process, and Keras for GPUs. Both run batches of one fixed size, the last one padded,
so that an image's result does not depend on the images it shares a batch with. Exporting a model
for OpenVINO is in `export.py`.
"""

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.keras_file import last_line

if TYPE_CHECKING:
    import keras

EngineName = Literal["openvino", "keras"]
Precision = Literal["f32", "bf16", "f16"]
Array = npt.NDArray[Any]
_KERAS_BATCH = 32
# A CPU stream is fastest while what one layer hands to the next stays in its core's cache: with
# B5 at 456 px one by one, with Lite0 at 224 px four at a time, with B5 at 150 px from eight on.
# Powers of two, which divide a shard: a last batch that is padded costs as much as a full one.
_STREAM_PIXELS = 2**18
_STREAM_BATCH = 16  # at most
# Where a CPU has AMX, OpenVINO prefers oneDNN's batch-reduce kernels, though AMX computes no
# float32. The older ones, on channels in blocks of 16, compute an EfficientNet or a ResNet 5 to 8%
# faster, DenseNet121 as fast, VGG19 3% slower.
_F32_KERNELS = {
    "Convolution": "cpu:jit_avx512_1x1,cpu:jit_avx512",
    "GroupConvolution": "cpu:jit_avx512_dw",
}
BACKBONE_FILE = "backbone.keras"  # its IR lies beside it, .xml and .bin

_KERAS_POLICIES: dict[Precision, str] = {
    "f32": "float32",
    "bf16": "mixed_bfloat16",
    "f16": "mixed_float16",
}
# TensorFlow's switch is one for the process: models of an ensemble compute in turn, lest one turn
# it back while another computes.
_TF32_SWITCH = threading.Lock()


@dataclass(frozen=True)
class Engine:
    """A loaded model, ready to run.

    Attributes:
        name: `openvino` or `keras`.
        precision: of the arithmetic inside the network: `f32`, `bf16` or `f16`.
        size_px: height and width of the images it takes, px.
        batch_size: images a call of the network.
        num_outputs: numbers an image gives: 1 for a classifier's logit, D for a backbone.
        num_streams: batches computed at a time.
        run_batch: uint8 [batch_size, size_px, size_px] -> float32 [batch_size, num_outputs], from
            as many threads at a time as there are streams.
    """

    name: EngineName
    precision: Precision
    size_px: int
    batch_size: int
    num_outputs: int
    num_streams: int
    run_batch: Callable[[Array], Array]
    _threads: ThreadPoolExecutor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_threads", ThreadPoolExecutor(self.num_streams))

    def logits(self, images: Array) -> Array:
        """Returns the logit of PNEUMONIA of each image, before any calibration.

        Args:
            images: uint8 [N, size_px, size_px], any N.

        Returns:
            float32 [N], in the order of the images.

        Raises:
            SpecError: the model is a backbone, or the images have another shape or dtype.
        """
        self.check_classifier()
        return self.predict(images)[:, 0]

    def check_classifier(self) -> None:
        """Raises `SpecError` where the model is a backbone, which gives no logit."""
        if self.num_outputs != 1:
            raise SpecError(
                f"this engine gives {self.num_outputs} features an image, not a logit; load the "
                "engine of a bundle"
            )

    def predict(self, images: Array) -> Array:
        """Returns the model's outputs: a backbone's pooled features, or a classifier's logit.

        Args:
            images: uint8 [N, size_px, size_px], any N.

        Returns:
            float32 [N, num_outputs], in the order of the images.

        Raises:
            SpecError: the images have another shape or dtype.
        """
        starts = range(0, len(images), self.batch_size)
        futures = [self.submit(images[start : start + self.batch_size]) for start in starts]
        outputs = np.empty((len(images), self.num_outputs), np.float32)
        for start, future in zip(starts, futures, strict=True):
            outputs[start : start + self.batch_size] = future.result()
        return outputs

    def submit(self, images: Array) -> Future[Array]:
        """Queues one batch and returns at once, so that the caller can prepare the next.

        Args:
            images: uint8 [N, size_px, size_px], N <= batch_size; not to be changed until done.

        Returns:
            The outputs to come, float32 [N, num_outputs].

        Raises:
            SpecError: the images have another shape or dtype.
        """
        expected = (self.size_px, self.size_px)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != expected:
            raise SpecError(
                f"the engine received {images.dtype} {list(images.shape)}; expected uint8 "
                f"[N, {self.size_px}, {self.size_px}]: decode the images at the model's size"
            )
        return self._threads.submit(self._run_padded, images)

    def _run_padded(self, images: Array) -> Array:
        count = len(images)
        batch = np.ascontiguousarray(images)
        if count < self.batch_size:
            padding = np.zeros((self.batch_size - count, *images.shape[1:]), np.uint8)
            batch = np.concatenate([batch, padding])
        return self.run_batch(batch)[:count]


def load_engine(
    folder: Path,
    engine: str = "auto",
    num_threads: int | None = None,
    precision: str = "f32",
    *,
    batch_size: int | None = None,
) -> Engine:
    """Loads the engine of a bundle, after checking its hashes, or of an exported backbone.

    Args:
        folder: a bundle, or a folder written by `export.export_backbone`.
        engine: `openvino`, `keras`, or `auto`: Keras on a machine with an NVIDIA GPU that this
            process may use, else OpenVINO.
        num_threads: CPU threads to use, >= 1; None for as many as this process may run on.
            TensorFlow keeps to it only where it has not started in this process yet.
        precision: `f32`, `bf16` or `f16`; on a CPU without such instructions f32 is faster.
        batch_size: images a call of the network, >= 1; None for the engine's own.

    Returns:
        An engine whose `logits` (bundle) or `predict` (backbone) can be called from one thread
        at a time.

    Raises:
        BundleError: a file is missing, changed or of a kind that is not loaded.
        SpecError: unknown engine or precision.
    """
    from orchestrator.model import bundle

    is_backbone = (folder / BACKBONE_FILE).exists()
    if resolve_engine(engine) == "openvino":
        if not is_backbone:
            bundle.load_info(folder)
        ir = folder / (BACKBONE_FILE if is_backbone else bundle.IR_FILE)
        return openvino_engine(ir.with_suffix(".xml"), num_threads, precision, batch_size)

    from orchestrator.model.keras_file import load_keras_file
    from orchestrator.model.views import scoring_model

    _limit_tensorflow_threads(num_threads)
    if is_backbone:
        return keras_engine(load_keras_file(folder / BACKBONE_FILE), precision, batch_size)
    num_views = bundle.load_info(folder).test_time_views
    model = scoring_model(bundle.load_network(folder), num_views)
    return keras_engine(model, precision, batch_size)


def default_batch_size(engine: EngineName, size_px: int) -> int:
    """Returns the images a call of the network where none are asked for.

    Args:
        engine: `openvino` or `keras`.
        size_px: height and width of the images, px.
    """
    if engine == "keras":
        return _KERAS_BATCH
    most = min(max(_STREAM_PIXELS // size_px**2, 1), _STREAM_BATCH)
    return 1 << most.bit_length() - 1


def resolve_engine(engine: str) -> EngineName:
    """Chooses the engine without importing Keras, which takes seconds."""
    if engine == "openvino" or engine == "keras":
        return "openvino" if engine == "openvino" else "keras"
    if engine != "auto":
        raise SpecError(f"unknown engine {engine!r}; expected auto, openvino or keras")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    has_gpu = Path("/dev/nvidiactl").exists() and visible not in ("", "-1", "NoDevFiles")
    return "keras" if has_gpu else "openvino"


def _check_precision(precision: str) -> Precision:
    for known in _KERAS_POLICIES:
        if precision == known:
            return known
    raise SpecError(f"unknown precision {precision!r}; expected {', '.join(_KERAS_POLICIES)}")


def openvino_engine(
    path: Path, num_threads: int | None, precision: str, batch_size: int | None = None
) -> Engine:
    """Reads an IR file and compiles it for the CPU at a fixed batch size.

    Args:
        path: the `.xml` file, its `.bin` beside it, as `export.export_ir` writes them.
        num_threads: as `load_engine` takes it.
        precision: as `load_engine` takes it.
        batch_size: images a call of the network, >= 1; None for `default_batch_size`.

    Returns:
        The engine.

    Raises:
        BundleError: a file is missing or cannot be loaded.
        SpecError: unknown precision.
    """
    import openvino

    checked = _check_precision(precision)
    if not path.is_file() or not path.with_suffix(".bin").is_file():
        raise BundleError(
            f"{path} and its .bin are missing; use --engine keras or write the bundle again"
        )
    core = openvino.Core()
    settings = _openvino_config(num_threads, checked)
    try:
        model = _read_ir(core, path, checked)
        size_px = int(model.input(0).partial_shape[1].get_length())
        batch_size = batch_size or default_batch_size("openvino", size_px)
        shape = [batch_size, size_px, size_px]
        model.reshape(shape)
        compiled = core.compile_model(model, "CPU", settings)
        if checked == "f32" and "jit_gemm" in _convolution_kernels(compiled):
            # What it falls back on where a layer suits none of those asked for: many times slower.
            model = core.read_model(path)
            model.reshape(shape)
            compiled = core.compile_model(model, "CPU", settings)
    except (RuntimeError, ElementTree.ParseError) as error:
        raise BundleError(f"OpenVINO cannot load {path}: {last_line(error)}") from error
    # The binding's first look-up of a dtype runs Python inside a C++ static's initialisation: two
    # threads that came to it at once would wait for each other for ever.
    openvino.Type.u8.to_dtype()
    num_streams = int(compiled.get_property("NUM_STREAMS"))
    idle: SimpleQueue[Any] = SimpleQueue()
    for _ in range(num_streams):
        idle.put(compiled.create_infer_request())

    def run_batch(images: Array) -> Array:
        request = idle.get()
        try:
            request.infer([images], share_inputs=True)
            return np.array(request.get_output_tensor(0).data)
        finally:
            idle.put(request)

    num_outputs = int(model.output(0).shape[1])
    return Engine("openvino", checked, size_px, batch_size, num_outputs, num_streams, run_batch)


def _read_ir(core: Any, path: Path, precision: Precision) -> Any:
    """Returns the model of an IR file, which in float32 asks for `_F32_KERNELS` on a CPU with AMX.

    By way of a changed copy: OpenVINO's Python API cannot set this attribute.
    """
    if precision != "f32" or not _has_amx():
        return core.read_model(path)
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if kernels := _F32_KERNELS.get(layer.get("type", "")):
            attribute = {"name": "primitives_priority", "version": "0", "value": kernels}
            ElementTree.SubElement(ElementTree.SubElement(layer, "rt_info"), "attribute", attribute)
    with NamedTemporaryFile(suffix=".xml") as copy:
        tree.write(copy.name)
        return core.read_model(copy.name, path.with_suffix(".bin"))


def _convolution_kernels(compiled: Any) -> set[str]:
    """Returns the names of the kernels of a compiled model's convolutions, less the dtype."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return {
        fact["primitiveType"].astype(str).rpartition("_")[0]
        for fact in facts
        if fact["layerType"].astype(str) == "Convolution"
    }


def _has_amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _openvino_config(num_threads: int | None, precision: Precision) -> dict[str, Any]:
    """OpenVINO's settings for one worker among several on a machine."""
    threads = num_threads or len(os.sched_getaffinity(0))
    return {
        # Without the hint a CPU that has bf16 uses it, and results depend on the machine.
        "INFERENCE_PRECISION_HINT": precision,
        # A thread of its own for each batch: threads that share one wait for each other after
        # every layer, and each wait lasts as long as the decoder on the slowest one's core.
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        # Pinning counts cores from the first one, in every worker: all would share it.
        "ENABLE_CPU_PINNING": False,
    }


def keras_engine(
    model: "keras.Model", precision: str = "f32", batch_size: int | None = None
) -> Engine:
    """Wraps a Keras model that is in memory; it runs on Keras's backend.

    Args:
        model: images [None, S, S, 1] -> [None, D], e.g. of `build_backbone` or `logit_model`.
            For another precision than f32 its layers' policies are changed in place.
        precision: as `load_engine` takes it.
        batch_size: images a call of the network, >= 1; None for 32.

    Returns:
        The engine.

    Raises:
        SpecError: unknown precision.
    """
    import keras

    checked = _check_precision(precision)
    batch_size = batch_size or _KERAS_BATCH
    if checked != "f32":
        set_policy(model, _KERAS_POLICIES[checked])
    # A model of its own over the same layers: one that has predicted before would go on with the
    # function it compiled then, in its old precision.
    model = keras.Model(model.input, model.output)
    if keras.backend.backend() == "tensorflow":
        # XLA is slow to compile, and on a CPU ten times slower than plain TensorFlow.
        model.jit_compile = False

    def run_batch(images: Array) -> Array:
        with _full_float32() if checked == "f32" else nullcontext():
            return np.asarray(model.predict_on_batch(images[..., np.newaxis]), np.float32)

    size_px, num_outputs = int(model.input_shape[1]), int(model.output_shape[-1])
    return Engine("keras", checked, size_px, batch_size, num_outputs, 1, run_batch)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Turns off TF32, by which a GPU multiplies float32 numbers with 10 bits of mantissa.

    With it a GPU's probabilities would differ from a CPU's in the third decimal.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        with importlib.import_module("jax").default_matmul_precision("highest"):
            yield
        return
    if backend != "tensorflow":
        yield
        return
    from tensorflow.config import experimental as switches

    with _TF32_SWITCH:
        was_on = switches.tensor_float_32_execution_enabled()
        switches.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            switches.enable_tensor_float_32_execution(was_on)


def set_policy(model: "keras.Model", policy: str) -> None:
    """Runs a model's layers by a policy of Keras, but for the first scaling and the logit.

    Args:
        model: changed in place; a function compiled for it before goes on as it was.
        policy: Keras's name, e.g. `mixed_bfloat16`.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            set_policy(layer, policy)
        elif layer.name not in ("image", "preprocess", "logit", "probability"):
            layer.dtype_policy = policy


def _limit_tensorflow_threads(num_threads: int | None) -> None:
    """Bounds TensorFlow's threads, where TensorFlow is the backend and has not started."""
    import keras

    if num_threads is None or keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(num_threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has started: the process keeps its threads
        return
