"""Folders behind addresses: a local S3 server, and fsspec's memory file system."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.config.addresses import is_address
from orchestrator.data.file_decoder import FileDecoder
from orchestrator.data.limits import Limits
from orchestrator.data.listing import remote
from orchestrator.data.listing.addresses import check_address, open_folder
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.errors import ClusterError, DataError, ImageError, SpecError
from tests.data.s3_server import Bucket, serve_s3

LIMITS = Limits()


@pytest.fixture(scope="module")
def served() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, serve_s3() as bucket:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield bucket


@pytest.fixture
def bucket(served: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    served.objects.clear()
    served.refused.clear()
    served.failing = False
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)
    return served


def test_every_object_below_a_prefix_is_listed_once_page_by_page(bucket: Bucket) -> None:
    names = [f"in/NORMAL/{n:02d}.jpeg" for n in range(13)] + ["in/a b/é&.png", "in/z"]
    bucket.objects |= {name: name.encode() for name in names}
    bucket.objects |= {"inside/x": b"not below in/", "x": b""}
    listed = list_inputs([bucket.address("in")])
    rows = list(listed.rows())
    assert [f"in/{row.path}" for row in rows] == sorted(names)
    assert [row.label for row in rows] == [0] * 13 + [None] * 2
    assert rows[0].size_bytes == len("in/NORMAL/00.jpeg")
    assert rows[0].mtime_ns == 1704067200 * 10**9
    assert listed.roots == (bucket.address("in").encode(),)
    for row in rows:
        assert open_folder(bucket.address("in")).read(row.raw, LIMITS) == f"in/{row.path}".encode()


def test_hidden_objects_and_copied_runs_are_no_input(bucket: Bucket) -> None:
    names = ["in/NORMAL/1.jpeg", "in/.DS_Store", "in/NORMAL/.x/2.jpeg", "in/__MACOSX/._1.jpeg"]
    names += ["in/night/manifest.parquet", "in/night/predictions/part-0.parquet", "in/_SUCCESS"]
    bucket.objects |= dict.fromkeys(names, b"x")
    listed = list_inputs([bucket.address("in")])
    assert [row.path for row in listed.rows()] == ["NORMAL/1.jpeg"]
    assert listed.notes.num_ignored == 5
    assert listed.notes.ignored["results of this program"] == 1
    everything = list_inputs([bucket.address("in")], ListingOptions(include_hidden=True))
    assert everything.num_rows == 5


@pytest.mark.parametrize(
    ("key", "code"),
    [("gone", "missing_file"), ("refused", "unreadable"), ("empty", "empty_file"),
     ("large", "too_large")],
)  # fmt: skip
def test_one_bad_object_is_a_rejection_of_its_own(bucket: Bucket, key: str, code: str) -> None:
    bucket.objects |= {"in/refused": b"x", "in/empty": b"", "in/large": b"x" * 101, "in/ok": b"x"}
    bucket.refused.add("in/refused")
    decoder = FileDecoder((bucket.address("in").encode(),), 8, Limits(max_bytes=100), None)
    with pytest.raises(ImageError) as caught:
        decoder.fetch((0, key.encode()))
    assert caught.value.code == code


def test_a_store_that_does_not_answer_is_an_error_of_the_run_not_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)
    folder = remote.RemoteFolder(remote._FsspecStore(Failing()), "in", "s3://b/in")
    with pytest.raises(ClusterError, match="does not give its files: no route to host"):
        folder.read(b"a", LIMITS)
    with pytest.raises(ClusterError, match=r"cannot list s3.*: no route to host; check"):
        list(folder.walk())


class Failing(MemoryFileSystem):
    """Of fsspec's kind; every call fails as a network does."""

    def ls(self, *_: object, **__: object) -> list[object]:
        raise OSError("no route to host")

    def info(self, *_: object, **__: object) -> dict[str, object]:
        raise OSError("no route to host")


def test_a_folder_that_goes_while_it_is_listed_leaves_a_row() -> None:
    memory = MemoryFileSystem(skip_instance_cache=True)
    memory.pipe("/going/kept/a.jpg", b"x")
    memory.pipe("/going/b.jpg", b"x")

    class Going(MemoryFileSystem):
        def ls(self, path: str, **options: object) -> list[object]:
            if path.endswith("kept"):
                raise FileNotFoundError(path)
            return super().ls(path, **options)

    found = list(remote.RemoteFolder(remote._FsspecStore(Going()), "/going", "memory://g").walk())
    assert sorted((item.path, item.code) for item in found) == [
        (b"b.jpg", None),
        (b"kept", "unlistable_folder"),
    ]


def test_a_prefix_with_nothing_below_it(bucket: Bucket) -> None:
    with pytest.raises(DataError, match=r"does not exist|holds no files"):
        list_inputs([bucket.address("nothing")])


def test_any_scheme_of_fsspec_is_an_input() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/site/NORMAL/a.jpg", b"abc")
    memory.pipe("/site/b.jpg", b"")
    listed = list_inputs(["memory://site"])
    assert [(row.path, row.size_bytes, row.label) for row in listed.rows()] == [
        ("NORMAL/a.jpg", 3, 0),
        ("b.jpg", 0, None),
    ]
    assert open_folder("memory://site").read(b"NORMAL/a.jpg", LIMITS) == b"abc"


def test_folders_and_addresses_stand_side_by_side_but_not_within_one_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    fsspec.filesystem("memory").pipe("/side/b.jpg", b"x")
    listed = list_inputs([tmp_path, "memory://side"])
    assert [(row.root, row.path) for row in listed.rows()] == [(0, "a.jpg"), (1, "b.jpg")]
    with pytest.raises(DataError, match="lies in the input memory://side"):
        list_inputs(["memory://side/deeper/", "memory://side"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/x", r"s3://\.\.\.@bucket/x holds credentials"),
        ("file:///data/x", "give the path itself"),
        ("nosuch://x", r"cannot open nosuch://x: .*expected an address such as s3://bucket"),
        ("s3://[x/y", r"cannot open s3://\[x/y: .*expected an address such as"),
        ("s3://", r"cannot open s3://: it names no folder; expected an address such as"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(address: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_address(address)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses_and_paths_are_told_apart() -> None:
    assert is_address("s3://bucket/x")
    assert not is_address("/data/a:/b")
