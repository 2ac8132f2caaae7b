"""A bundle gives on this machine what it gave when it was written, or is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.cli.doctor import _model
from orchestrator.errors import BundleError
from orchestrator.model.bundle import load_info
from orchestrator.model.engine.export import export_ir
from orchestrator.model.engine.keras import keras_engine
from orchestrator.model.engine.load import load_engine
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.golden import TOLERANCE, check_engine, render_golden, replay_bundle
from orchestrator.model.keras_file import load_keras_file
from orchestrator.runs.atomic import sha256_file

pytestmark = pytest.mark.ray  # for the bundle


@pytest.fixture
def copied(trained: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.bundle, tmp_path / "copied"))


def record_anew(folder: Path, *, leave_out: str | None = None) -> None:
    """Has `bundle.json` say that the files are as they are now."""
    path = folder / "bundle.json"
    stored = json.loads(path.read_text())
    if leave_out:
        del stored["files"][leave_out]
    for name, entry in stored["files"].items():
        file = folder / name
        entry |= {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
    path.write_text(json.dumps(stored))


def change_ir(folder: Path) -> None:
    path = folder / "openvino.bin"
    (np.fromfile(path, np.float32) * np.float32(1.01)).tofile(path)


def change_keras(folder: Path) -> None:
    network = load_keras_file(folder / "model.keras")
    network.set_weights([1.01 * values for values in network.get_weights()])
    network.save(folder / "model.keras")


def change_golden(folder: Path) -> None:
    path = folder / "golden.json"
    stored = json.loads(path.read_text())
    stored["logits"][3] += 0.01
    path.write_text(json.dumps(stored))


def test_a_bundle_gives_on_both_engines_what_it_gave_when_it_was_written(copied: Path) -> None:
    done = CliRunner().invoke(app, ["models", "verify", str(copied), "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert [(found["engine"], found["ok"]) for found in shown["replays"]] == [
        ("keras", True),
        ("openvino", True),
    ]
    assert max(found["difference"] for found in shown["replays"]) < TOLERANCE / 3
    assert (copied / "golden.json").stat().st_size < 30_000


@pytest.mark.parametrize(
    ("change", "first"),
    [(change_ir, "openvino"), (change_keras, "keras"), (change_golden, "keras")],
)
def test_another_network_or_other_outputs_with_right_hashes_are_found(
    change: Callable[[Path], None], first: str, copied: Path
) -> None:
    change(copied)
    record_anew(copied)
    check = _model(str(copied))
    assert not check.ok
    assert f"{copied} gives other outputs with {first} here than when it was" in check.found


def test_a_worker_does_not_begin_with_another_network(copied: Path) -> None:
    check_engine(copied, load_engine(copied, "openvino", 1))
    change_ir(copied)
    record_anew(copied)
    for batch_size in (1, 16):  # fewer than the golden images, and more
        with pytest.raises(BundleError, match=r"gives other outputs with openvino here than when"):
            check_engine(copied, load_engine(copied, "openvino", 1, batch_size=batch_size))


def test_the_engines_of_an_earlier_version_s_bundle_are_held_against_each_other(
    copied: Path,
) -> None:
    record_anew(copied, leave_out="golden.json")
    (copied / "golden.json").unlink()
    check_engine(copied, load_engine(copied, "openvino", 1))
    change_ir(copied)
    record_anew(copied)
    found = replay_bundle(copied, load_info(copied))
    assert [replay.ok for replay in found] == [True, False]
    assert "without golden outputs" in found[0].against


def test_a_bundle_that_fails_ends_with_exit_code_4(copied: Path) -> None:
    (copied / "golden.json").write_text("{}")
    record_anew(copied)
    done = CliRunner().invoke(app, ["models", "verify", str(copied)])
    assert isinstance(done.exception, BundleError)
    assert "golden.json cannot be read; copy the bundle again" in str(done.exception)


def test_a_network_that_is_chaotic_on_noise_is_held_to_what_its_engines_differ_by(
    tmp_path: Path,
) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 1))
    maps = keras.layers.Conv2D(16, 3)(keras.layers.Conv2D(16, 3)(image))
    mean = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(maps))
    network = keras.Model(image, keras.ops.sin(mean * 1e3))
    difference = export_ir(network, tmp_path / "openvino.xml", 1)
    assert difference > TOLERANCE
    engine = openvino_engine(tmp_path / "openvino.xml", 1, "f32")
    golden = tmp_path / "golden.json"
    golden.write_text(render_golden(keras_engine(network), difference))
    check_engine(tmp_path, engine)
    golden.write_text(render_golden(keras_engine(network), 0.0))
    with pytest.raises(BundleError, match="gives other outputs with openvino here than when"):
        check_engine(tmp_path, engine)
