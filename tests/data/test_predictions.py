"""Predictions of one run, of many, and each file's latest, from run folders written by hand."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import read_predictions
from orchestrator.data.known.known_files import known_writer
from orchestrator.data.manifest import Manifest, write_listed, write_manifest
from orchestrator.data.schema import MANIFEST, PREDICTIONS, predictions_schema
from orchestrator.errors import DataError
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


def make_run(
    folder: Path,
    day: int,
    scored: dict[str, float],
    known: Sequence[tuple[str, str, str, int, str | None]] = (),
    root: bytes = b"/data",
    schema: pa.Schema = PREDICTIONS,
) -> RunDir:
    """A finished run that scored paths with probabilities and knew (path, how, run, row, code)."""
    run = RunDir(folder)
    files = [{"row": row, "shard": 0, "root": 0, "path": path} for row, path in enumerate(scored)]
    if files:
        write_manifest(Manifest(pa.Table.from_pylist(files, MANIFEST), (root,)), run.manifest)
    else:
        write_listed((), (root,), {}, run.manifest, 1)
    rows = [
        file | {"probability": value, "probability_1": value, "label": None if value > 0.8 else 0}
        for file, value in zip(files, scored.values(), strict=True)
    ]
    run.predictions.mkdir()
    for part in range(2):  # one file a shard
        table = pa.Table.from_pylist(rows[part::2], schema)
        pq.write_table(table, run.predictions / f"part-{part:05d}.parquet")
    with known_writer(run.known) as add:
        for path, how, origin, row, code in known:
            named = {"root": 0, "path": path, "matched": how, "run": origin, "run_row": row}
            add(named | {"code": code})
    write_json(run.status, {"succeeded_at": f"2026-03-{day:02d}T02:00:00+00:00"})
    write_text(run.success, "")
    return run


def shown(frame: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Run and probability by path; fails where a path stands twice."""
    assert frame["path"].is_unique
    return {row.path: (row.run_id, round(float(row.probability), 3)) for row in frame.itertuples()}


def test_one_run_is_read_with_its_columns_and_types(tmp_path: Path) -> None:
    make_run(tmp_path / "r", 1, {"a": 0.25, "b": 0.5, "c": 0.9})
    frame = read_predictions(tmp_path / "r")
    assert list(frame.columns) == ["run_id", *PREDICTIONS.names]
    assert frame["run_id"].tolist() == ["r"] * 3
    assert frame.set_index("path")["probability"].to_dict() == pytest.approx(
        {"a": 0.25, "b": 0.5, "c": 0.9}
    )
    assert set(frame["root"]) == {"/data"}
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert kinds["row"] == "Int64" and kinds["width_px"] == "Int32"
    assert kinds["label"] == kinds["predicted"] == "Int8"
    assert kinds["probability"] == kinds["logit"] == "float32"
    labels = frame.set_index("path")["label"]
    assert labels["a"] == 0 and labels["c"] is pd.NA
    pd.testing.assert_frame_equal(read_predictions(str(tmp_path / "r")), frame)


def test_all_finished_runs_of_a_folder_are_read_oldest_first(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 3, {"x": 0.1})
    make_run(tmp_path / "b", 2, {"x": 0.2, "y": 0.3})
    make_run(tmp_path / "c", 1, {})
    RunDir(tmp_path / "d").write_status(Status.RUNNING)
    make_run(tmp_path / "e", 4, {"z": 0.4}).success.unlink()  # killed before its end
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "_SUCCESS").touch()
    frame = read_predictions(tmp_path)
    assert frame[["run_id", "path"]].to_numpy().tolist() == [["b", "x"], ["b", "y"], ["a", "x"]]


def test_runs_of_one_and_of_several_models_are_read_together(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, {"x": 0.1})
    make_run(tmp_path / "b", 2, {"y": 0.2}, schema=predictions_schema(2))
    frame = read_predictions(tmp_path).set_index("path")
    assert pd.isna(frame["probability_1"]["x"]) and frame["probability_1"]["y"] > 0
    assert str(frame["probability_2"].dtype) == "float32"


def test_a_copied_run_without_a_status_is_read(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, {"x": 0.1}).status.unlink()
    assert len(read_predictions(tmp_path / "a")) == len(read_predictions(tmp_path)) == 1


def test_the_newest_run_that_scored_a_file_counts(tmp_path: Path) -> None:
    make_run(tmp_path / "z-first", 1, {"x": 0.1, "y": 0.2})
    make_run(tmp_path / "b", 2, {"y": 0.3}, [("x", "file", "z-first", 0, None)], root=b"/data/")
    make_run(tmp_path / "a", 3, {"new": 0.4}, [("x", "file", "z-first", 0, None)])
    make_run(tmp_path / "c", 4, {"y": 0.9}, root=b"/elsewhere")
    make_run(tmp_path / "d", 5, {"x": 0.9}).success.unlink()
    frame = read_predictions(tmp_path, latest=True)
    elsewhere = frame["root"] == "/elsewhere"
    assert shown(frame[~elsewhere]) == {
        "x": ("z-first", 0.1),
        "y": ("b", 0.3),
        "new": ("a", 0.4),
    }
    assert shown(frame[elsewhere]) == {"y": ("c", 0.9)}
    assert frame["path"].tolist() == ["new", "x", "y", "y"]
    assert list(frame.columns) == ["run_id", *PREDICTIONS.names]
    assert frame.dtypes.equals(read_predictions(tmp_path).dtypes)


def test_bytes_that_an_earlier_run_scored_count_under_their_new_name(tmp_path: Path) -> None:
    make_run(tmp_path / "1", 1, {"a": 0.1, "b": 0.2, "c": 0.3})
    make_run(
        tmp_path / "2",
        2,
        {"c": 0.4},  # a is now a copy of b, and d one of a
        [("a", "content", "1", 1, None), ("d", "content", "1", 0, None)],
    )
    # c as it was on the first day, by its time and size; e was rejected, and f's run is gone.
    known = [
        ("c", "file", "1", 2, None),
        ("e", "file", "1", 0, "damaged"),
        ("f", "content", "gone", 0, None),
    ]
    make_run(tmp_path / "3", 3, {}, known)
    frame = read_predictions(tmp_path, latest=True)
    assert shown(frame) == {"a": ("1", 0.2), "b": ("1", 0.2), "c": ("1", 0.3), "d": ("1", 0.1)}
    labels = frame.set_index("path")["label"]
    assert labels["d"] is pd.NA and labels["b"] == 0 and labels["c"] == 0


def test_a_file_that_is_back_in_an_earlier_state_has_its_earlier_prediction(tmp_path: Path) -> None:
    make_run(tmp_path / "1", 1, {"a": 0.1})
    make_run(tmp_path / "2", 2, {"a": 0.2})
    make_run(tmp_path / "3", 3, {}, [("a", "restored", "1", 0, None)])
    assert shown(read_predictions(tmp_path, latest=True)) == {"a": ("1", 0.1)}


def test_another_run_under_the_name_of_a_removed_one_lends_it_no_prediction(tmp_path: Path) -> None:
    make_run(tmp_path / "2", 2, {"b": 0.2}, [("a", "content", "1", 0, None)])
    again = make_run(tmp_path / "1", 3, {"c": 0.3})
    (part,) = [path for path in again.predictions.iterdir() if pq.read_table(path).num_rows]
    other = pq.read_table(part).to_pylist()[0] | {"sha256": "cd"}
    pq.write_table(pa.Table.from_pylist([other], PREDICTIONS), part)
    assert shown(read_predictions(tmp_path, latest=True)) == {"b": ("2", 0.2), "c": ("1", 0.3)}


@pytest.mark.parametrize("latest", [False, True])
def test_a_run_that_scored_nothing_gives_an_empty_table(latest: bool, tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, {})
    frame = read_predictions(tmp_path / "a", latest=latest)
    assert len(frame) == 0 and list(frame.columns) == ["run_id", *PREDICTIONS.names]


def damage(run: RunDir) -> None:
    (run.predictions / "part-00000.parquet").write_bytes(b"PAR1 half a fi")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "r is not a folder; name a scoring run or a folder of runs"),
        (lambda folder: folder.mkdir(), "r holds no finished scoring run; name the folder of one"),
        (lambda folder: folder.write_text(""), "r is not a folder"),
        (
            lambda folder: make_run(folder, 1, {"x": 0.5}).success.unlink(),
            "r holds no finished scoring run, 1 unfinished; name",
        ),
        (
            lambda folder: damage(make_run(folder, 1, {"x": 0.5})),
            "the tables of .*r cannot be read",
        ),
        (lambda folder: make_run(folder, 1, {"x": 0.5}).manifest.unlink(), "manifest.*not exist"),
        (lambda folder: make_run(folder, 1, {"x": 0.5}).known.write_text("x"), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(prepare: Any, message: str, tmp_path: Path) -> None:
    prepare(tmp_path / "r")
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(tmp_path / "r", latest=True)
    assert "\n" not in str(caught.value)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, orchestrator\n"
        "assert not {'pandas', 'pyarrow', 'numpy', 'pydantic', 'ray'} & set(sys.modules)\n"
        "from orchestrator import read_predictions\n"
        "assert not {'keras', 'tensorflow', 'ray', 'openvino'} & set(sys.modules)\n"
        "assert 'read_predictions' in orchestrator.__all__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
