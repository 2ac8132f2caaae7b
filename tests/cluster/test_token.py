import os
import stat
from pathlib import Path

import pytest

from orchestrator.cluster.token import ensure_private_token, ensure_token, load_token
from orchestrator.errors import ClusterError
from tests.runs.power import put, recorded


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of a user without a token; the environment is put back."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_token_is_its_owners_and_stays(home: Path) -> None:
    ensure_token()
    file = home / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = load_token()
    assert len(token) == 64
    assert list(file.parent.iterdir()) == [file]
    ensure_private_token()
    assert load_token() == token
    assert os.environ["RAY_AUTH_TOKEN"] == ""


def test_the_rights_of_a_file_that_ray_made_are_put_right(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("made-by-ray")
    file.chmod(0o644)
    ensure_token()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_token() == "made-by-ray"
    changed = file.stat().st_ctime_ns
    ensure_token()  # a folder that is read-only by now must do
    assert file.stat().st_ctime_ns == changed


def test_an_empty_token_is_made_again(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    ensure_token()
    assert len(load_token()) == 64


def test_a_power_cut_leaves_a_whole_token_or_none(home: Path) -> None:
    home.mkdir()
    with recorded(home) as recording:
        ensure_token()
    sizes = set()
    for moment in recording.moments:
        for tree in moment.trees:
            put(tree, home)
            file = home / ".ray" / "auth_token"
            sizes.add(len(file.read_text()) if file.exists() else None)
    assert sizes == {None, 64}
    ensure_token()


@pytest.mark.parametrize("kind", ["no folder", "a file", "no user"])
def test_without_a_home_the_token_is_in_the_environment(
    home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "no folder":
        monkeypatch.setenv("HOME", "/proc/nowhere")
    elif kind == "a file":
        home.write_text("")
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # of which no name is known
    assert load_token() == ""
    with pytest.raises(ClusterError, match="set RAY_AUTH_TOKEN_PATH to a file that holds a token"):
        ensure_token()
    ensure_private_token()
    assert len(load_token()) == 64
    assert os.environ["RAY_AUTH_TOKEN"] == load_token()
