"""An int8 network made with OpenVINO alone: what NNCF does, without its choices."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13

from orchestrator.model.engine.base import Array


def quantize_by_hand(source: Path, target: Path, images: Array) -> None:
    """Writes an IR with its convolutions in int8, as `quantize_ir` does.

    Args:
        source: the `.xml` file of a network.
        target: the `.xml` file to write.
        images: uint8 [N, S, S]; their values give the ranges.
    """
    core = openvino.Core()
    model, plain = core.read_model(source), core.read_model(source)
    taken = [node.input_value(0) for node in _convolutions(plain)]
    plain.add_outputs(taken)
    found = core.compile_model(plain, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)
    for number, node in enumerate(_convolutions(model), 1):
        values = found[number]
        low, high = min(float(values.min()), 0.0), float(values.max())
        weights = np.abs(node.input_value(1).get_node().data).max()
        _round(node, 0, low, high)
        _round(node, 1, -float(weights), float(weights), levels=255)
    openvino.save_model(model, target, compress_to_fp16=False)


def _convolutions(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]


def _round(node: Any, place: int, low: float, high: float, levels: int = 256) -> None:
    ends = [np.float32(low), np.float32(high)]
    rounded = opset13.fake_quantize(node.input_value(place), *ends, *ends, levels)
    node.input(place).replace_source_output(rounded.output(0))
