"""Heat maps: the places of an image that raise a bundle's logit, from its OpenVINO file alone.

Every network here ends in global average pooling and dense layers. So the gradient of the logit by
the last feature maps is the same at each place, and follows from the weights of the dense layers
in closed form: neither a backward pass nor TensorFlow is needed. With it Grad-CAM is exact: up to
the last ReLU it is what each place adds to the logit.

Grad-CAM++ and Layer-CAM drop negative gradients. Where gradients do not differ from place to place,
what is left hardly depends on the classifier: see `tests/model/test_heatmap_phantoms.py`.

References:
    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization, ICCV 2017.
    Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
    neural networks, 2020, arXiv:2011.08891: the two are one after global average pooling.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.workers import count_cpus
from orchestrator.errors import BundleError
from orchestrator.model.bundle import IR_FILE, load_info
from orchestrator.model.engine.base import Array
from orchestrator.model.keras_file import last_line

Layer = tuple[str, Array | None]  # type of an OpenVINO operation, and its constant
_HEAD = ("MatMul", "Add", "Multiply", "Relu")


@dataclass(frozen=True)
class HeatModel:
    """A classifier that shows where it looks.

    Attributes:
        size_px: height and width of the images it takes, px.
        head: what stands between the pooled features and the logit.
        run: uint8 [1, size_px, size_px] -> logit float32 [1, 1], and the last feature maps of the
            plain view, float32 [h, w, D].
    """

    size_px: int
    head: tuple[Layer, ...]
    run: Callable[[Array], tuple[Array, Array]]

    def explain(self, image: Array) -> tuple[float, Array]:
        """Returns the logit of an image, and its heat map.

        Args:
            image: uint8 [size_px, size_px].

        Returns:
            The logit of PNEUMONIA before any calibration; and float32 [h, w], 0..1, how much each
            place raises it, relative to the place that moves it most, up or down; zero where a
            place lowers it. So what little there is in a clear lung stays faint.
        """
        logit, maps = self.run(image[np.newaxis])
        moves = maps @ head_gradient(self.head, maps.mean((0, 1)))
        return float(logit[0, 0]), np.maximum(moves, 0.0) / max(float(np.abs(moves).max()), 1e-30)


def load_heat_model(bundle: Path, num_threads: int | None = None) -> HeatModel:
    """Loads what draws the heat maps of a bundle, after checking its hashes.

    Args:
        bundle: its folder.
        num_threads: CPU threads; None for as many as this process may run on.

    Raises:
        BundleError: as `load_info`, or its network has no last feature maps.
    """
    load_info(bundle)
    return open_heat_model(bundle / IR_FILE, num_threads)


def open_heat_model(path: Path, num_threads: int | None = None) -> HeatModel:
    """Loads what draws heat maps from an IR file of a classifier.

    Args:
        path: the `.xml` file, its `.bin` beside it, as `export.export_ir` writes them.
        num_threads: as `load_heat_model` takes it.

    Raises:
        BundleError: it cannot be loaded, or its network has no last feature maps.
    """
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(path)
        size_px = int(model.input(0).partial_shape[1].get_length())
        model.reshape([1, size_px, size_px])
        logit = model.output(0).get_node().input_value(0)
        pool = _find_pooling(logit.get_node(), path)
        head = tuple(_walk_head(pool, path))
        results = [openvino.opset13.result(out) for out in (logit, pool.input_value(0))]
        both = openvino.Model(results, model.get_parameters(), "heat")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": num_threads or count_cpus(),
        }
        request = core.compile_model(both, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise BundleError(f"OpenVINO cannot load {path}: {last_line(error)}") from error
    # Pooled over the last two axes, the channels come first.
    channels_first = min(pool.input_value(1).get_node().get_data()) == 2

    def run(images: Array) -> tuple[Array, Array]:
        request.infer([images])
        maps = np.array(request.get_output_tensor(1).data[0])
        found = np.moveaxis(maps, 0, -1) if channels_first else maps
        return np.array(request.get_output_tensor(0).data), found

    return HeatModel(size_px, head, run)


def head_gradient(head: tuple[Layer, ...], features: Array) -> Array:
    """Returns the gradient of the logit by the pooled features.

    Args:
        head: as in `HeatModel`.
        features: float [D].

    Returns:
        float [D]; ReLU has the gradient 0 at 0.
    """
    passed = []
    for kind, constant in head:
        if kind == "MatMul":
            features = features @ constant
        elif kind == "Add":
            features = features + constant
        elif kind == "Multiply":
            features = features * constant
        else:
            passed.append(features > 0)
            features = features * passed[-1]
    gradient = np.ones_like(features)
    for kind, constant in reversed(head):
        if kind == "MatMul" and constant is not None:
            gradient = gradient @ constant.T
        elif kind == "Multiply":
            gradient = gradient * constant
        elif kind == "Relu":
            gradient = gradient * passed.pop()
    return gradient


def _find_pooling(logit: Any, path: Path) -> Any:
    """Returns the pooling of the plain view: of several views the one that least lies before."""
    found = [node for node in _ancestors(logit, {"ReduceMean"}) if _is_pooling(node)]
    if not found:
        raise BundleError(
            f"{path} has no global average pooling before its dense layers, which heat maps need; "
            "train with a backbone of the registry"
        )
    return min(found, key=lambda node: sum(1 for _ in _ancestors(node, set())))


def _is_pooling(node: Any) -> bool:
    if node.get_type_name() != "ReduceMean":
        return False
    return len(node.input(0).get_partial_shape()) == 4 and len(node.output(0).get_shape()) == 2


def _ancestors(node: Any, ends: set[str]) -> Iterator[Any]:
    """Yields a node and all before it, but for what lies before nodes of the types `ends`."""
    waiting, seen = [node], {node.get_friendly_name()}
    while waiting:
        node = waiting.pop()
        yield node
        if node.get_type_name() in ends:
            continue
        for before in _inputs(node):
            if before.get_friendly_name() not in seen:
                seen.add(before.get_friendly_name())
                waiting.append(before)


def _inputs(node: Any) -> list[Any]:
    return [value.get_source_output().get_node() for value in node.inputs()]


def _walk_head(pool: Any, path: Path) -> Iterator[Layer]:
    """Yields the layers from the pooling to the logit, or to the mean of several views."""
    node = pool
    while True:
        followers = node.output(0).get_target_inputs()
        node = next(iter(followers)).get_node()
        kind, inputs = node.get_type_name(), _inputs(node)
        if kind == "Result":
            return
        constants = [each for each in inputs if each.get_type_name() == "Constant"]
        if kind not in _HEAD or len(followers) > 1:
            raise BundleError(
                f"{path} has a {kind} between its pooling and its logit, where heat maps expect "
                "dense layers; train with a backbone of the registry"
            )
        if len(inputs) > 1 and not constants:
            return
        constant = np.array(constants[0].get_data()) if constants else None
        if constant is not None and kind == "MatMul":
            constant = constant.T if node.get_attributes()["transpose_b"] else constant
        elif constant is not None:
            constant = constant.ravel()  # of [1, D], as the features are of one image
        yield kind, constant
