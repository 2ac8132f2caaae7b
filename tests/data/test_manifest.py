# pathlib has no paths of bytes
# ruff: noqa: PTH103, PTH113, PTH118, PTH120, PTH123
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import (
    SPLIT_COLUMN_KEY,
    build_manifest,
    load_manifest,
    load_shard,
    write_manifest,
)
from orchestrator.data.schema import MANIFEST, unescape_path
from orchestrator.errors import DataError
from tests.conftest import PUBLIC_DATA

REAL = PUBLIC_DATA
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the public X-rays are not here")


def touch(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x" * len(name))


def columns(manifest, *names):
    rows = manifest.table.select(list(names)).to_pylist()
    return [tuple(row[name] for name in names) for row in rows]


def test_train_and_test_folders_in_any_case(tmp_path):
    touch(
        tmp_path,
        "Train/normal/IM-0001-0001.jpeg",
        "Train/PNEUMONIA/person1_virus_1.jpeg",
        "TEST/Pneumonia/person1_virus_2.jpeg",
        "validation/NORMAL/other.jpeg",
        "readme.txt",
    )
    manifest = build_manifest(tmp_path, 2)
    assert columns(manifest, "row", "shard", "path", "label", "split", "patient_id") == [
        (0, 0, "TEST/Pneumonia/person1_virus_2.jpeg", 1, "test", "test/person1_virus"),
        (1, 0, "Train/PNEUMONIA/person1_virus_1.jpeg", 1, "train", "train/person1_virus"),
        (2, 1, "Train/normal/IM-0001-0001.jpeg", 0, "train", "train/IM-0001"),
        (3, 1, "readme.txt", None, None, None),
        (4, 2, "validation/NORMAL/other.jpeg", 0, "val", None),
    ]
    assert manifest.roots == (os.fsencode(tmp_path),)
    assert manifest.table.schema.equals(MANIFEST)
    assert columns(manifest, "patient_source")[2:4] == [("filename",), (None,)]


def test_a_flat_folder_has_no_labels_and_hidden_files_have_rows_on_request(tmp_path):
    touch(tmp_path, "b.jpg", ".DS_Store", "Thumbs.db", "a/.hidden/c.jpg")
    assert columns(build_manifest(tmp_path, 10), "path", "label", "code") == [("b.jpg", None, None)]
    manifest = build_manifest(tmp_path, 10, ListingOptions(include_hidden=True))
    assert columns(manifest, "path", "label", "code") == [
        (".DS_Store", None, None),
        ("Thumbs.db", None, None),
        ("a/.hidden/c.jpg", None, None),
        ("b.jpg", None, None),
    ]
    assert columns(manifest, "size_bytes")[3] == (len("b.jpg"),)


def test_order_is_that_of_path_bytes_whatever_the_folders(tmp_path):
    names = [b"a/z", b"a-b", b"a", b"a.b/c", b"\xff", b"\xc3\xa9", b"B", b"a0"]
    touch(tmp_path, *(name if b"/" in name or name != b"a" else b"a/a" for name in names))
    paths = [unescape_path(path) for (path,) in columns(build_manifest(tmp_path, 1), "path")]
    assert paths == sorted(paths)
    assert paths == [b"B", b"a-b", b"a.b/c", b"a/a", b"a/z", b"a0", b"\xc3\xa9", b"\xff"]


def test_names_of_any_bytes_survive_the_round_trip_through_the_file(tmp_path):
    names = {b"caf\xe9.jpg", b"a\nb.jpg", b"=1.jpg", b"back\\slash", "\u202egpj.exe".encode()}
    touch(tmp_path / "in", *names)
    write_manifest(build_manifest(tmp_path / "in", 2), tmp_path / "m.parquet")
    paths = load_manifest(tmp_path / "m.parquet").table.column("path").to_pylist()
    assert {unescape_path(path) for path in paths} == names
    assert all(path.isprintable() for path in paths)


def test_stored_manifest_is_the_same_one_and_a_shard_is_one_row_group(tmp_path):
    touch(tmp_path / b"in\xff".decode("utf-8", "surrogateescape"), *(f"{n}.jpg" for n in range(7)))
    manifest = build_manifest(Path(os.fsdecode(os.fsencode(tmp_path) + b"/in\xff")), 3)
    path = tmp_path / "m.parquet"
    write_manifest(manifest, path)
    loaded = load_manifest(path)
    assert loaded.table.equals(manifest.table)
    assert loaded.roots == manifest.roots == (os.fsencode(tmp_path) + b"/in\xff",)
    assert pq.ParquetFile(path).num_row_groups == 3
    shards = [load_shard(path, shard) for shard in range(3)]
    assert [shard.num_rows for shard in shards] == [3, 3, 1]
    assert pa.concat_tables(shards).equals(manifest.table)
    assert [name.name for name in tmp_path.iterdir() if name.name.startswith(".tmp")] == []
    for shard in (-1, 3):
        with pytest.raises(DataError, match="has the shards 0 to 2"):
            load_shard(path, shard)


def test_rejected_by_the_listing(tmp_path):
    touch(tmp_path, "NORMAL/good.jpg")
    os.mkfifo(tmp_path / "NORMAL" / "fifo")
    manifest = build_manifest(tmp_path, 10)
    assert columns(manifest, "path", "label", "code", "size_bytes") == [
        ("NORMAL/fifo", 0, "not_a_file", None),
        ("NORMAL/good.jpg", 0, None, len("NORMAL/good.jpg")),
    ]


def test_a_table_wins_over_the_path_and_the_path_fills_missing_columns(tmp_path):
    touch(tmp_path, "train/NORMAL/IM-0001-0001.jpeg", "b.jpg")
    (tmp_path / "labels.csv").write_text(
        "path,label,patient_id\ntrain/NORMAL/IM-0001-0001.jpeg,,p7\nb.jpg,PNEUMONIA,\nnone.jpg,1,\n"
    )
    manifest = build_manifest(tmp_path / "labels.csv", 10)
    names = ("path", "label", "patient_id", "patient_source", "split", "code")
    assert columns(manifest, *names) == [
        ("b.jpg", 1, None, None, None, None),
        ("none.jpg", 1, None, None, None, "missing_file"),
        ("train/NORMAL/IM-0001-0001.jpeg", None, "p7", "column", "train", None),
    ]
    assert manifest.table.schema.metadata is None

    (tmp_path / "paths.csv").write_text("path\ntrain/NORMAL/IM-0001-0001.jpeg\n")
    assert columns(build_manifest(tmp_path / "paths.csv", 10), *names) == [
        ("train/NORMAL/IM-0001-0001.jpeg", 0, "train/IM-0001", "filename", "train", None)
    ]


def test_a_split_column_is_marked_and_the_mark_survives_the_file(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text("path,split\na.jpg,val\n")
    manifest = build_manifest(tmp_path / "t.csv", 10)
    assert SPLIT_COLUMN_KEY in manifest.table.schema.metadata
    write_manifest(manifest, tmp_path / "m.parquet")
    assert SPLIT_COLUMN_KEY in load_manifest(tmp_path / "m.parquet").table.schema.metadata


def test_absolute_paths_of_a_table_are_relative_to_the_system_root(tmp_path):
    touch(tmp_path, "tables/in.jpg", "images/out.jpg")
    table = tmp_path / "tables" / "t.csv"
    table.write_text(f"path\n{tmp_path}/images/out.jpg\n{tmp_path}/tables/in.jpg\n")
    manifest = build_manifest(table, 10)
    assert manifest.roots == (os.fsencode(tmp_path / "tables"), b"/")
    outside = str(tmp_path / "images" / "out.jpg")[1:]
    assert columns(manifest, "root", "path", "code") == [(0, "in.jpg", None), (1, outside, None)]
    for root, path in columns(manifest, "root", "path"):
        assert os.path.isfile(os.path.join(manifest.roots[root], unescape_path(path)))


def test_a_path_listed_twice_names_both_lines(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    for again in ("a.jpg", "./a.jpg", "b/../a.jpg", str(tmp_path / "a.jpg")):
        (tmp_path / "t.csv").write_text(f"path\na.jpg\nb.jpg\n{again}\n")
        with pytest.raises(DataError, match=r"t\.csv, line 4 lists the same path as 2"):
            build_manifest(tmp_path / "t.csv", 10)


def test_the_order_of_a_table_does_not_matter(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "one.csv").write_text("path,label\nc.jpg,1\na.jpg,0\nb.jpg,1\n")
    (tmp_path / "two.csv").write_text("path,label\na.jpg,0\nb.jpg,1\nc.jpg,1\n")
    pq.write_table(
        pa.table({"label": ["pneumonia", "normal", "1"], "path": ["b.jpg", "a.jpg", "c.jpg"]}),
        tmp_path / "three.parquet",
    )
    one, two, three = (
        build_manifest(tmp_path / name, 2).table for name in ("one.csv", "two.csv", "three.parquet")
    )
    assert one.equals(two)
    assert one.equals(three)


def test_nothing_there(tmp_path):
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="holds no files; expected chest X-rays"):
        build_manifest(tmp_path / "empty", 10)
    with pytest.raises(DataError, match=r"the table t\.csv has no rows"):
        build_manifest(tmp_path / "t.csv", 10)
    with pytest.raises(DataError, match="none does not exist; name a folder"):
        build_manifest(tmp_path / "none", 10)
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(DataError, match=r"fifo\.csv is not a regular file"):
        build_manifest(tmp_path / "fifo.csv", 10)


def test_a_file_that_is_no_manifest(tmp_path):
    path = tmp_path / "m.parquet"
    with pytest.raises(DataError, match="does not exist; expected a manifest"):
        load_manifest(path)
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="not a whole manifest"):
        load_manifest(path)
    pq.write_table(pa.table({"path": ["a"]}), path)
    with pytest.raises(DataError, match="has the columns path; expected a manifest"):
        load_shard(path, 0)

    touch(tmp_path / "in", *(f"{n}.jpg" for n in range(4)))
    table = build_manifest(tmp_path / "in", 2).table
    pq.write_table(table, path)  # no roots
    with pytest.raises(DataError, match="not a whole manifest"):
        load_manifest(path)
    with pytest.raises(DataError, match="not a whole manifest"):
        load_shard(path, 0)  # two shards in one row group
    whole = build_manifest(tmp_path / "in", 2)
    write_manifest(whole, path)
    reordered = table.take([1, 0, 2, 3]).replace_schema_metadata(
        pq.read_schema(path).metadata  # roots, but rows out of order
    )
    pq.write_table(reordered, path)
    with pytest.raises(DataError, match="not a whole manifest"):
        load_manifest(path)


@real_data
def test_public_training_folder():
    manifest = build_manifest(REAL / "kermany224", 256)
    table = manifest.table
    assert table.num_rows == 5216
    assert table.column("label").to_pylist().count(0) == 1341
    assert table.column("label").to_pylist().count(1) == 3875
    assert len(set(table.column("patient_id").to_pylist())) == 3654
    assert table.column("patient_id").null_count == 0
    assert set(table.column("split").to_pylist()) == {"train"}
    assert table.column("code").null_count == 5216


@real_data
def test_public_originals():
    table = build_manifest(REAL / "fullres", 256).table
    assert table.num_rows == 96
    assert table.column("label").to_pylist() == [0] * 48 + [1] * 48
    assert set(table.column("split").to_pylist()) == {None}
    assert table.column("patient_id").null_count == 0
