import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from orchestrator.errors import BundleError
from orchestrator.model import bundle
from orchestrator.model.backbones import build_backbone
from orchestrator.model.bundle_writer import write_bundle
from orchestrator.model.engine import load
from orchestrator.model.engine.load import load_engine
from orchestrator.model.network import build_network
from tests.runs.power import put, recorded

HEAVY = ("tensorflow", "keras", "openvino", "ray", "numpy", "scipy", "pyarrow")


def make_info(network: keras.Model, **changes: Any) -> bundle.BundleInfo:
    figures = {"auroc": {"value": 0.9, "low": 0.85, "high": 0.94}}
    undefined = {"npv": {"value": None, "note": "undefined: no image was called NORMAL"}}
    fields: dict[str, Any] = {
        "created": "2026-01-31T02:00:00Z",
        "class_names": ("NORMAL", "PNEUMONIA"),
        "size_px": 32,
        "backbone": "tiny",
        "weights": "none",
        "num_parameters": network.count_params(),
        "num_trainable": 42,
        "threshold": {"value": 0.4321, "rule": "youden"},
        "calibration": {"slope": 1.5, "intercept": -0.25},
        "metrics": {"val": {"num_images": 10, "num_patients": 7, "metrics": figures | undefined}},
        "data": {"fingerprint": "f" * 16, "counts": {"train": {"NORMAL": 30, "PNEUMONIA": 90}}},
        "training": {"lr": 0.01, "alpha": 0.25713190184049077},
        "seed": 3,
        "versions": {"keras": keras.__version__},
    }
    return bundle.BundleInfo.model_validate(fields | changes)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    network = build_network(build_backbone("tiny", "none", 32), 0.2)
    network.compile("adam", "binary_crossentropy")
    return network


@pytest.fixture(scope="module")
def written(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "released"
    write_bundle(folder, network, make_info(network), extra={"report.html": "<p>"}, num_threads=1)
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copied"))


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(network: keras.Model, written: Path) -> None:
    info = bundle.load_info(written)

    assert info.model_dump() == make_info(network, files=info.files).model_dump()
    assert set(info.files) == {
        "model.keras",
        "openvino.xml",
        "openvino.bin",
        "README.md",
        "card.json",
        "golden.json",
        "report.html",
    }
    assert {p.name for p in written.iterdir()} == {*info.files, "bundle.json"}
    assert info.sha256 == bundle.load_info(written).sha256
    assert info.sha256 == make_info(network, files=info.files).sha256
    assert info.sha256 != make_info(network, files=info.files, seed=4).sha256


def test_both_engines_give_the_network_s_logits(network: keras.Model, written: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32), dtype=np.uint8)
    expected = network.predict(images[..., None], verbose=0)[:, 0]

    loaded = bundle.load_network(written).predict(images[..., None], verbose=0)[:, 0]

    np.testing.assert_allclose(loaded, expected, atol=1e-6)
    for name in ("openvino", "keras"):
        logits = load_engine(written, name, 1).logits(images)
        assert logits.shape == (40,)
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=1e-5)


@pytest.mark.parametrize("moment", ["before it is read", "while it is read"])
def test_a_bundle_that_takes_the_place_of_another_is_refused(
    moment: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = bundle.load_info(copied).sha256
    assert load_engine(copied, "openvino", 1, sha256=meant).name == "openvino"
    read = load.openvino_engine

    def replace_and_read(*given: Any, **named: Any) -> Any:
        edit_info(copied, seed=99)
        return read(*given, **named)

    if moment == "before it is read":
        edit_info(copied, seed=99)
    else:
        monkeypatch.setattr(load, "openvino_engine", replace_and_read)
    with pytest.raises(BundleError) as caught:
        load_engine(copied, "openvino", 1, sha256=meant)
    there = bundle.load_info(copied).sha256
    message = f"{copied} holds the bundle {there[:12]} and the run began with {meant[:12]}: it was"
    assert str(caught.value).startswith(message)


def test_model_card_states_what_a_reader_needs(written: Path) -> None:
    card = (written / "README.md").read_text()

    assert "Not a diagnostic device" in card
    assert "0.900 [0.850–0.940]" in card
    assert "undefined: no image was called NORMAL" in card
    assert "0.4321 (chosen by: youden, highest sensitivity" in card
    assert "| train | 30 | 90 | 120 | 75.0% |" in card
    assert "10 images of 7 patients" in card


def test_metadata_is_read_without_keras_and_numpy(written: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from orchestrator.model.bundle import load_info
assert load_info(Path({str(written)!r})).backbone == "tiny"
found = [name for name in {HEAVY} if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "name",
    [
        *("model.keras", "openvino.xml", "openvino.bin", "README.md"),
        *("card.json", "golden.json", "report.html"),
    ],
)
def test_one_changed_byte_is_found(copied: Path, name: str) -> None:
    path = copied / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(BundleError, match=rf"{name} differs from what bundle.json records"):
        bundle.load_info(copied)


def test_missing_file(copied: Path) -> None:
    (copied / "openvino.bin").unlink()

    with pytest.raises(BundleError, match=r"openvino\.bin is missing from the bundle"):
        bundle.load_info(copied)


def test_link_instead_of_a_file(copied: Path, written: Path) -> None:
    (copied / "README.md").unlink()
    (copied / "README.md").symlink_to(written / "README.md")

    with pytest.raises(BundleError, match=r"README\.md is not a regular file"):
        bundle.load_info(copied)


@pytest.mark.parametrize("name", ["model.h5", "Weights.PKL", "optimizer.pt", "scaler.joblib"])
def test_files_that_could_run_code_are_refused(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"x")

    with pytest.raises(BundleError, match=f"holds {name}, a kind of file that can run code"):
        bundle.load_info(copied)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../escaped.html", "expected plain file names"),
        (".hidden.html", "expected plain file names"),
        ("bundle.json", "expected plain file names"),
        ("model.h5", "a kind of file that is not loaded"),
        ("run.py", "a kind of file that is not loaded"),
    ],
)
def test_listed_names_that_are_refused(copied: Path, name: str, message: str) -> None:
    files = json.loads((copied / "bundle.json").read_text())["files"]
    edit_info(copied, files=files | {name: {"sha256": "0" * 64, "size_bytes": 1}})

    with pytest.raises(BundleError, match=message):
        bundle.load_info(copied)


def test_unlisted_model(copied: Path) -> None:
    files = json.loads((copied / "bundle.json").read_text())["files"]
    del files["model.keras"]
    edit_info(copied, files=files)

    with pytest.raises(BundleError, match=r"does not list model\.keras"):
        bundle.load_info(copied)


def replace_model(folder: Path, model: keras.Model) -> None:
    """Puts another network into a bundle, with its right hash."""
    model.save(folder / "model.keras")
    files = json.loads((folder / "bundle.json").read_text())["files"]
    path = folder / "model.keras"
    files["model.keras"] = {
        "sha256": bundle.sha256_file(path),
        "size_bytes": path.stat().st_size,
    }
    edit_info(folder, files=files)


def test_lambda_layer_is_refused(copied: Path) -> None:
    image = keras.Input((32, 32, 1))
    x = keras.layers.Lambda(lambda x: x * 2)(image)
    replace_model(copied, keras.Model(image, x))

    with pytest.raises(BundleError, match=r"model\.keras holds a Lambda layer") as raised:
        bundle.load_info(copied)
    assert "\n" not in str(raised.value)


def test_custom_class_is_refused(copied: Path) -> None:
    class Sneaky(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    image = keras.Input((32, 32, 1))
    replace_model(copied, keras.Model(image, Sneaky()(image)))

    with pytest.raises(BundleError, match=r"needs .*Sneaky, which is not Keras's own"):
        bundle.load_network(copied)


def test_network_of_another_form_is_refused(copied: Path) -> None:
    replace_model(copied, build_network(build_backbone("tiny", "none", 48), 0.2))

    with pytest.raises(BundleError, match=r"maps \(None, 48, 48, 1\) to \(None, 1\); expected"):
        bundle.load_network(copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "has schema_version None; expected a whole number"),
        ('{"schema_version": 2}', "made by a newer version of this program"),
        ('{"schema_version": 1}', "created: Field required"),
        ("[" * 100_000, "is not readable JSON"),
    ],
)
def test_bad_metadata(copied: Path, text: str, message: str) -> None:
    (copied / "bundle.json").write_text(text)

    with pytest.raises(BundleError, match=message):
        bundle.load_info(copied)


def test_unknown_key_in_metadata(copied: Path) -> None:
    edit_info(copied, surprise=1)

    with pytest.raises(BundleError, match="surprise: Extra inputs are not permitted"):
        bundle.load_info(copied)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no bundle\.json; it is not a bundle"):
        bundle.load_info(tmp_path)
    with pytest.raises(BundleError, match="does not exist; expected a bundle"):
        bundle.load_info(tmp_path / "none")
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.h5 is a file; expected a bundle"):
        bundle.load_info(tmp_path / "model.h5")


def test_a_power_cut_leaves_a_whole_bundle_or_none(
    network: keras.Model, written: Path, tmp_path: Path
) -> None:
    """The old bundle, none, or the new one, after every operation of its writing."""
    folder = tmp_path / "models" / "released"
    shutil.copytree(written, folder)
    with recorded(tmp_path / "models") as recording:
        write_bundle(folder, network, make_info(network, seed=4), num_threads=1)
    seen, states = set(), 0
    for moment in recording.moments:
        for tree in moment.trees:
            put(tree, tmp_path / "models")
            states += 1
            if (folder / "bundle.json").exists():
                seen.add(bundle.load_info(folder).seed)
            else:
                seen.add(None)
    print(f"bundle: {len(recording.moments)} prefixes, {states} states")  # shown by -rP
    assert seen == {3, None, 4}
    assert len(recording.moments) > 15
    assert states > 10


def test_rewriting_removes_the_old_metadata_first(
    network: keras.Model, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BundleError("export failed")

    monkeypatch.setattr("orchestrator.model.engine.export.export_ir", fail)

    with pytest.raises(BundleError, match="export failed"):
        write_bundle(copied, network, make_info(network), num_threads=1)

    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        bundle.load_info(copied)
