"""A finished run is copied to a store, `_SUCCESS` last, and nothing of anyone else's is touched."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from orchestrator.errors import ClusterError, SpecError
from orchestrator.pipelines.score.publish import check_free, publish
from orchestrator.runs.run_dir import RunDir, work_folder
from orchestrator.runs.states import Status
from tests.data.s3_server import Bucket, serve_s3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serve_s3() as bucket:
        yield bucket


def make_run(folder: Path, num_parts: int) -> RunDir:
    run = RunDir(folder)
    run.write_status(Status.RUNNING)
    for name in (*(f"predictions/part-{n:05d}.parquet" for n in range(num_parts)),
                 "rejected.parquet", "report.html", "_shards/part-00000.arrow",
                 "predictions/.tmp-0a-part-00000.parquet"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return run


EXPECTED = {"predictions/part-00000.parquet", "predictions/part-00001.parquet",
            "rejected.parquet", "report.html", "_SUCCESS"}  # fmt: skip


def test_a_run_arrives_whole_with_success_last(bucket: Bucket, tmp_path: Path) -> None:
    address = bucket.address("out/night")
    check_free(address)
    publish(make_run(tmp_path / "run", 2), address)
    assert {key.removeprefix("out/night/") for key in bucket.objects} == EXPECTED
    assert bucket.puts[-1] == "out/night/_SUCCESS"
    assert bucket.objects["out/night/rejected.parquet"] == b"rejected.parquet"
    with pytest.raises(SpecError, match="is not empty; name another address, or add --overwrite"):
        check_free(address)


def test_a_run_that_is_replaced_leaves_no_part_and_others_files_stay(
    bucket: Bucket, tmp_path: Path
) -> None:
    address = bucket.address("out")
    publish(make_run(tmp_path / "run", 5), address)
    bucket.objects["out/letter.txt"] = b"mine"
    bucket.objects["out/notes/part.parquet"] = b"mine"
    bucket.objects["outside"] = b"mine"
    publish(make_run(tmp_path / "again", 2), address)
    expected = {f"out/{name}" for name in EXPECTED}
    # Arrow leaves an empty object in the place of a folder that it has removed something from.
    left = {key for key in bucket.objects if not key.endswith("/")}
    assert left == expected | {"out/letter.txt", "out/notes/part.parquet", "outside"}


def test_success_is_not_seen_while_a_run_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    publish(make_run(tmp_path / "run", 1), "memory://night/one")
    assert memory.exists("/night/one/_SUCCESS")

    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(memory, "pipe_file", fail)
    with pytest.raises(ClusterError, match=r"no route to host; check .* the results are in /"):
        publish(make_run(tmp_path / "again", 1), "memory://night/one")
    assert not memory.exists("/night/one/_SUCCESS")


@pytest.mark.parametrize("number", range(1, 5))
def test_a_store_that_is_full_at_any_write_gets_the_run_once_there_is_space(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    address = f"memory://full/{number}"
    run = make_run(tmp_path / "run", 1)
    written = 0

    def pipe_file(path: str, data: bytes, **given: object) -> None:
        nonlocal written
        written += 1
        if written >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with memory.open(path, "wb") as file:
            file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "pipe_file", pipe_file)
        with pytest.raises(ClusterError) as caught:
            publish(run, address)
    assert str(caught.value) == (
        f"cannot write to {address}: [Errno 28] No space left on device; check the credentials, "
        "the network and the free space there, then run the same command again: the results are "
        f"in {run.path}"
    )
    assert not memory.exists(f"/full/{number}/_SUCCESS")
    publish(run, address)
    found = {name.removeprefix(f"/full/{number}/") for name in memory.find(f"/full/{number}")}
    assert found == EXPECTED - {"predictions/part-00001.parquet"}


def test_the_same_address_works_in_the_same_folder() -> None:
    first = work_folder("s3://bucket/night/one?region=x", Path("runs"))
    assert first == work_folder("s3://bucket/night/one?region=x", Path("runs"))
    assert first.name.startswith("one-")
    assert first != work_folder("s3://bucket/other/one?region=x", Path("runs"))
    assert work_folder("s3://bucket", Path("r")).parent == Path("r")
