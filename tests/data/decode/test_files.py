import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.data.decode.files import read_file
from orchestrator.data.limits import REJECTION_CODES, Limits
from orchestrator.errors import ImageError

LIMITS = Limits(max_bytes=1000)


def rejected(root: Path, path: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        read_file(os.fsencode(root), path, limits)
    assert caught.value.message.endswith(REJECTION_CODES[caught.value.code])
    assert caught.value.__context__ is None
    return caught.value.code


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "x.jpg").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


@pytest.mark.parametrize("path", [b"a/b/x.jpg", b"./a//b/./x.jpg", b"a/../a/b/x.jpg"])
def test_reads_a_file_under_the_root(root, path):
    assert read_file(os.fsencode(root), path, LIMITS) == b"inside"


def test_a_name_may_be_any_bytes(root):
    for name in (b"\xff\xfe.jpg", b"new\nline", b'<img onerror="x">', b"=1+1", b"-rf"):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(name)
        assert read_file(os.fsencode(root), name, LIMITS) == name


def test_links_that_stay_inside_are_followed(root, tmp_path):
    (root / "relative").symlink_to("a/b/x.jpg")
    (root / "a" / "up").symlink_to("../a/b")
    (root / "absolute").symlink_to(root / "a" / "b" / "x.jpg")
    (tmp_path / "alias").symlink_to(root)
    (root / "through alias").symlink_to(tmp_path / "alias" / "a" / "b" / "x.jpg")
    for path in (b"relative", b"a/up/x.jpg", b"absolute"):
        assert read_file(os.fsencode(root), path, LIMITS) == b"inside"
    alias = os.fsencode(tmp_path / "alias")
    assert read_file(alias, b"absolute", LIMITS) == b"inside"
    assert read_file(alias, b"through alias", LIMITS) == b"inside"


def test_links_that_leave_the_root_are_refused(root, tmp_path):
    (root / "up").symlink_to("../secret")
    (root / "a" / "far").symlink_to("../../secret")
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "sly").symlink_to(f"{root}/../secret")
    (root / "null").symlink_to("/dev/null")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "x").write_bytes(b"outside")
    (root / "sibling").symlink_to(tmp_path / "root2" / "x")
    for path in (b"up", b"a/far", b"absolute", b"folder/secret", b"sly", b"null", b"sibling"):
        assert rejected(root, path) == "link_outside_root"
    assert rejected(root, b"../secret") == "link_outside_root"
    assert rejected(root, b"a/../../secret") == "link_outside_root"
    assert rejected(root, os.fsencode(tmp_path / "secret")) == "link_outside_root"


def test_link_loops_end(root):
    (root / "self").symlink_to("self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "a" / "deep").symlink_to(".")
    assert rejected(root, b"self") == "link_loop"
    assert rejected(root, b"ping") == "link_loop"
    assert read_file(os.fsencode(root), b"a/" + b"deep/" * 40 + b"b/x.jpg", LIMITS) == b"inside"
    assert rejected(root, b"a/" + b"deep/" * 41 + b"b/x.jpg") == "link_loop"


def test_a_fifo_a_socket_and_a_device_are_not_opened(root, monkeypatch):
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)
        server.bind("socket")
        opened: list[bytes | str] = []
        real_open = os.open
        monkeypatch.setattr(
            os, "open", lambda path, *args, **kwargs: opened.append(path)
            or real_open(path, *args, **kwargs)
        )  # fmt: skip
        assert rejected(root, b"fifo") == "not_a_file"
        assert rejected(root, b"socket") == "not_a_file"
        assert rejected(Path("/dev"), b"null") == "not_a_file"
    assert opened == [os.fsencode(root), os.fsencode(root), b"/dev"]


def test_folders_and_missing_files(root):
    assert rejected(root, b"a") == "not_a_file"
    assert rejected(root, b"a/b/") == "not_a_file"
    assert rejected(root, b"") == "not_a_file"
    assert rejected(root, b"nowhere") == "missing_file"
    assert rejected(root, b"nowhere/x.jpg") == "missing_file"
    assert rejected(root, b"a/b/x.jpg/y") == "missing_file"
    assert rejected(root / "gone", b"x") == "missing_file"
    (root / "dangling").symlink_to("nowhere")
    assert rejected(root, b"dangling") == "missing_file"
    assert rejected(root, b"x" * 300) == "unreadable"
    assert rejected(root, b"a\0b") == "link_outside_root"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_files(root):
    (root / "a" / "b" / "x.jpg").chmod(0)
    assert rejected(root, b"a/b/x.jpg") == "unreadable"
    (root / "a" / "b").chmod(0)
    assert rejected(root, b"a/b/x.jpg") == "unreadable"
    (root / "a" / "b").chmod(0o700)


def test_size_limits(root):
    (root / "empty").write_bytes(b"")
    (root / "full").write_bytes(b"x" * 1000)
    (root / "over").write_bytes(b"x" * 1001)
    assert rejected(root, b"empty") == "empty_file"
    assert rejected(root, b"over") == "too_large"
    assert read_file(os.fsencode(root), b"full", LIMITS) == b"x" * 1000


def test_a_sparse_giant_is_not_read(root):
    with (root / "giant").open("wb") as file:
        file.truncate(1 << 40)
    assert rejected(root, b"giant") == "too_large"


def test_no_descriptor_is_left_open(root):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for path in (b"a/b/x.jpg", b"a", b"nowhere", b"a/b/x.jpg/y"):
        with contextlib.suppress(ImageError):
            read_file(os.fsencode(root), path, LIMITS)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_rename_during_the_run_never_leads_outside(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.jpg").write_bytes(b"outside")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            os.rename(root / "a" / "b", root / "a" / "kept")  # noqa: PTH104
            os.rename(tmp_path / "link", root / "a" / "b")  # noqa: PTH104
            os.rename(root / "a" / "b", tmp_path / "link")  # noqa: PTH104
            os.rename(root / "a" / "kept", root / "a" / "b")  # noqa: PTH104

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(3000):
            try:
                outcomes.add(read_file(os.fsencode(root), b"a/b/x.jpg", LIMITS))
            except ImageError as error:
                outcomes.add(error.code)
    finally:
        done.set()
        thread.join()
    assert b"outside" not in outcomes
    assert b"inside" in outcomes
