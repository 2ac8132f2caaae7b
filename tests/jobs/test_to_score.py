"""What is scored again where the model is another one, and that a plan says so beforehand."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.config.specs import ScoreSpec
from orchestrator.data.known.prune import prune_runs
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.terms import scoring_terms
from orchestrator.pipelines.score.incremental import place_manifest
from orchestrator.registry.history import load_registry, promote
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.data.known.runs import make_run, touch
from tests.registry.test_history import make_registry, no_syncs, quiet

__all__ = ["no_syncs"]
NIGHTS = 60, 40, 10, 1  # days ago, each with a file that it found
# Rule -> files that a new model reads, of the four and one that is new.
RULES = {"keep": 1, "rescore": 5, "rescore-window 30d": 3}


class Archive:
    """Folders with a file each that the live model has scored some days ago, and a new one."""

    def __init__(self, folder: Path) -> None:
        self.place, self.root = make_registry(folder), folder / "runs"
        self.input = [str(folder / f"in-{days}") for days in (*NIGHTS, 0)]
        touch(folder / "in-0", new="text of today")
        limits = self.spec("keep").limits.model_dump()
        for days in NIGHTS:
            touch(folder / f"in-{days}", file=f"text {days}")
            terms = scoring_terms(self.spec("keep"), [self.live()])
            run = make_run(
                self.root / f"r{days}", folder / f"in-{days}", terms=terms, limits=limits
            )
            ended = {"succeeded_at": (datetime.now(UTC) - timedelta(days=days)).isoformat()}
            run.status.write_text(json.dumps(run.load_status() | ended))

    def spec(self, rule: str) -> ScoreSpec:
        fields: dict[str, Any] = {"out_root": str(self.root), "only_new": True}
        return ScoreSpec(input=self.input, engine="openvino", on_new_model=rule, **fields)

    def live(self) -> str:
        return load_registry(str(self.place)).find("production").sha256

    def scored(self, rule: str) -> int:
        """Files that a run of now lists to be scored."""
        run, recorder = RunDir(self.root / "now"), Recorder()
        work = place_manifest(self.spec(rule), run, [self.live()], None, FileNaming(None), recorder)
        return work.manifest.num_rows

    def planned(self, rule: str) -> dict[str, Any]:
        """What `jobs plan` says of a job that names the alias."""
        args = {"input": self.input, "out_root": "runs", "only_new": True, "engine": "openvino"}
        args |= {"model": "models:production", "on_new_model": rule}
        Path("job.yaml").write_text(yaml.safe_dump({"name": "n", "kind": "score", "args": args}))
        done = CliRunner().invoke(app, ["jobs", "plan", "--json", "job.yaml"])
        found: dict[str, Any] = json.loads(done.output)["jobs"][0]
        return found


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Archive(tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_a_promotion_costs_what_the_plan_has_said(rule: str, archive: Archive) -> None:
    assert archive.planned(rule)["to_score"] == {"now": 1, "after_promotion": RULES[rule]}
    promote(archive.place, "lite@3", "production", "why", quiet, force=True)
    assert archive.planned(rule)["to_score"]["now"] == RULES[rule]
    assert archive.scored(rule) == RULES[rule]


def test_what_pruned_runs_of_another_model_have_scored_is_kept(archive: Archive) -> None:
    assert len(prune_runs(archive.root, 1, Recorder(), lambda *_: None)) == 3
    promote(archive.place, "lite@3", "production", "why", quiet, force=True)
    assert archive.planned("keep")["to_score"]["now"] == 1
    assert archive.planned("rescore-window 30d")["to_score"]["now"] == 3
    assert archive.scored("keep") == 1


def test_a_run_at_work_is_a_note_and_the_rest_of_the_plan_stands(archive: Archive) -> None:
    with hold(archive.root):
        plan = archive.planned("keep")
    assert plan["to_score"] is None
    assert plan["notes"][0].startswith("what is new could not be counted: ")
    assert "is held by process" in plan["notes"][0]
    assert plan["problems"] == []
    assert plan["predicted"]


def test_another_rule_is_refused() -> None:
    for rule in ("again", "rescore-window", "rescore-window 0d", "rescore-window 30h"):
        with pytest.raises(ValueError, match="expected keep, rescore or rescore-window and days"):
            ScoreSpec(input=("x",), on_new_model=rule)
