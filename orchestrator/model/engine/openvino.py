"""The OpenVINO engine, for CPUs: neither TensorFlow nor Keras is loaded."""

from pathlib import Path
from queue import SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any
from xml.etree import ElementTree

import numpy as np

from orchestrator.config.workers import count_cpus
from orchestrator.errors import BundleError, SpecError
from orchestrator.model.engine.base import (
    Array,
    Engine,
    Precision,
    _check_precision,
    default_batch_size,
)
from orchestrator.model.keras_file import last_line
from orchestrator.model.network import HEAD_LAYERS

# Kernels to ask for on a CPU with AMX, where OpenVINO prefers others. In float32 those are oneDNN's
# batch-reduce kernels, though AMX computes no float32: with these, on channels in blocks of 16, an
# EfficientNet or a ResNet is 4 to 12% faster, DenseNet121 as fast, VGG19 3% slower.
_AMX_KERNELS = {
    "Convolution": "cpu:jit_avx512_1x1,cpu:jit_avx512",
    "GroupConvolution": "cpu:jit_avx512_dw",
}

# Where the IR of a quantised network says what its other layers are to compute in.
REST = ["orchestrator", "inference_precision"]


def openvino_engine(
    path: Path,
    num_threads: int | None,
    precision: str,
    batch_size: int | None = None,
    *,
    with_features: bool = False,
) -> Engine:
    """Reads an IR file and compiles it for the CPU at a fixed batch size.

    Args:
        path: the `.xml` file, its `.bin` beside it, as `export.export_ir` writes them.
        num_threads: as `load_engine` takes it.
        precision: as `load_engine` takes it.
        batch_size: images a call of the network, >= 1; None for `default_batch_size`.
        with_features: whether the pooled features of a classifier follow its logit; of several
            test-time views their mean.

    Returns:
        The engine.

    Raises:
        BundleError: a file is missing or cannot be loaded.
        SpecError: unknown precision, or one that this CPU does not compute in.
    """
    import openvino

    checked = _check_precision(precision)
    if not path.is_file() or not path.with_suffix(".bin").is_file():
        raise BundleError(
            f"{path} and its .bin are missing; use --engine keras or write the bundle again"
        )
    core = openvino.Core()
    try:
        computed_in = _inference_precision(core, path, checked)
        settings = _openvino_config(num_threads, computed_in)
        for kernels in (_kernels_to_ask_for(core, path, checked), {}):
            model = _read_ir(core, path, kernels)
            size_px = int(model.input(0).partial_shape[1].get_length())
            num_images = batch_size or default_batch_size("openvino", size_px)
            model.reshape([num_images, size_px, size_px])
            num_pooled = _add_features(model) if with_features else 0
            compiled = core.compile_model(model, "CPU", settings)
            # What it falls back on where a layer suits none of those asked for: many times slower.
            if not kernels or not _convolution_kernels(compiled) & {"jit_gemm", "ref_any"}:
                break
    except (RuntimeError, ElementTree.ParseError) as error:
        raise BundleError(f"OpenVINO cannot load {path}: {last_line(error)}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != computed_in and checked == "int8":
        raise SpecError(
            f"the int8 network computes layers that are not quantised in {computed_in}, which this "
            "CPU does not have: give --precision f32, or quantise the model on a machine like this"
        )
    if used != computed_in:
        raise SpecError(
            f"asked for precision {checked}; OpenVINO computes in {used} on this CPU: give "
            f"--precision {used} or f32, or use machines that compute in {checked}"
        )
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
            outputs = np.array(request.get_output_tensor(0).data)
            if not num_pooled:
                return outputs
            pooled = [request.get_output_tensor(1 + view).data for view in range(num_pooled)]
            return np.concatenate([outputs, np.mean(pooled, axis=0)], axis=1)
        finally:
            idle.put(request)

    num_outputs = int(model.output(0).shape[1])
    num_features = int(model.output(1).shape[1]) if num_pooled else 0
    return Engine(
        "openvino",
        checked,
        size_px,
        num_images,
        num_outputs,
        num_streams,
        run_batch,
        num_features,
    )


def _add_features(model: Any) -> int:
    """Makes what the head takes an output of a classifier, for each of its test-time views.

    Found by the name of the head's first layer, so that an IR needs no second output of its own.

    Args:
        model: of an IR that `export.export_ir` wrote; changed in place.

    Returns:
        The number of views.

    Raises:
        BundleError: it has no such layer.
    """
    pooled = [
        node.input_value(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul" and f"/{HEAD_LAYERS[0]}" in node.get_friendly_name()
    ]
    if not pooled:
        raise BundleError("the OpenVINO network has no head that takes features; train it again")
    model.add_outputs(pooled)
    return len(pooled)


def _inference_precision(core: Any, path: Path, precision: Precision) -> str:
    """Returns what the layers of an IR file compute in; in int8, those that are not quantised."""
    if precision != "int8":
        return precision
    model = core.read_model(path)
    return str(model.get_rt_info(REST).value) if model.has_rt_info(REST) else "f32"


def _kernels_to_ask_for(core: Any, path: Path, precision: Precision) -> dict[str, str]:
    """Returns the kernels to ask for in an IR file, by name of the layer; none without AMX."""
    if precision not in ("f32", "int8") or not _has_amx():
        return {}
    nodes = core.read_model(path).get_ordered_ops()
    if precision == "int8":
        # Swish takes longer than the products, and AMX's kernels compute it more slowly: without
        # them before a swish B5 and B0 are 17 to 36% faster.
        nodes = [_layer_before(node) for node in nodes if node.get_type_name() == "Swish"]
        nodes = [node for node in nodes if node.get_type_name() == "Convolution"]
    return {
        node.get_friendly_name(): _AMX_KERNELS[node.get_type_name()]
        for node in nodes
        if node.get_type_name() in _AMX_KERNELS
    }


def _layer_before(activation: Any) -> Any:
    """Returns the layer whose result an activation takes, less its bias and its layout."""
    node = activation.input_value(0).get_node()
    while node.get_type_name() in ("Add", "Transpose"):
        node = node.input_value(0).get_node()
    return node


def _read_ir(core: Any, path: Path, kernels: dict[str, str]) -> Any:
    """Returns the model of an IR file, whose layers ask for kernels.

    By way of a changed copy: OpenVINO's Python API cannot set this attribute.
    """
    if not kernels:
        return core.read_model(path)
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if value := kernels.get(layer.get("name", "")):
            attribute = {"name": "primitives_priority", "version": "0", "value": value}
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


def int8_arithmetics() -> tuple[str, ...]:
    """Returns how this CPU can compute quantised networks, the fastest way first.

    `vnni`: sums of products are exact, and the layers that are not quantised are in float32.
    `vnni+bf16`: so are the sums, and these layers are in bfloat16. `avx2`: pairs of products are
    added in 16 bits, where they may saturate, so that a network may give other logits. None of
    them where float32 is as fast.
    """
    flags = _cpu_flags()
    if flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        with_bf16 = flags & {"avx512_bf16", "amx_bf16"}
        return ("vnni+bf16", "vnni") if with_bf16 else ("vnni",)
    return ("avx2",) if "avx2" in flags else ()


def can_compute(arithmetic: str) -> bool:
    """Whether this CPU can run a network quantised by an arithmetic, be it with other logits."""
    return arithmetic in int8_arithmetics() or not arithmetic.endswith("+bf16")


def _has_amx() -> bool:
    return "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().partition("flags")[2].split("\n")[0].split())
    except OSError:
        return set()


def _openvino_config(num_threads: int | None, computed_in: str) -> dict[str, Any]:
    """OpenVINO's settings for one worker among several on a machine."""
    threads = num_threads or count_cpus()
    return {
        # Without the hint a CPU that has bf16 uses it, and results depend on the machine.
        "INFERENCE_PRECISION_HINT": computed_in,
        # A thread of its own for each batch: threads that share one wait for each other after
        # every layer, and each wait lasts as long as the decoder on the slowest one's core.
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        # Pinning counts cores from the first one, in every worker: all would share it.
        "ENABLE_CPU_PINNING": False,
    }
