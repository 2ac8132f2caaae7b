import json
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import BundleError
from orchestrator.model.keras_file import check_keras_file, first_line, last_line, load_keras_file


def write_config(path: Path, config: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    return path


def test_other_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.h5 is not a \.keras file; HDF5 and pickled"):
        load_keras_file(tmp_path / "model.h5")
    with pytest.raises(BundleError, match=r"model\.keras does not exist"):
        load_keras_file(tmp_path / "model.keras")


def test_not_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")

    with pytest.raises(BundleError, match=r"is not a whole \.keras file"):
        check_keras_file(path)


def test_class_hidden_deep_in_the_description(tmp_path: Path) -> None:
    inner = {"module": "os", "class_name": "system", "config": {}}
    config = {"class_name": "Functional", "module": "keras", "config": {"a": [{"b": [inner]}]}}

    with pytest.raises(BundleError, match=r"needs os\.system, which is not Keras's own"):
        check_keras_file(write_config(tmp_path / "model.keras", config))


def test_module_that_only_begins_like_keras(tmp_path: Path) -> None:
    config = {"class_name": "Layer", "module": "keras_evil.layers"}

    with pytest.raises(BundleError, match=r"needs keras_evil\.layers\.Layer"):
        check_keras_file(write_config(tmp_path / "model.keras", config))


def test_description_that_keras_cannot_build(tmp_path: Path) -> None:
    config = {"class_name": "Dense", "module": "keras.layers", "config": {"units": -1}}

    with pytest.raises(BundleError, match="cannot be loaded as a Keras model: ") as raised:
        load_keras_file(write_config(tmp_path / "model.keras", config))
    assert "\n" not in str(raised.value)


def test_lines_of_messages() -> None:
    error = ValueError("\n first \nmiddle\n last\n")

    assert first_line(error) == "first"
    assert last_line(error) == "last"
    assert first_line(KeyError()) == "KeyError"
