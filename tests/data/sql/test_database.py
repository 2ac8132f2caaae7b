"""One table over many nights, against plain books of what happened; and what SQL may not do."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.sql.database import open_database
from orchestrator.errors import DataError, NewerRunError, SpecError
from orchestrator.runs.run_dir import RunDir
from tests.data.s3_server import serve_s3
from tests.data.sql.nights import ROOT, Nights, sha, simulate

pytest.importorskip("duckdb")


def ask(place: Path | str, query: str) -> list[dict[str, Any]]:
    with open_database(str(place)) as database:
        return [row for batch in database.query(query) for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return simulate(tmp_path_factory.mktemp("nights"), 30, 6)


def check_latest(nights: Nights, place: Path | str) -> None:
    expected = {sha(content): found for content, found in nights.latest().items()}
    rows = ask(place, "SELECT sha256, run_id, label, probability::DECIMAL(9, 3) p FROM latest")
    assert len(rows) == len(expected)
    assert {r["sha256"]: (r["run_id"], r["label"], float(r["p"])) for r in rows} == expected
    by_label = ask(place, "SELECT label, count(*) n FROM latest GROUP BY label")
    assert {r["label"]: r["n"] for r in by_label} == Counter(
        found[1] for found in expected.values()
    )


def test_thirty_nights_equal_the_oracle(nights: Nights) -> None:
    assert len({row["content"] for row in nights.scored}) > len(nights.latest())  # some replaced
    check_latest(nights, nights.root)
    with open_database(str(nights.root)) as database:
        by_run = "SELECT run_id, count(*) n FROM {} GROUP BY run_id"
        for view, expected in (("predictions", nights.scored), ("rejected", nights.rejected)):
            rows = [r for b in database.query(by_run.format(view)) for r in b.to_pylist()]
            names = (row["run"] if isinstance(row, dict) else row[0] for row in expected)
            assert {r["run_id"]: r["n"] for r in rows} == Counter(names)
        query = "SELECT run_id, scored, model, ended_at FROM runs ORDER BY ended_at"
        runs = [r for b in database.query(query) for r in b.to_pylist()]
        assert [r["run_id"] for r in runs] == [f"night-{n:02d}" for n in range(1, 31)]
        assert sum(r["scored"] for r in runs) == len(nights.scored)
        assert runs[0]["ended_at"].isoformat() == "2026-03-01T02:00:00"
        assert {r["model"] for r in runs} == {"first", "second"}


def test_runs_of_fewer_columns_are_one_table_with_those_of_more(nights: Nights) -> None:
    query = "SELECT DISTINCT run_id, root, sex, scope FROM predictions WHERE run_id < 'night-03'"
    found = {(r["root"], r["sex"], r["scope"]) for r in ask(nights.root, query)}
    assert found == {(ROOT, "F", None), (ROOT, None, None)}


def test_one_run_alone_is_a_table_too(nights: Nights) -> None:
    own = {row["content"] for row in nights.scored if row["run"] == "night-04"}
    assert ask(nights.root / "night-04", "SELECT count(*) n FROM latest") == [{"n": len(own)}]


def test_unfinished_runs_are_left_out_and_named(tmp_path: Path) -> None:
    made = simulate(tmp_path / "runs", 4, 3)
    RunDir(made.root / "night-04").success.unlink()
    RunDir(made.root / "at-work").shards.mkdir(parents=True)
    (made.root / "notes").mkdir()
    (made.root / "_known").mkdir()
    with open_database(str(made.root)) as database:
        assert database.unfinished == ["at-work", "night-04"]
        (batch,) = database.query("SELECT count(*) n FROM runs WHERE run_id = 'night-04'")
        assert batch.to_pylist() == [{"n": 0}]
    for run in ("night-01", "night-02", "night-03"):
        RunDir(made.root / run).success.unlink()
    with pytest.raises(DataError, match=r"no finished scoring run, 5 unfinished"):
        ask(made.root, "SELECT 1")


def test_the_same_table_from_an_address(tmp_path: Path) -> None:
    nights = simulate(tmp_path / "runs", 2, 4)
    with serve_s3() as bucket:
        for path in nights.root.rglob("*"):
            if path.is_file() and path.name != "status.json":  # as a run is published
                name = f"out/{path.relative_to(nights.root)}"
                bucket.objects[name] = path.read_bytes()
        with open_database(bucket.address("out")) as database:
            query = "SELECT (SELECT count(*) FROM predictions) p, (SELECT count(*) FROM latest) l"
            (batch,) = database.query(query)
        assert batch.to_pylist() == [{"p": len(nights.scored), "l": len(nights.latest())}]


REFUSED = [
    ("DROP VIEW latest", "received DROP; expected one SELECT"),
    ("SELECT 1; SELECT 2", "received SELECT, SELECT"),
    ("", "received nothing"),
    ("COPY runs TO '{}/x.csv'", "received COPY"),
    ("SELECT * FROM read_csv('{}/secret')", "disabled by configuration"),
    ("FROM '{}/secret'", "Table with name"),
    ("SELECT * FROM glob('{}/*')", "disabled by configuration"),
    ("SELECT * FROM nights", "does not exist"),  # a variable of this test
    ("SET enable_external_access = true", "received SET"),
    ("INSTALL httpfs", "received LOAD"),
    ("SELECT nothing FROM latest", "Referenced column"),
    ("SELECT", "the tables are predictions, latest, rejected, runs"),
]


def test_sql_only_reads_and_only_the_runs(nights: Nights, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a\n1\n")
    with open_database(str(nights.root)) as database:
        for query, said in REFUSED:
            with pytest.raises(SpecError, match=said):
                list(database.query(query.format(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_damaged_and_newer_runs_are_one_clear_error(tmp_path: Path) -> None:
    made = simulate(tmp_path / "runs", 3, 3)
    part = next(RunDir(made.root / "night-03").predictions.glob("*1.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(DataError, match=r"part-00001\.parquet"):
        ask(made.root, "SELECT count(path) FROM predictions")
    RunDir(made.root / "night-03").manifest.write_bytes(b"none")
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read"):
        ask(made.root, "SELECT 1")
    shutil.rmtree(made.root / "night-03")
    (made.root / "night-02" / "status.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(NewerRunError, match="upgrade"):
        ask(made.root, "SELECT 1")
    with pytest.raises(DataError, match="is not a folder"):
        ask(tmp_path / "none", "SELECT 1")


def test_without_duckdb_the_extra_is_named(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(SpecError, match=r"pip install 'xray-orchestrator\[sql\]'"):
        ask(nights.root, "SELECT 1")


@pytest.mark.slow
def test_many_nights_at_scale_equal_the_oracle(tmp_path: Path) -> None:
    for seed in range(3):
        made = simulate(tmp_path / str(seed), 90 if seed else 30, 30 if seed else 2000, seed)
        check_latest(made, made.root)
