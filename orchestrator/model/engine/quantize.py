"""Quantises a bundle's OpenVINO network to int8, with NNCF, which is an extra: `int8`.

Running what is written here needs OpenVINO alone.
"""

import contextlib
import importlib.metadata
import io
import logging
from pathlib import Path
from typing import Any

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.engine.base import Array
from orchestrator.model.keras_file import last_line
from orchestrator.model.network import HEAD_LAYERS

# Names of layers that stay in float32, as regular expressions: the head, whose layers cost nothing,
# and the mean logit of test-time views, which 256 steps spoil: the root mean square of what int8
# changes was 0.60 of the logits' standard deviation with it and 0.07 without (fine-tuned Lite0).
LAYERS_F32 = (*(f"/{name}" for name in HEAD_LAYERS), "/average")
# So do the first convolutions: few channels, each with values of its own range, on which all others
# build. Same network, one view: 0.065 with none of them, 0.059 with ranges by histograms, 0.039
# with the first depthwise one, 0.025 with the first three, at about the same speed.
FIRST_F32 = 3


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


def quantize_ir(source: Path, target: Path, images: Array) -> None:
    """Writes the int8 network of an IR.

    Args:
        source: the `.xml` file of a bundle, its `.bin` beside it.
        target: the `.xml` file to write, in a folder that is there.
        images: uint8 [N, S, S], like those that it will score; their values give the ranges.

    Raises:
        SpecError: NNCF is not installed.
        BundleError: it cannot quantise this network.
    """
    check_nncf()
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    try:
        # It draws bars on the standard output, which is the command's own.
        with contextlib.redirect_stdout(io.StringIO()):
            model = openvino.Core().read_model(source)
            network: Any = nncf.quantize(
                model,
                nncf.Dataset([images[place : place + 1] for place in range(len(images))]),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(
                    names=_first_convolutions(model),
                    patterns=[f".*{name}.*" for name in LAYERS_F32],
                    validate=False,
                ),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
                ),
            )
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"NNCF cannot quantise {source}: {last_line(error)}") from error
    openvino.save_model(network, target, compress_to_fp16=False)


def _first_convolutions(model: Any) -> list[str]:
    """Returns the names of the convolutions with fewer than `FIRST_F32` others before them."""
    names, depths = [], {}
    for node in model.get_ordered_ops():
        before = [depths[value.get_node().get_friendly_name()] for value in node.input_values()]
        depth = max(before, default=0)
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            depth += 1
            if depth <= FIRST_F32:
                names.append(node.get_friendly_name())
        depths[node.get_friendly_name()] = depth
    return names
