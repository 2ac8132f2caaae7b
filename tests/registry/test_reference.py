import json
from pathlib import Path

import fsspec
import pytest

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.bundle import load_info
from orchestrator.registry.history import promote, version_folder
from orchestrator.registry.reference import diff_models, is_alias, open_model, pin_model
from tests.data.s3_server import serve_s3
from tests.registry.bundles import make_bundle
from tests.registry.test_history import make_registry, no_syncs, quiet

__all__ = ["no_syncs"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_registry(tmp_path)


def test_an_alias_and_a_version_name_the_same_bundle(place: Path, tmp_path: Path) -> None:
    by_alias, by_version = open_model("models:production"), open_model(f"{place}:lite@2")
    assert by_alias == by_version
    assert by_alias.name == f"{place}:lite@2"
    assert by_alias.version == "lite@2"
    assert by_alias.info.sha256 == load_info(tmp_path / "bundle-2").sha256
    assert by_alias.folder == version_folder(str(place), by_alias.info.sha256)
    assert open_model(by_alias.name) == by_alias


def test_a_bundle_that_is_named_itself_is_no_version(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("bundle-1")
    model = open_model("link")
    assert (model.name, model.folder, model.version) == (
        str(tmp_path / "bundle-1"),
        tmp_path / "bundle-1",
        None,
    )


def test_a_pinned_name_stays_what_it_was(place: Path) -> None:
    pinned = pin_model("models:production")
    promote(place, "lite@3", "production", "why", quiet, force=True)
    assert pinned == "models:lite@2"
    assert open_model(pinned).version == "lite@2"
    assert pin_model("bundle-1") == "bundle-1"
    assert is_alias("models:production")
    assert not is_alias(pinned)
    assert not is_alias("models")


def test_what_a_registry_does_not_have_is_refused(place: Path) -> None:
    for text in ("models:staging", "models:lite@9", "elsewhere:production"):
        with pytest.raises(SpecError, match=r"has no .*; aliases: .*; versions: "):
            open_model(text)


def test_another_bundle_in_a_version_s_place_is_refused(place: Path, tmp_path: Path) -> None:
    stored = open_model("models:lite@2").folder
    stored.rename(tmp_path / "aside")
    (tmp_path / "bundle-1").rename(stored)  # a bundle whose own hashes are right
    with pytest.raises(BundleError, match=r"lite@2 of the registry .* was .* and is .* now"):
        open_model("models:production")


def test_a_registry_and_a_bundle_at_an_address_are_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    local = open_model("models:production")
    with serve_s3() as bucket:
        for root, prefix in ((place, "models"), (tmp_path / "bundle-3", "plain")):
            for path in root.rglob("*"):
                if path.is_file():
                    bucket.objects[f"{prefix}/{path.relative_to(root)}"] = path.read_bytes()
        address = bucket.address("models")
        model = open_model(f"{address}:production")
        plain = open_model(bucket.address("plain"))
        asked = len(bucket.requests)
        assert open_model(model.name).folder == model.folder
        assert len(bucket.requests) - asked < len(local.info.files) + 10  # copied once
        bucket.objects["plain/README.md"] = b"another"
        plain.folder.rename(tmp_path / "gone")
        with pytest.raises(BundleError, match=r"README.md differs from what bundle.json records"):
            open_model(bucket.address("plain"))
        with pytest.raises(SpecError, match="has no staging"):
            open_model(f"{address}:staging")
        with pytest.raises(BundleError, match=r"cannot read bundle.json of the bundle at s3://"):
            open_model(bucket.address("nothing"))
    assert model.name == f"{address}:lite@2"
    assert model.info == local.info
    assert plain.info.sha256 == load_info(tmp_path / "bundle-3").sha256
    assert model.folder == tmp_path / "models" / "fetched" / model.info.sha256
    assert {path.name for path in model.folder.iterdir()} == {*model.info.files, "bundle.json"}
    assert not plain.folder.exists()


def test_a_bundle_at_an_address_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    described = json.loads((folder / "bundle.json").read_text())
    described["files"]["../../../evil.md"] = described["files"]["README.md"]
    stored = fsspec.filesystem("memory")
    for path in folder.iterdir():
        stored.pipe_file(f"/planted/{path.name}", path.read_bytes())
    stored.pipe_file("/planted/bundle.json", json.dumps(described).encode())
    stored.pipe_file("/evil.md", (folder / "README.md").read_bytes())
    with pytest.raises(BundleError, match=r"lists '\.\./\.\./\.\./evil\.md'; expected plain file"):
        open_model("memory://planted")


def test_a_difference_is_named_by_its_field(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "a", seed=1, training={"lr": 0.01, "epochs": 3})
    second = make_bundle(tmp_path / "b", seed=1, training={"lr": 0.02})
    found = diff_models(load_info(first), load_info(second))
    assert {n: v for n, v in found.items() if not n.startswith("files.")} == {
        "training.lr": (0.01, 0.02),
        "training.epochs": (3, None),
    }
    assert diff_models(load_info(first), load_info(first)) == {}
