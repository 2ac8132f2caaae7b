"""Tables behind an address list what the same tables list in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.listing import remote
from orchestrator.data.listing.addresses import open_folder
from orchestrator.data.listing.inputs import Inputs, list_inputs
from orchestrator.data.listing.remote_tables import is_remote_table
from orchestrator.data.source import open_manifest
from orchestrator.errors import DataError
from tests.data.s3_server import Bucket, serve_s3

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID\n"
CHEXPERT = "Path,Sex,Frontal/Lateral,No Finding,Pneumonia\n"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)
    with serve_s3() as found:
        yield found


def put(bucket: Bucket, folder: Path, files: dict[str, bytes]) -> None:
    """Writes the same files into a folder and into the bucket below `in/`."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        bucket.objects[f"in/{name}"] = data


def facts(listed: Inputs) -> list[tuple[object, ...]]:
    return [(r.root, r.path, r.line, r.size_bytes, *r[6:]) for r in listed.rows()]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("labels.csv", "path,label,patient_id,split\na/1.png,0,p1,train\nb/2.png,1,,test\n"),
        ("labels.csv", "path,label\na\\1.png,NORMAL\nin/b/2.png,PNEUMONIA\ngone.png,0\n"),
        ("sub/labels.TSV", "path\tlabel\n3.png\t0\n"),
        ("nih.csv", f"{NIH}1.png,No Finding,0,1\n2.png,Pneumonia|Mass,0,2\n"),
        ("train.csv", f"{CHEXPERT}in/a/1.png,F,Frontal,1,\nin/b/2.png,F,Frontal,,1\n"),
        ("labels.csv", "path\na\na/1.png\n"),
    ],
)
def test_a_table_lists_what_it_lists_in_a_folder(
    bucket: Bucket, tmp_path: Path, name: str, table: str
) -> None:
    folder = tmp_path / "in"
    files = {"a/1.png": b"1", "b/2.png": b"22", "sub/3.png": b"333", name: table.encode()}
    put(bucket, folder, files)
    listed, expected = list_inputs([bucket.address(f"in/{name}")]), list_inputs([folder / name])
    assert facts(listed) == facts(expected)
    assert listed.metadata == expected.metadata
    assert listed.roots == (bucket.address(str(Path("in", name).parent)).encode(),)
    for row in listed.rows():
        if row.code is None:
            read = open_folder(listed.roots[0].decode()).read(row.raw, remote.Limits())
            assert len(read) == row.size_bytes


def test_paths_may_be_addresses_below_the_tables_folder(bucket: Bucket) -> None:
    bucket.objects |= {"in/a/1.png": b"1"}
    bucket.objects["in/labels.csv"] = b"path,label\ns3://xrays/in/a/1.png,1\n"
    (row,) = list_inputs([bucket.address("in/labels.csv")]).rows()
    assert (row.path, row.label, row.code) == ("a/1.png", 1, None)


def test_a_path_to_this_machine_in_a_strangers_table_is_not_opened(
    bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    bucket.objects["in/1.png"] = b"1"
    bucket.objects["in/labels.csv"] = f"path\n{tmp_path / 'x.png'}\n1.png\n".encode()
    rows = list(list_inputs([bucket.address("in/labels.csv")]).rows())
    assert {(row.root, row.code) for row in rows} == {(0, None), (0, "missing_file")}


def test_a_parquet_table_becomes_a_manifest(bucket: Bucket) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "label": [0, 1]}), sink)
    bucket.objects |= {"in/1.png": b"1", "in/2.png": b"2"}
    bucket.objects["in/labels.parquet"] = sink.getvalue().to_pybytes()
    manifest, ingested = open_manifest(bucket.address("in/labels.parquet"), 10)
    assert ingested is None
    assert manifest.table["label"].to_pylist() == [0, 1]
    folder, _ = open_manifest(bucket.address("in"), 10)
    assert folder.table.num_rows == 3


def test_what_is_wrong_with_a_table_is_one_line(bucket: Bucket) -> None:
    bucket.objects |= {"in/1.png": b"1", "in/labels.csv": b"path\nelsewhere/1.png\n"}
    with pytest.raises(DataError, match=r"none of the 1 files.* 1.png is there: remove else"):
        list_inputs([bucket.address("in/labels.csv")])
    with pytest.raises(DataError, match=r"the table s3.* cannot be read: There is no such file;"):
        list_inputs([bucket.address("in/gone.csv")])
    with pytest.raises(DataError, match="is not a folder; expected one table, or folders"):
        list_inputs([bucket.address("in/labels.csv"), bucket.address("other")])


def test_a_table_is_told_by_its_name() -> None:
    assert is_remote_table("s3://b/x.CSV?endpoint_override=y")
    assert not is_remote_table("s3://b/x?name=y.csv")
    assert not is_remote_table("dicomweb+https://h/x.csv?Modality=DX")
    assert not is_remote_table("/data/x.csv")
