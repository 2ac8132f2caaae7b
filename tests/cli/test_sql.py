import csv
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import SpecError
from orchestrator.runs.run_dir import RunDir
from tests.data.sql.nights import simulate

pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(simulate(tmp_path_factory.mktemp("runs"), 3, 20).root)


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def test_a_query_is_shown_as_a_table_and_in_part_where_it_is_long(root: str) -> None:
    done = run("sql", "SELECT run_id, found, NULL n FROM runs ORDER BY run_id", "--root", root)
    assert done.exit_code == 0, done.output
    heads, first, *_ = done.stdout.splitlines()
    assert heads.split() == ["run_id", "found", "n"] and first.split()[0] == "night-01"
    long = run("sql", "SELECT path FROM predictions CROSS JOIN range(9)", "--root", root)
    assert len(long.stdout.splitlines()) == 51 and "the first 50 rows" in long.stderr
    none = run("sql", "SELECT * FROM runs WHERE false", "--root", root)
    assert none.stdout == "no rows\n"


def test_results_as_json_and_as_files(root: str, tmp_path: Path) -> None:
    query = "SELECT run_id, sum(found) AS found FROM runs GROUP BY ALL ORDER BY run_id"
    body = json.loads(run("sql", query, "--root", root, "--json").stdout)
    assert body["columns"] == ["run_id", "found"]
    assert [row["run_id"] for row in body["rows"]] == ["night-01", "night-02", "night-03"]
    assert all(type(row["found"]) is int for row in body["rows"])
    out = tmp_path / "x.csv"
    assert run("sql", query, "--root", root, "--out", str(out)).stdout == f"3 rows  {out}\n"
    with out.open(newline="") as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == [
            row["run_id"] for row in body["rows"]
        ]
    refused = run("sql", query, "--root", root, "--out", str(tmp_path / "x.xlsx"))
    assert isinstance(refused.exception, SpecError)


def test_the_prompt_shows_the_tables_and_goes_on_after_a_mistake(root: str) -> None:
    given = "SELECT nothing;\n\nSELECT run_id\nFROM runs ORDER BY 1 LIMIT 1;\nDROP VIEW latest;"
    done = run("runs", "open", root, given=given)
    assert done.exit_code == 0, done.output
    assert "latest: each image once" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["run_id", "night-01"]
    assert done.stderr.count("error: ") == 2


def test_unfinished_runs_are_said(tmp_path: Path) -> None:
    made = simulate(tmp_path / "runs", 3, 3)
    RunDir(made.root / "night-02").success.unlink()
    done = run("sql", "SELECT count(*) AS n FROM runs", "--root", str(made.root))
    assert done.stdout.split() == ["n", "2"]
    assert done.stderr == "left out, since not finished: night-02\n"
