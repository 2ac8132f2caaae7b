import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.data.limits import Limits
from orchestrator.data.manifest import build_manifest, open_manifest_file, write_manifest
from orchestrator.data.source import FileReader, FileSource
from orchestrator.errors import ClusterError, ImageError
from tests.data.make_images import make_chest, write_picture

NUM_FILES = 150  # more than are decoded ahead


@pytest.fixture(scope="module")
def image() -> bytes:
    return write_picture(make_chest(64, 64), "jpeg")


@pytest.fixture
def folder(image: bytes, tmp_path: Path) -> Path:
    """A folder of so many X-rays, named by their rows."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    for row in range(NUM_FILES):
        (folder / f"{row:03}.jpeg").write_bytes(image)
    return folder


@contextlib.contextmanager
def reading(folder: Path, *, again: bool = False) -> Iterator[FileReader]:
    """Yields a reader of a folder's only shard, listed before, or by the reader before it."""
    path = folder.parent / "manifest.parquet"
    if not again:
        write_manifest(build_manifest(folder, NUM_FILES), path)
    stored = open_manifest_file(path)
    source = FileSource(path, stored.roots, stored.num_shards, 32, Limits(), None)
    reader = source.open_reader(1)
    yield reader
    reader.close()


def put_another_in_place(folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.mkdir()
    (folder / "other.txt").write_text("")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("vanish", "said"),
    [
        (lambda folder: folder.rename(folder.with_name("away")), "is not there any more"),
        (empty, "is empty now"),
        (put_another_in_place, "is another folder than before"),
    ],
)
def test_storage_that_vanishes_ends_the_reading(
    folder: Path, vanish: Callable[[Path], None], said: str
) -> None:
    with reading(folder) as reader:
        rows = reader.decode_shard(0)
        assert next(rows)[0]["code"] is None
        vanish(folder)
        read = []
        with pytest.raises(ClusterError, match=f"{folder} {said}; what is done is kept"):
            read.extend(row["code"] for row, _ in rows)
        assert set(read) <= {None}


def test_a_file_that_is_gone_costs_only_itself(folder: Path) -> None:
    with reading(folder) as reader:
        (folder / "100.jpeg").unlink()
        (folder / "120.jpeg").unlink()
        codes = {row["row"]: row["code"] for row, _ in reader.decode_shard(0)}
    assert len(codes) == NUM_FILES
    assert {row: code for row, code in codes.items() if code} == {
        100: "missing_file",
        120: "missing_file",
    }


def test_a_file_that_is_gone_for_a_moment_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(folder) as reader:
        pool, sent = reader._pool, []
        submit = pool.submit
        monkeypatch.setattr(pool, "submit", lambda file: sent.append(submit(file)) or sent[-1])
        gone, away = folder / "001.jpeg", folder.with_name("away.jpeg")
        gone.rename(away)
        rows = reader.decode_shard(0)
        next(rows)
        assert isinstance(sent[1].exception(30), ImageError)
        away.rename(gone)
        row, pixels = next(rows)
        assert (row["row"], row["code"]) == (1, None)
        assert pixels is not None
        rows.close()


def test_a_share_that_is_still_gone_when_the_run_goes_on(image: bytes, tmp_path: Path) -> None:
    folder, mounted = tmp_path / "xrays", tmp_path / "share"
    mounted.mkdir()
    (mounted / "a.jpeg").write_bytes(image)
    share = folder / "share"
    share.mkdir(parents=True)
    (folder / "b.jpeg").write_bytes(image)
    left = share.stat()
    share.rmdir()
    mounted.rename(share)
    with reading(folder) as reader:
        assert all(pixels is not None for _, pixels in reader.decode_shard(0))
    share.rename(mounted)
    share.mkdir()  # what was under the share, as old as it was
    os.utime(share, ns=(left.st_atime_ns, left.st_mtime_ns))
    with (
        reading(folder, again=True) as reader,
        pytest.raises(ClusterError, match="xrays/share is empty; what is done is kept"),
    ):
        list(reader.decode_shard(0))
    share.touch()  # files were removed from it meanwhile
    with reading(folder, again=True) as reader:
        codes = {row["path"]: row["code"] for row, _ in reader.decode_shard(0)}
    assert codes == {"b.jpeg": None, "share/a.jpeg": "missing_file"}
