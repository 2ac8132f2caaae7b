"""What a run scores with, by a name whose meaning may change while it lasts."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.errors import ClusterError, SpecError
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.pipelines.score import score as scoring
from orchestrator.pipelines.score.ensemble import load_members
from orchestrator.registry.history import promote
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.registry.bundles import make_bundle
from tests.registry.test_history import make_registry, no_syncs, quiet

__all__ = ["no_syncs"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return make_registry(tmp_path)


def score(out: str, **fields: Any) -> None:
    spec = ScoreSpec(input=("in",), model=("models:production",), out=out, **fields)
    scoring.score(spec, Resources(), Recorder())


def test_a_night_ends_with_the_model_that_it_began_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str | None, bool]] = []

    def work(spec: Any, _: Any, opened: Any, __: Any, members: Any, ___: Any) -> None:
        used.append((members.models[0].version, opened.resumed))
        write_json(opened.run.report_json, {})
        if len(used) == 1:
            promote(place, "lite@3", "production", "in the night", quiet, force=True)
            raise ClusterError("the node is gone")

    monkeypatch.setattr(scoring, "_score", work)
    with pytest.raises(ClusterError):
        score("night")
    stored = load_job(RunDir(Path("night")).unfinished_spec())
    assert stored.args["model"] == f"{place}:lite@2"
    score("night")
    score("next")
    score("next", overwrite=True)
    assert used == [("lite@2", False), ("lite@2", True), ("lite@3", False), ("lite@3", False)]


def test_a_report_names_the_version_and_its_hash(place: Path, tmp_path: Path) -> None:
    members = load_members(["models:production"])
    assert members.facts()["version"] == "lite@2"
    assert members.facts()["sha256"] == members.hashes[0]
    assert "version" not in load_members([str(tmp_path / "bundle-1")]).facts()
    make_bundle(tmp_path / "other", seed=9)
    both = load_members(["models:lite@3", "other"]).facts()
    assert both["probability_1"].startswith("lite@3, tiny, none weights, ")
    assert both["probability_2"].startswith("tiny, none weights, ")


def test_a_target_needs_a_rule_and_the_models_own_threshold(tmp_path: Path) -> None:
    rule = ReviewRule(("review_rate", 0.4), 0.5, 160, 80, curve=())
    ruled, bare = (
        str(make_bundle(tmp_path / name, review=review))
        for name, review in (("ruled", rule), ("bare", None))
    )
    assert len(load_members([ruled]).reviewers) == 1
    with pytest.raises(SpecError, match="--review-rate and --threshold do not go together"):
        load_members([ruled], 0.5, ("review_rate", 0.1))
    assert load_members([bare]).reviewers == ()
    assert load_members([ruled, bare]).reviewers == ()
    with pytest.raises(SpecError, match=r"--accept-error needs .*bare does not; train or recali"):
        load_members([ruled, bare], None, ("accept_error", 0.1))


def test_models_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    bundle, other = (str(make_bundle(tmp_path / str(size), size_px=size)) for size in (64, 96))
    with pytest.raises(SpecError, match=r"images of different sizes .*64 px.*96 px"):
        load_members([bundle, other])
    with pytest.raises(SpecError, match="named twice"):
        load_members([bundle, bundle])
