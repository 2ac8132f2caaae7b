from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestrator.data.manifest import (
    SPLIT_COLUMN_KEY,
    Manifest,
    build_manifest,
    load_manifest,
    write_manifest,
)
from orchestrator.data.sample import sample_manifest
from orchestrator.data.schema import MANIFEST
from orchestrator.data.splits import split_rows


def manifest_of(rows: list[dict[str, object]]) -> Manifest:
    columns = {name: [row.get(name) for row in rows] for name in MANIFEST.names}
    columns["row"] = list(range(len(rows)))
    columns["shard"] = [0] * len(rows)
    columns["root"] = [0] * len(rows)
    columns["path"] = [f"{index}.png" for index in range(len(rows))]
    return Manifest(pa.Table.from_pydict(columns, schema=MANIFEST), (b"/x",))


def patients(num: int, images: int, label: int, split: str | None) -> list[dict[str, object]]:
    return [
        {"label": label, "patient_id": f"{split}-{label}-{number}", "split": split}
        for number in range(num)
        for _ in range(images)
    ]


WHOLE = manifest_of(
    patients(100, 3, 1, "train")
    + patients(100, 1, 0, "train")
    + patients(20, 2, 1, "test")
    + patients(20, 1, 0, "test")
    + [{"label": None}, {"label": 1, "code": "empty_file"}]
)


def test_patients_stay_whole_and_shares_are_kept() -> None:
    sample = sample_manifest(WHOLE, 230, seed=0, shard_rows=64)
    table = sample.table
    assert table.num_rows == 230
    for patient in pc.unique(table.column("patient_id")).to_pylist():
        of_patient = pc.equal(table.column("patient_id"), patient)
        whole = pc.equal(WHOLE.table.column("patient_id"), patient)
        assert table.filter(of_patient).num_rows == WHOLE.table.filter(whole).num_rows
    cells = table.group_by(["split", "label"]).aggregate([("row", "count")]).to_pylist()
    shares = {(cell["split"], cell["label"]): cell["row_count"] for cell in cells}
    assert shares == pytest.approx(
        {("train", 1): 150, ("train", 0): 50, ("test", 1): 20, ("test", 0): 10}, abs=2
    )
    assert pc.sum(pc.is_null(table.column("label"))).as_py() == 0


def test_rows_and_shards_are_numbered_anew(tmp_path: Path) -> None:
    sample = sample_manifest(WHOLE, 100, seed=0, shard_rows=32)
    assert sample.table.column("row").to_pylist() == list(range(100))
    assert sample.table.column("shard").to_pylist() == [row // 32 for row in range(100)]
    write_manifest(sample, tmp_path / "m.parquet")
    assert load_manifest(tmp_path / "m.parquet").table.equals(sample.table)


def test_the_seed_decides_and_nothing_else() -> None:
    taken = [
        sample_manifest(WHOLE, 100, seed=seed, shard_rows=64).table.column("path").to_pylist()
        for seed in (1, 1, 2)
    ]
    assert taken[0] == taken[1] != taken[2]


def test_what_a_table_said_of_its_splits_is_kept() -> None:
    whole = Manifest(WHOLE.table.replace_schema_metadata({SPLIT_COLUMN_KEY: b"1"}), WHOLE.roots)
    sample = sample_manifest(whole, 100, seed=0, shard_rows=64)
    assert sample.table.schema.metadata == {SPLIT_COLUMN_KEY: b"1"}


def test_a_small_manifest_is_left_as_it_is() -> None:
    assert sample_manifest(WHOLE, 460, seed=0, shard_rows=64) is WHOLE


def test_the_sample_of_a_folder_can_be_split(public_data: Path) -> None:
    whole = build_manifest(public_data / "kermany224", 64)
    sample = sample_manifest(whole, 600, seed=0, shard_rows=64)
    label = sample.table.column("label").to_numpy()
    assert abs(len(label) - 600) <= 2
    assert np.mean(label) == pytest.approx(3875 / 5216, abs=0.01)
    names = split_rows(sample.table, seed=0, merge_val=False).names.to_pylist()
    assert {"train": names.count("train"), "val": names.count("val")} == pytest.approx(
        {"train": 480, "val": 120}, abs=3
    )
