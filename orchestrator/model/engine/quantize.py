"""Quantises a bundle's OpenVINO network to int8, with NNCF, which is an extra: `int8`.

Running what is written here needs OpenVINO alone.
"""

import contextlib
import importlib.metadata
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.engine.base import Array
from orchestrator.model.engine.openvino import REST, int8_arithmetics
from orchestrator.model.keras_file import last_line
from orchestrator.model.network import HEAD_LAYERS

# What is not quantised, and what int8 changed where it was: the root mean square over X-rays that
# gave no ranges, in standard deviations of the logit. Measured with NNCF 3.4 and OpenVINO 2026.4
# on an AMD EPYC with AVX-512 VNNI, the rest in float32.

# Names of layers, as regular expressions: the head, whose layers cost nothing, and the mean logit
# of test-time views, which 256 steps spoil (fine-tuned Lite0, three views: 0.60 with it, 0.07
# without).
LAYERS_F32 = (*(f"/{name}" for name in HEAD_LAYERS), "/average")
# The first convolutions: few channels, each with values of its own range, on which all others
# build (fine-tuned Lite0, three views: 0.028 without the first one, 0.017 without three, 0.019
# without five).
_FIRST_F32 = 3
# In networks with swish, those of Keras's EfficientNets: squeeze-and-excitation (untrained B5 at
# 150 px: 1.4 and 2.2 times the speed of float32 with it, 1.0 and 2.1 times without) and the sums of
# residual blocks, whose error adds up from block to block (a B5 trained from random weights, its
# statistics settled in two ways, on a Xeon with AMX, the rest in bfloat16: 0.23 and 0.31 with them,
# 0.07 and 0.12 without, for 3% of the speed).
_SWISH_TYPES_F32 = ("ReduceMean", "Sigmoid", "Multiply", "Add")
# Share of images that give no ranges, being the strangest ones.
_STRANGE = 0.02


def check_nncf() -> str:
    """Returns NNCF's version.

    Raises:
        SpecError: it is not installed.
    """
    try:
        return importlib.metadata.version("nncf")
    except importlib.metadata.PackageNotFoundError as error:
        raise SpecError(
            "quantising needs NNCF, which is not installed; install the extra: "
            "pip install 'xray-orchestrator[int8]'"
        ) from error


def check_arithmetics() -> tuple[str, ...]:
    """Returns how this CPU can compute quantised networks, as `int8_arithmetics` does.

    Raises:
        SpecError: in no way that is faster than float32.
    """
    if found := int8_arithmetics():
        return found
    raise SpecError(
        "this CPU has neither AVX2 nor VNNI, so int8 would be no faster; quantise on a machine "
        "like those that are to score"
    )


def choose_usual(features: Array) -> npt.NDArray[np.intp]:
    """Chooses the images that give the ranges: all but the 2% with the strangest features.

    A single one whose features lie a hundred times as far out as those of the others widens the
    ranges of deep layers for all of them (the same two B5: 0.07 and 0.12 with it, 0.04 without).

    Args:
        features: float [N, D], of the float32 network.

    Returns:
        Rows, in order.
    """
    distances = features - np.mean(features, axis=0, dtype=np.float64)
    spread = np.std(distances, axis=0)
    # A feature that is the same of all tells none apart.
    strangeness = np.square(distances[:, spread > 0] / spread[spread > 0]).sum(axis=1)
    most = len(features) - int(_STRANGE * len(features))
    return np.sort(np.argsort(strangeness, kind="stable")[:most])


def quantize_ir(source: Path, target: Path, images: Array) -> str:
    """Writes the int8 network of an IR, to be computed in the way that is fastest on this CPU.

    Args:
        source: the `.xml` file of a bundle, its `.bin` beside it.
        target: the `.xml` file to write, in a folder that is there.
        images: uint8 [N, S, S], like those that it will score, in random order: their values give
            the ranges, and the first fifth of them the corrections of the biases.

    Returns:
        How it is to be computed, as `int8_arithmetics` names it.

    Raises:
        SpecError: NNCF is not installed, or this CPU computes no faster in int8.
        BundleError: it cannot quantise this network.
    """
    check_nncf()
    arithmetics = check_arithmetics()
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    from openvino._offline_transformations import apply_moc_transformations

    nncf.set_log_level(logging.ERROR)

    def run(model: Any, **ranges: Any) -> Any:
        # It draws bars on the standard output, which is the command's own.
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize(
                model,
                nncf.Dataset([images[place : place + 1] for place in range(len(images))]),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(
                    names=_layers_f32(model),
                    patterns=[f".*{name}.*" for name in LAYERS_F32],
                    validate=False,
                ),
                advanced_parameters=nncf.AdvancedQuantizationParameters(**ranges),
            )

    try:
        model = openvino.Core().read_model(source)
        # Between two transpositions that undo each other, which the converter leaves around
        # depthwise convolutions, NNCF would take rows for channels.
        apply_moc_transformations(model, cf=False)
        try:
            # Fine-tuned Lite0, three views: 0.022, and 0.032 by the least and the largest value.
            histogram = RangeEstimatorParametersSet.HISTOGRAM
            network = run(model, activations_range_estimator_params=histogram)
        except ValueError as error:
            if "bins" not in str(error):
                raise
            network = run(model)  # a layer whose values are nearly all the same has no histogram
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"NNCF cannot quantise {source}: {last_line(error)}; score this bundle in f32, or "
            "train one of another backbone"
        ) from error
    if not _has_swish(network):
        # What is not quantised costs little then, and in float32 more CPUs can compute it.
        arithmetics = tuple(each for each in arithmetics if not each.endswith("+bf16"))
    if arithmetics[0].endswith("+bf16"):
        network.set_rt_info("bf16", REST)
    openvino.save_model(network, target, compress_to_fp16=False)
    return arithmetics[0]


def _layers_f32(model: Any) -> list[str]:
    """Returns the names of the layers that stay in float32 beside those of `LAYERS_F32`."""
    names: list[str] = []
    depths: dict[str, int] = {}  # convolutions up to a layer, the most by any way
    nodes = model.get_ordered_ops()
    with_swish = _has_swish(model)
    for node in nodes:
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        depths[name] = max((depths[source] for source in sources), default=0)
        if kind in ("Convolution", "GroupConvolution"):
            depths[name] += 1
            if depths[name] <= _FIRST_F32 or (with_swish and _is_of_one_pixel(node)):
                names.append(name)
        if with_swish and kind in _SWISH_TYPES_F32:
            names.append(name)
    return names


def _has_swish(model: Any) -> bool:
    return any(node.get_type_name() == "Swish" for node in model.get_ops())


def _is_of_one_pixel(convolution: Any) -> bool:
    """Whether it works on pooled values, as those of squeeze-and-excitation do."""
    height = convolution.input(0).get_partial_shape()[2]
    return bool(height.is_static and height.get_length() == 1)
