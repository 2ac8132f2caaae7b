import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import OrchestratorError, SpecError
from tests.registry.bundles import make_bundle, make_comparison


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two bundles that are in no registry yet."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("lite", 1), ("other", 2)):
        make_bundle(tmp_path / "models" / name, seed=seed)
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["models", *words])
    if isinstance(done.exception, OrchestratorError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def as_json(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_from_a_bundle_to_production_and_back() -> None:
    assert "models has no version yet" in run("list")
    assert "lite@1 is " in run("add", "models/lite", "--reason", "trained")
    assert as_json("add", "models/other", "--name", "lite", "--reason", "x")["to"] == "lite@2"
    assert run("promote", "lite@1", "--to", "production", "--reason", "first").startswith(
        "production is now lite@1\n"
    )
    run("promote", "lite@2", "--to", "staging", "--reason", "to be tried")
    to_production = ("promote", "staging", "--to", "production", "--reason", "better")
    with pytest.raises(SpecError, match=r"compare lite@2 with it first: `orchestrator models comp"):
        run(*to_production)
    make_comparison(Path("compared"), Path("models/lite"), Path("models/other"))
    moved = as_json(*to_production, "--report", "compared")
    assert (moved["from"], moved["to"], moved["why"]) == ("lite@1", "lite@2", "better")
    assert (moved["report"]["verdict"], moved["forced"]) == ("promote", False)
    assert as_json("list")["aliases"] == {"production": "lite@2", "staging": "lite@2"}
    assert "lite@2   production, staging" in run("list")
    shown = as_json("show", "production")
    assert (shown["version"], shown["aliases"]) == ("lite@2", ["production", "staging"])
    assert "lite@2: live as production, staging; added" in run("show", "lite@2")
    assert re.search(r"(?m)^seed +1 +2$", run("diff", "models:lite@1", "models:production"))
    assert "production is now lite@1 (was lite@2)" in run("rollback", "production", "--reason", "b")
    rows = as_json("history", "production")["history"]
    assert [(row["action"], row["from"], row["to"]) for row in rows] == [
        ("promote", None, "lite@1"),
        ("promote", "lite@1", "lite@2"),
        ("rollback", "lite@2", "lite@1"),
    ]
    assert len(run("history").splitlines()) == 1 + 6
    assert re.search(r"lite@1 +lite@2 +promote +better", run("history", "production"))
    again = as_json("add", "models:lite@2", "--name", "site-b", "--reason", "c")
    assert (again["to"], again["sha256"]) == ("site-b@1", moved["sha256"])
    inspected = CliRunner().invoke(app, ["inspect", "models:production", "--json"])
    assert json.loads(inspected.output)["seed"] == 1


def test_what_cannot_be_done_is_one_clear_line() -> None:
    with pytest.raises(SpecError, match="'live' is no alias; expected production, staging or"):
        run("promote", "lite@1", "--to", "live", "--reason", "x")
    with pytest.raises(SpecError, match="at s3://bucket/models can be read, not changed; change"):
        run("rollback", "production", "--reason", "x", "--registry", "s3://bucket/models")
    with pytest.raises(SpecError, match="the registry models has no production; aliases: none"):
        run("show", "production")
