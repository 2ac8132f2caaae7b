# pathlib has no paths of bytes
# ruff: noqa: PTH102, PTH123
import os

import pytest

from orchestrator.data.decode.files import read_file
from orchestrator.data.limits import REJECTION_CODES, Limits
from orchestrator.data.listing.listing import Listing
from orchestrator.errors import DataError, ImageError


def walk(root):
    found = list(Listing(os.fsencode(root)).walk())
    by_path = {item.path: item for item in found}
    assert len(by_path) == len(found), "a path was listed twice"
    return by_path


@pytest.fixture
def zoo(tmp_path):
    """A root with every kind of thing that is not a plain file, and files outside of it."""
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (root / "plain").write_bytes(b"12345")
    (root / ".hidden").write_bytes(b"1")
    (root / "sub" / "deep" / "file").write_bytes(b"123")
    (root / "to_file").symlink_to("sub/deep/file")
    (root / "to_file_absolute").symlink_to(root / "plain")
    (root / "to_folder").symlink_to("sub")
    (root / "to_self").symlink_to("to_self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "sub" / "to_parent").symlink_to("..")
    (root / "sub" / "to_own_folder").symlink_to(".")
    (root / "out_file").symlink_to("../outside/secret")
    (root / "out_folder").symlink_to(tmp_path / "outside")
    (root / "out_nowhere").symlink_to("/nowhere/at/all")
    (root / "dangling").symlink_to("sub/none")
    os.mkfifo(root / "fifo")
    (root / "to_fifo").symlink_to("fifo")
    return root


def test_each_kind_has_one_item_and_its_code(zoo):
    codes = {os.fsdecode(path): item.code for path, item in walk(zoo).items()}
    assert codes == {
        "plain": None,
        ".hidden": None,
        "sub/deep/file": None,
        "to_file": None,
        "to_file_absolute": None,
        "to_folder": "not_a_file",
        "to_self": "link_loop",
        "ping": "link_loop",
        "pong": "link_loop",
        "sub/to_parent": "link_loop",
        "sub/to_own_folder": "link_loop",
        "out_file": "link_outside_root",
        "out_folder": "link_outside_root",
        "out_nowhere": "link_outside_root",
        "dangling": "missing_file",
        "fifo": "not_a_file",
        "to_fifo": "not_a_file",
    }


def test_rejected_items_say_what_to_do_and_good_ones_have_a_size(zoo):
    for item in walk(zoo).values():
        if item.code is None:
            assert item.message is None
            assert item.size_bytes == len((zoo / os.fsdecode(item.path)).read_bytes())
            assert item.mtime_ns == (zoo / os.fsdecode(item.path)).stat().st_mtime_ns
        else:
            assert item.message.endswith(REJECTION_CODES[item.code])
            assert (item.size_bytes, item.mtime_ns) == (None, None)


def test_the_reader_agrees_with_the_listing(zoo):
    for path, item in walk(zoo).items():
        if item.code is None:
            assert len(read_file(os.fsencode(zoo), path, Limits())) == item.size_bytes
        else:
            with pytest.raises(ImageError):
                read_file(os.fsencode(zoo), path, Limits())


def test_a_root_reached_by_a_link_is_listed(zoo, tmp_path):
    (tmp_path / "link").symlink_to("root")
    assert walk(tmp_path / "link") == walk(zoo)


def test_names_are_bytes(tmp_path):
    names = [b"caf\xe9.jpg", b"new\nline.jpg", b"=1+1.jpg", b'"quoted".jpg', b"<img onerror=x>.jpg"]
    folder = os.fsencode(tmp_path) + b"/not utf-8 \xff"
    os.mkdir(folder)
    for name in names:
        with open(folder + b"/" + name, "wb"):
            pass
    assert set(walk(tmp_path)) == {b"not utf-8 \xff/" + name for name in names}


def test_a_folder_beyond_the_path_limit_is_one_rejected_item(tmp_path):
    name = "x" * 250
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # 5,000 bytes of path, over the 4,096 that the system takes
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    (tmp_path / "good").write_bytes(b"1")
    found = walk(tmp_path)
    assert found.pop(b"good").code is None
    assert [item.code for item in found.values()] == ["unlistable_folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_an_unreadable_folder_is_one_rejected_item(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "file").write_bytes(b"1")
    (tmp_path / "closed").chmod(0)
    try:
        codes = {path: item.code for path, item in walk(tmp_path).items()}
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert codes == {b"closed": "unlistable_folder"}


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot list the input folder \(No such file"):
        list(Listing(os.fsencode(tmp_path / "none")).walk())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"plain", None),
        (b"to_folder/deep/file", None),  # a table that names a path through a link means it
        (b"sub", "not_a_file"),
        (b"none", "missing_file"),
        (b"plain/below", "missing_file"),
        (b"out_folder/secret", "link_outside_root"),
        (b"out_file", "link_outside_root"),
        (b"to_self", "link_loop"),
        (b"fifo", "not_a_file"),
        (b"x" * 300, "unreadable"),
    ],
)
def test_look_up(zoo, path, code):
    listing = Listing(os.fsencode(zoo))
    assert listing.look_up(path).code == code
    assert listing.look_up(path).path == path


def test_what_git_annex_has_not_fetched_says_so(tmp_path):
    (tmp_path / "a.jpg").symlink_to(".git/annex/objects/SHA256E-1.jpg")
    (tmp_path / "b.jpg").symlink_to("elsewhere.jpg")
    found = walk(tmp_path)
    assert {item.code for item in found.values()} == {"missing_file"}
    assert found[b"a.jpg"].message.startswith("git-annex has not fetched it; run `git annex get`.")
    assert found[b"b.jpg"].message.startswith("There is no such file.")


def test_names_of_one_file_have_something_in_common(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    (tmp_path / "in" / "b").hardlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "c").symlink_to("a")
    (tmp_path / "in" / "single").write_bytes(b"1")
    (tmp_path / "in" / "link").symlink_to("single")
    found = walk(tmp_path)
    assert found[b"in/a"].same_as is not None
    assert len({found[name].same_as for name in (b"in/a", b"in/b", b"in/c")}) == 1
    assert found[b"in/single"].same_as is None
    assert found[b"in/link"].same_as == b"in/single"
