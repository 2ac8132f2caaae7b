"""Runs under one folder, each of which leaves out what the earlier ones have done."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import orchestrator.pipelines.score.score as scoring
from orchestrator import read_predictions
from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.known.known_files import known_writer
from orchestrator.data.known.prune import prune_runs
from orchestrator.data.manifest import write_listed
from orchestrator.data.pseudonym import FileNaming
from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.pipelines.score.incremental import place_manifest
from orchestrator.pipelines.score.score import open_ingested_input, score
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
from tests.conftest import Recorder, computes_in

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]
HERE = Resources()
LONG_AGO = time.time_ns() - 3600 * 10**9


class Night:
    """A folder of X-rays and a folder of runs."""

    def __init__(self, trained: SimpleNamespace, folder: Path) -> None:
        self.inbox, self.root = folder / "in", folder / "runs"
        self.inbox.mkdir()
        self.bundle = trained.bundle
        self.said: list[str] = []

    def add(self, name: str, content: bytes, mtime_ns: int = LONG_AGO) -> None:
        path = self.inbox / name
        path.write_bytes(content)
        os.utime(path, ns=(mtime_ns, mtime_ns))

    def run(self, **fields: Any) -> Any:
        fields = {"out_root": str(self.root), "only_new": True, "shard_rows": 4} | fields
        recorder = Recorder()
        spec = ScoreSpec(input=str(self.inbox), model=str(self.bundle), **fields)
        try:
            return score(spec, HERE, recorder)
        finally:
            self.said = recorder.lines


def table(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def fates(run: Path) -> dict[str, str]:
    """Every file that has a row in a run and what happened to it; fails where one has two."""
    found: dict[str, str] = {}
    rows = [(row["path"], "scored") for row in table(run / "predictions")]
    rows += [(row["path"], row["code"]) for row in table(run / "rejected.parquet")]
    rows += [
        (row["path"], f"{row['matched']} in {row['run']}") for row in table(run / "known.parquet")
    ]
    for path, fate in rows:
        assert path not in found, path
        found[path] = fate
    return found


def counts(result: Any) -> dict[str, int]:
    names = ("found", "scored", "rejected", "scored_before", "rejected_before")
    kept = {name: result.report["counts"][name] for name in names}
    assert kept["found"] == sum(kept[name] for name in names[1:])
    known = result.report["known"]
    assert kept["scored_before"] == sum(row["files"] for row in known if row["code"] is None)
    assert kept["rejected_before"] == sum(row["files"] for row in known if row["code"])
    return kept


@pytest.fixture
def night(trained: SimpleNamespace, phantoms: Path, tmp_path: Path) -> Night:
    night = Night(trained, tmp_path)
    for number, path in enumerate(sorted(phantoms.rglob("*.jpeg"))[:9]):
        night.add(f"{number}.jpeg", path.read_bytes())
    night.add("bad.jpeg", b"Dear colleague")
    return night


def forbid(*_: object, **__: object) -> None:
    raise RuntimeError("no worker may be started and no file read here")


def test_each_night_scores_what_is_new_and_accounts_for_the_rest(
    night: Night, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = night.run()
    assert counts(first) == {
        "found": 10, "scored": 9, "rejected": 1, "scored_before": 0, "rejected_before": 0
    }  # fmt: skip
    assert first.run.parent == night.root

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_score_shards", forbid)  # nothing to do
        second = night.run()
    assert counts(second) == {
        "found": 10, "scored": 0, "rejected": 0, "scored_before": 9, "rejected_before": 1
    }  # fmt: skip
    assert (second.run / "_SUCCESS").exists()
    assert fates(second.run) == {}  # what is as it was has no row
    assert second.report["known"] == [
        {"root": 0, "matched": "file", "code": None, "files": 9},
        {"root": 0, "matched": "file", "code": "not_an_image", "files": 1},
    ]
    assert "nothing scored: no image is new" in "\n".join(score_summary(second))
    assert "Known from earlier runs" in (second.run / "report.html").read_text()

    images = sorted(phantoms.rglob("*.jpeg"))
    night.add("new.jpeg", images[20].read_bytes())
    night.add("copy.jpeg", images[0].read_bytes())  # known content under a new name
    night.add("1.jpeg", images[21].read_bytes())  # a known name with other content
    night.add("2.jpeg", images[2].read_bytes(), LONG_AGO + 1)  # touched
    night.add("bad.jpeg", images[22].read_bytes())  # fixed
    (night.inbox / "3.jpeg").unlink()
    third = night.run()
    assert counts(third) == {
        "found": 11, "scored": 3, "rejected": 0, "scored_before": 8, "rejected_before": 0
    }  # fmt: skip
    assert fates(third.run) == {
        **dict.fromkeys(("copy.jpeg", "2.jpeg"), f"content in {first.run.name}"),
        **dict.fromkeys(("new.jpeg", "1.jpeg", "bad.jpeg"), "scored"),
    }
    earlier = {row["row"]: row for row in table(first.run / "predictions")}
    for row in table(third.run / "known.parquet"):
        assert earlier[row["run_row"]]["sha256"] == row["sha256"]

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_score_shards", forbid)
        fourth = night.run()
    assert counts(fourth)["scored_before"] == 11
    assert fates(fourth.run) == {}
    night.add("2.jpeg", images[2].read_bytes())  # as it was on the first night
    night.add("1.jpeg", images[1].read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_score_shards", forbid)
        fifth = night.run()
    assert counts(fifth)["scored_before"] == 11
    assert fates(fifth.run) == dict.fromkeys(("1.jpeg", "2.jpeg"), f"restored in {first.run.name}")

    latest = read_predictions(night.root, latest=True).set_index("path")
    # Other terms: nothing counts. Without only_new nothing is left out.
    if computes_in("bf16"):
        assert counts(night.run(precision="bf16"))["scored"] == 11
    whole = night.run(only_new=False)
    assert counts(whole)["scored"] == 11

    # The latest prediction of each file is what scoring all of them again gives; one is removed.
    again = read_predictions(whole.run).set_index("path")
    assert set(latest.index) == {*again.index, "3.jpeg"}
    latest = latest.loc[again.index]
    assert latest["sha256"].tolist() == again["sha256"].tolist()
    np.testing.assert_allclose(latest["probability"], again["probability"], atol=1e-4)
    assert set(latest["run_id"]) == {first.run.name, third.run.name}


def test_pruned_runs_stay_known_and_a_run_removed_by_hand_is_scored_again(
    night: Night, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = night.run(), night.run()
    prune_runs(night.root, 1, Recorder(), lambda *_: None)
    assert (first.run.exists(), second.run.exists()) == (False, True)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_score_shards", forbid)
        third = night.run()
    assert (counts(third)["scored_before"], counts(third)["rejected_before"]) == (9, 1)
    images = sorted(phantoms.rglob("*.jpeg"))
    night.add("copy.jpeg", images[0].read_bytes())
    night.add("new.jpeg", images[20].read_bytes())
    fourth = night.run()
    assert counts(fourth)["scored"] == 1
    assert fates(fourth.run) == {
        "copy.jpeg": f"content in {first.run.name}",
        "new.jpeg": "scored",
    }
    assert set(read_predictions(night.root, latest=True)["path"]) == {"new.jpeg"}
    shutil.rmtree(fourth.run)
    fifth = night.run()
    assert fates(fifth.run)["new.jpeg"] == "scored"
    assert counts(fifth)["scored_before"] == 10


def test_a_run_that_an_earlier_version_has_listed_goes_on_with_its_table(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_listed((), (b"/in",), {}, run.manifest, 4)
    with known_writer(run.listed_known) as add:
        for path, code in (("a", None), ("b", "damaged"), ("c", None), ("d", "damaged")):
            add({"root": 0, "path": path, "matched": "file", "run": "r1", "code": code})
    spec = ScoreSpec(input=str(tmp_path), model="m", out_root=str(tmp_path), only_new=True)
    work = place_manifest(spec, run, ["0"], None, FileNaming(), Recorder())
    assert (work.num_known, work.index) == (4, None)
    assert [(row["code"], row["files"], row["first"]) for row in work.left_out] == [
        (None, 2, "a"),
        ("damaged", 2, "b"),
    ]


def test_an_unfinished_run_does_not_count_and_can_be_finished_by_itself(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ClusterError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "run_shards_here", fail)
        with pytest.raises(ClusterError, match="the power went"):
            night.run()
    (broken,) = night.root.iterdir()
    whole = night.run()
    assert counts(whole)["scored"] == 9
    assert any(f"{broken} is unfinished and does not count" in line for line in night.said)
    assert any(f"orchestrator score --resume {broken}" in line for line in night.said)

    night.add("late.jpeg", b"found by neither listing")
    resumed = night.run(out=str(broken))
    assert resumed.run == broken
    assert counts(resumed)["found"] == 10
    assert any("10 files, as listed then" in line for line in night.said)
    keys = ("path", "probability", "sha256")
    assert [[row[k] for k in keys] for row in table(broken / "predictions")] == [
        [row[k] for k in keys] for row in table(whole.run / "predictions")
    ]


def test_an_interrupted_night_goes_on_with_the_files_and_the_matches_it_had(
    night: Night, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = night.run()
    images = sorted(phantoms.rglob("*.jpeg"))
    for number in range(6):
        night.add(f"new{number}.jpeg", images[30 + number].read_bytes())
    night.add("copy.jpeg", images[0].read_bytes())
    run_shards = scoring.run_shards_here

    def stop_after_one(make_stage: Any, shards: Any, *rest: Any) -> None:
        run_shards(make_stage, [0], *rest)
        raise ClusterError("the power went")

    out = night.root / "tick"
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "run_shards_here", stop_after_one)
        with pytest.raises(ClusterError, match="the power went"):
            night.run(out=str(out))
    night.add("later.jpeg", images[50].read_bytes())
    result = night.run(out=str(out))
    assert counts(result) == {
        "found": 17, "scored": 6, "rejected": 0, "scored_before": 10, "rejected_before": 1
    }  # fmt: skip
    assert fates(out)["copy.jpeg"] == f"content in {first.run.name}"
    assert sorted(p.name for p in out.iterdir() if p.name.startswith((".", "_"))) == ["_SUCCESS"]


def test_a_listing_that_finds_rejected_things_alone_needs_no_ray(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(trained, tmp_path)
    with pytest.raises(DataError, match="holds no files"):
        night.run()
    shutil.rmtree(night.root)
    for number in range(6):
        (night.inbox / f"{number}").symlink_to("/etc/hostname")
    monkeypatch.setattr(scoring, "_score_shards", forbid)
    nothing = (
        r"none of the 6 files found could be scored \(.*rejected\.parquet lists them\); 6 of 6: "
        r"link_outside_root; the first is 0: A link out of the input folder"
    )
    for nights in (1, 2):  # a run in which nothing was scored does not count
        with pytest.raises(DataError, match=nothing):
            night.run()
        assert len(list(night.root.iterdir())) == nights
    for run in night.root.iterdir():
        codes = [row["code"] for row in table(run / "rejected.parquet")]
        assert codes == ["link_outside_root"] * 6
        assert json.loads((run / "report.json").read_text())["counts"]["rejected"] == 6
        assert RunDir(run).load_status()["status"] == "FAILED"


def test_what_an_earlier_night_rejected_is_no_success_alone(night: Night) -> None:
    night.run()
    for path in night.inbox.iterdir():
        if path.name != "bad.jpeg":
            path.unlink()
    nothing = r"none of the 1 files .* \(earlier runs rejected them\); 1 of 1: not_an_image; the f"
    with pytest.raises(DataError, match=nothing + "irst is bad.jpeg"):
        night.run()
    night.add("good.jpeg", b"no picture either")
    with pytest.raises(DataError, match=r"none of the 2 files found .*; 2 of 2: not_an"):
        night.run(max_rejected_fraction=1.0)


def test_what_the_listing_rejects_leaves_no_name_where_paths_are_hashed(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(trained, tmp_path)
    for number in range(2):
        (night.inbox / f"doe-{number}").symlink_to("/etc/hostname")
    monkeypatch.setattr(scoring, "_score_shards", forbid)
    with pytest.raises(DataError, match="none of the 2 files found could be scored"):
        night.run(hash_paths=True)
    (run,) = night.root.iterdir()
    assert [row["path"][:5] for row in table(run / "rejected.parquet")] == ["hmac:", "hmac:"]
    for path in run.rglob("*"):
        # The run has failed, so that it keeps its listing to go on from.
        if path.is_file() and path.parent.name != "_listing":
            assert b"doe-" not in path.read_bytes(), path


def test_hashed_paths_are_compared_by_content_and_leave_no_name(night: Night) -> None:
    first = night.run(hash_paths=True)
    second = night.run(hash_paths=True)
    assert counts(second) == {
        "found": 10, "scored": 0, "rejected": 1, "scored_before": 9, "rejected_before": 0
    }  # fmt: skip
    plain = night.run()
    assert counts(plain)["scored_before"] == 9
    hashed = night.run(hash_paths=True)
    assert counts(hashed)["rejected_before"] == 1  # by the plain run's names
    for run in (first.run, second.run, hashed.run):
        for path in run.rglob("*"):
            assert not path.is_file() or b".jpeg" not in path.read_bytes(), path


def test_terms_are_recorded_for_later_runs(night: Night) -> None:
    result = night.run()
    status = json.loads(RunDir(result.run).status.read_text())
    assert status["terms"]["models"] == [result.report["model"]["sha256"]]
    assert (status["terms"]["engine"], status["terms"]["precision"]) == ("openvino", "f32")
    assert status["limits"]["max_bytes"] is None


def test_the_engine_is_found_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def engine_of(run: RunDir, *, resumed: bool = False, **fields: Any) -> str:
        spec = ScoreSpec(input="x", **fields)
        opened = scoring.OpenRun(run, resumed, False)
        return scoring._find_arithmetic(spec, HERE, opened, SimpleNamespace(infos=()))["engine"]

    run = RunDir(tmp_path)
    monkeypatch.setattr(scoring, "gives_gpus", lambda _: True)
    assert engine_of(run) == "keras"
    assert engine_of(run, engine="openvino") == "openvino"
    # A run that began without GPUs goes on so; one from before this was recorded finds its own.
    for recorded, found in (("openvino", "openvino"), ("auto", "keras")):
        run.write_status(Status.RUNNING, terms={"engine": recorded})
        assert engine_of(run, resumed=True) == found
    monkeypatch.setattr(scoring, "gives_gpus", lambda _: False)
    assert engine_of(run) == "openvino"


def test_an_ingested_data_set_has_no_nights(tmp_path: Path) -> None:
    described = {"schema_version": 1, "size_px": 64, "num_shards": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    spec = ScoreSpec(input=str(tmp_path), out_root=str(tmp_path / "runs"), only_new=True)
    with pytest.raises(DataError, match="scored alone and without only_new: name folders"):
        open_ingested_input(spec, 64)
    with pytest.raises(DataError, match="holds images of 64 px and the model takes 32 px"):
        open_ingested_input(spec.model_copy(update={"only_new": False}), 32)


def test_an_address_is_no_folder_of_runs(trained: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    fields = {"input": str(tmp_path), "model": str(trained.bundle)}
    spec = ScoreSpec(out_root="s3://bucket/runs", only_new=True, **fields)
    with pytest.raises(SpecError, match=r"out_root is the address s3.*give an address as --out"):
        score(spec, HERE, Recorder())
