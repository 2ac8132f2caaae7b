"""Weights that torch has saved in its old format, read without torch.

The format is made of pickles; the unpickler admits only the four names that tensors need.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

from orchestrator.errors import SpecError


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
                "its package or choose weights: none"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Notes the dtype of a storage and returns its reference unchanged."""
        self.storage_dtypes[pid[2]] = _STORAGE_DTYPES[pid[1]]
        return pid


def read_torch(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads the float tensors of a file: four pickles, then the raw storages in the order named.

    Args:
        file: in torch's format before 1.6.

    Returns:
        Tensor name -> float32 array in torch's axis order.

    Raises:
        SpecError: it asks for a name that is not admitted, or a tensor lies outside its storage.
    """
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
            "a tensor of the weights file lies outside its storage; reinstall its package or "
            "choose weights: none"
        )
    byte_strides = [stride * storage.itemsize for stride in view.strides]
    strided = np.lib.stride_tricks.as_strided(
        storage[view.offset :], view.shape, byte_strides, writeable=False
    )
    return np.ascontiguousarray(strided, dtype=np.float32)
