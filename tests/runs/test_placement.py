from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.errors import SpecError
from orchestrator.runs.placement import place_out, place_run


def test_each_tick_has_a_run_folder_of_its_own_under_runs_or_out_root() -> None:
    job = Job(name="a", kind="score", args={"input": "/x"})
    placed, folder = place_run(job, "a-20260301T010000Z")
    assert folder == Path("runs/a-20260301T010000Z").absolute()
    assert placed.args == {"input": "/x", "out": str(folder)}
    nightly = job.model_copy(update={"args": {"input": "/x", "out_root": "/p", "only_new": True}})
    placed, folder = place_run(nightly, "tick")
    assert folder == Path("/p/tick")
    assert placed.args == nightly.args | {"out": "/p/tick"}  # the run looks for earlier ones there


@pytest.mark.parametrize(
    ("kind", "args", "out", "folder"),
    [
        ("train", {"data": "/x"}, "models/KEY", "runs/KEY"),
        ("compare", {"data": "/x"}, "runs/KEY", "runs/KEY"),
        ("score", {"input": "/x"}, "runs/KEY", "runs/KEY"),
    ],
)
def test_each_kind_has_its_result_and_its_run_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    args: dict[str, str],
    out: str,
    folder: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.model_validate({"name": "a", "kind": kind, "args": args})
    placed, found = place_run(job, "KEY")
    assert placed.args == args | {"out": str(tmp_path / out)}
    assert found == tmp_path / folder
    fixed = job.model_copy(update={"args": args | {"out": "/results"}})
    with pytest.raises(SpecError, match="a folder for every tick"):
        place_run(fixed, "KEY")
    # By hand one result is as good as another.
    placed, found = place_out(fixed, "KEY")
    assert placed.args["out"] == "/results"
    assert found == (tmp_path / folder if kind == "train" else Path("/results"))
