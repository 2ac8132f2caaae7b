"""Loads a `.keras` file written by anyone, without running anything it carries.

A `.keras` file is a zip of a JSON description and arrays. The description names Python classes, so
it is read first and only Keras's own, data-only classes are admitted; then Keras itself loads the
file with `safe_mode` on. HDF5 and pickled models are never opened. Keras is imported only when
there is something to load.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BundleError

if TYPE_CHECKING:
    import keras

# Layers of Keras's own that run code or open other files when loaded.
_UNSAFE_CLASSES = frozenset({"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_MAX_CONFIG_BYTES = 64 << 20  # EfficientNetB7's description is under 1 MB


def load_keras_file(path: Path) -> "keras.Model":
    """Returns the model of a `.keras` file, refusing all that could run code.

    Args:
        path: a file whose name ends in `.keras`.

    Returns:
        The model, not compiled.

    Raises:
        BundleError: the file is missing, is not a `.keras` zip, holds a Lambda or any class that
            is not Keras's own, or cannot be read.
    """
    check_keras_file(path)
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged or unsafe file
        raise BundleError(
            f"{path} cannot be loaded as a Keras model: {first_line(error)}"
        ) from error


def check_keras_file(path: Path) -> None:
    """Reads the description inside a `.keras` file and refuses what could run code.

    Needs no Keras, so that an inspector can call it.

    Args:
        path: the file.

    Raises:
        BundleError: as in `load_keras_file`.
    """
    if path.suffix != ".keras":
        raise BundleError(
            f"{path} is not a .keras file; HDF5 and pickled models are not loaded, because "
            "they can run code: save the model again with model.save('model.keras')"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
                raise BundleError(f"{path}: its config.json is over {_MAX_CONFIG_BYTES} bytes")
            config = json.loads(archive.read("config.json"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} does not exist; expected a .keras file") from error
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path} is not a whole .keras file ({first_line(error)}); save or copy it again"
        ) from error
    for class_name, module in _classes(config):
        if class_name in _UNSAFE_CLASSES:
            raise BundleError(
                f"{path} holds a {class_name} layer, which can run code and is not loaded; build "
                "the model from standard layers"
            )
        if module is not None and module.split(".")[0] not in ("keras", "builtins"):
            raise BundleError(
                f"{path} needs {module}.{class_name}, which is not Keras's own; build the model "
                "from standard layers"
            )


def first_line(error: Exception) -> str:
    """Returns the first non-empty line of an exception's message, or its kind if it has none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def last_line(error: Exception) -> str:
    """Returns the last non-empty line of an exception's message, or its kind if it has none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


def _classes(config: Any) -> Iterator[tuple[str, str | None]]:
    """Yields (class name, module or None) of every object described anywhere in `config`."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            name, module = value.get("class_name"), value.get("module")
            if isinstance(name, str):
                yield name, module if isinstance(module, str) else None
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
