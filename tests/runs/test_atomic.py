import json
import os
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError
from orchestrator.runs.atomic import atomic_folder, atomic_path, digest, write_json, write_text


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="midway"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert list(tmp_path.iterdir()) == []


def test_a_write_replaces_whole_and_makes_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"n": 1})
    write_json(target, {"n": 2})
    assert json.loads(target.read_text()) == {"n": 2}
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert json.loads((tmp_path / "a").read_text()) == 1


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"cannot write .*a\.json: .*; free space or choose"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_private_file_is_private_from_its_first_byte_on(tmp_path: Path) -> None:
    write_text(tmp_path / "secret", "old")
    (tmp_path / "secret").chmod(0o644)
    with atomic_path(tmp_path / "secret", mode=0o600) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("new")
    assert (tmp_path / "secret").read_text() == "new"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    write_json(tmp_path / "json", 1, mode=0o640)
    assert (tmp_path / "json").stat().st_mode & 0o777 == 0o640 & ~umask()


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_json_holds_a_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    value = {"path": os.fsdecode(b"/x/\xff\xe9"), "ward": "儿科"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    assert "儿科" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "folder"
    with pytest.raises(ValueError, match="midway"), atomic_folder(final) as temporary:
        (temporary / "a").touch()
        raise ValueError("midway")
    assert list(final.parent.iterdir()) == []
    with atomic_folder(final) as temporary:
        (temporary / "a").touch()
        assert not final.exists()
    assert [p.name for p in final.parent.rglob("*")] == ["folder", "a"]
    message = r"cannot write .*folder: Directory not empty; free"
    with pytest.raises(ClusterError, match=message), atomic_folder(final) as temporary:
        (temporary / "b").touch()
    assert [p.name for p in final.parent.rglob("*")] == ["folder", "a"]
