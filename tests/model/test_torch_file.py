import io
import os
import pickle

import numpy as np
import pytest

from orchestrator.errors import SpecError
from orchestrator.model import torch_file


def test_unpickler_admits_no_other_name() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, ("echo unpickled",))

    file = io.BytesIO(pickle.dumps(Evil()))

    with pytest.raises(SpecError, match=r"asks for (posix|nt)\.system, which is not admitted"):
        torch_file._TensorUnpickler(file).load()


def test_tensor_outside_its_storage_is_refused() -> None:
    storage = np.arange(6, dtype=np.float32)
    inside = torch_file._TensorView("s", 1, (2, 2), (1, 3))
    outside = torch_file._TensorView("s", 2, (2, 2), (1, 3))

    np.testing.assert_array_equal(torch_file._materialise(inside, storage), [[1, 4], [2, 5]])
    with pytest.raises(SpecError, match="outside its storage"):
        torch_file._materialise(outside, storage)
