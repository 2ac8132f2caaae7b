"""A patient goes from everything that runs hold, whoever is killed meanwhile, and stays away."""

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.data.known.forgotten import load_forgotten
from orchestrator.data.known.index import OpenIndex
from orchestrator.data.known.index_build import update_index
from orchestrator.data.manifest import iter_shards, open_manifest_file
from orchestrator.data.predictions import read_predictions
from orchestrator.errors import DataError, SpecError
from orchestrator.pipelines.forget import report as forget_report
from orchestrator.pipelines.forget.find import start_traces
from orchestrator.pipelines.forget.forget import ForgetResult, forget_patient
from orchestrator.runs.atomic import digest
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import RunsRoot
from tests.conftest import Recorder
from tests.data.known.runs import TERMS, index_of, sha
from tests.pipelines.forget.scored import InputFile, everything, make_scored
from tests.runs.dying import Killed, killed_at

KEY = b"0123456789abcdef-lasting"
RANDOM = b"fedcba9876543210-random"
DOE = "DOE-4711"
ROOT = "/data/xrays"


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs are slow, and of no effect where no power fails."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the page takes most of the time, and is one write of many."""
    monkeypatch.setattr(forget_report, "render_html", lambda report, *_: json.dumps(report))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return path


FIRST = [
    InputFile("a/1.dcm", "doe one", DOE),
    InputFile("a/2.dcm", "roe one", "ROE"),
    InputFile("b/3.dcm", "doe two", DOE),
    InputFile("b/4.dcm", "doe three", DOE),
    InputFile("c/5.dcm", "roe two", "ROE"),
    InputFile("c/6.dcm", "poe", "POE"),
]
SECOND = [
    InputFile("a/1.dcm", "spoilt", code="damaged"),  # what was Doe's file
    InputFile("new/7.dcm", "roe three", "ROE"),
    InputFile("copy/8.dcm", "doe two", origin=("first", 2)),
    InputFile("copy/9.dcm", "roe one", origin=("first", 1)),
    InputFile("c/10.dcm", "other", code="damaged"),
    InputFile("d/11.png", "doe by name", listed=DOE),
]


def make_root(folder: Path, key_file: Path) -> Path:
    make_scored(folder / "first", FIRST, key=KEY, key_file=key_file)
    make_scored(folder / "second", SECOND, day=2, key=KEY, key_file=key_file)
    return folder


def forget(root: Path, key_file: Path | None, *named: Path, why: str = "asked") -> ForgetResult:
    return forget_patient(root, start_traces(DOE, None, key_file, named), why, lambda *_: None)


def check_consistent(run: RunDir) -> None:
    """Tables, report and record tell of the same rows."""
    report = json.loads(run.report_json.read_text())
    counts = report["counts"]
    scored = read_predictions(run.path)
    assert counts["scored"] == len(scored)
    assert counts["rejected"] == pq.read_metadata(run.rejected).num_rows
    content = pq.read_metadata(run.known).num_rows
    assert counts["scored_before"] == content + 5
    assert counts["found"] == counts["scored"] + counts["rejected"] + content + 5
    stored = open_manifest_file(run.manifest)
    listed = [row for table in iter_shards(stored) for row in table["row"].to_pylist()]
    assert len(listed) == counts["found"] - 5
    assert set(scored["row"]) <= set(listed)
    assert stored.num_shards == 3  # a shard's number is its place
    assert {e["row"] for e in report.get("heatmaps", ())} == {
        int(path.stem) for path in run.heatmaps.glob("*.png")
    }
    assert run.success.exists()


def check_gone(root: Path) -> None:
    held = everything(root)
    for trace in (DOE, "a/1.dcm", "b/3.dcm", "b/4.dcm", "copy/8.dcm", "d/11.png"):
        assert trace.encode() not in held, trace
    runs_alone = b"".join(everything(path) for path in root.iterdir() if path.name != "_known")
    for content in ("doe one", "doe two", "doe three", "doe by name"):
        assert sha(content).encode() not in runs_alone
    for trace in ("a/2.dcm", "c/5.dcm", "c/6.dcm", "new/7.dcm", "copy/9.dcm", "c/10.dcm"):
        assert trace.encode() in held, trace
    for name in ("first", "second"):
        check_consistent(RunDir(root / name))


def test_everything_of_a_patient_goes_and_nothing_else(tmp_path: Path, key_file: Path) -> None:
    root = make_root(tmp_path / "runs", key_file)
    before = read_predictions(root).set_index(["run_id", "row"])
    result = forget(root, key_file)
    assert result.removed == {
        "first": {"scored": 3, "rejected": 0, "known": 0},
        "second": {"scored": 1, "rejected": 1, "known": 1},
    }
    assert not result.hidden and not result.left and result.num_runs == 2
    check_gone(root)
    after = read_predictions(root).set_index(["run_id", "row"])
    assert after.equals(before.loc[after.index]) and len(after) == len(before) - 4
    record = json.loads((root / "first" / "forgotten.json").read_text())
    assert record["at_work"] is None
    (removed,) = record["removed"]
    assert (
        removed["rows"]["scored"] == 3 and removed["why"] == "asked" and removed["at"][:2] == "20"
    )
    page = (root / "first" / "report.html").read_text()
    assert "3 rows were removed" in page
    assert (root / "first" / "corrections.parquet").exists()
    assert not (root / "first" / "worklist.html").exists()
    assert not (root / "first" / "stored.json").exists()
    assert pq.read_metadata(root / "first" / "shadow.parquet").num_rows == 3
    assert forget(root, key_file).removed == {}  # a second time finds nothing
    assert json.loads((root / "first" / "forgotten.json").read_text()) == record


def test_a_run_of_one_patient_alone_stays_whole(
    tmp_path: Path, key_file: Path, no_page: None
) -> None:
    root = tmp_path / "runs"
    files = [InputFile(f"{n}.dcm", f"doe {n}", DOE) for n in range(5)]
    run = make_scored(root / "first", files, key=KEY, key_file=key_file)
    assert forget(root, key_file).removed["first"]["scored"] == 5
    check_consistent(run)
    for path in (run.corrections, run.corrected, run.corrections_json):
        assert not path.exists()


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_change_is_made_good_by_the_same_command(
    step: int, tmp_path: Path, key_file: Path, no_page: None
) -> None:
    made = make_root(tmp_path / "made", key_file)
    # The same patient's files in a run whose key is gone, found by an image that both have.
    make_scored(made / "third", FIRST[:2], day=3, key=RANDOM, kept=False)
    update_index(made, TERMS, Recorder())
    kills = 0
    for number in itertools.count(2, step):
        root = Path(shutil.copytree(made, tmp_path / str(number)))
        with killed_at(number) as dead, contextlib.suppress(Killed):
            forget(root, key_file)
        kills += dead()
        if dead():
            forget(root, key_file)
        check_gone(root)
        assert read_predictions(root / "third")["path"].tolist() == ["a/2.dcm"]
        assert len(load_forgotten(root).files) >= 5
        shutil.rmtree(root)
        if not dead():
            break
    assert kills > 100 // step


def test_no_later_night_scores_them_again_not_even_with_another_model(
    tmp_path: Path, key_file: Path, no_page: None
) -> None:
    root = make_root(tmp_path / "runs", key_file)
    update_index(root, TERMS, Recorder())
    forget(root, key_file)
    paths = [f"{ROOT}/{p}".encode() for p in ("a/1.dcm", "b/3.dcm", "d/11.png", "new/x.dcm")]
    sizes: list[int | None] = [len("doe one"), len("doe two"), len("doe by name"), 3]
    for terms in (TERMS, TERMS | {"models": ["another"]}):
        for attempt in range(2):
            if attempt:
                shutil.rmtree(RunsRoot(root).index(digest(terms)).folder)
            files, state, _ = update_index(root, terms, Recorder())
            assert sum(run.name == "_forgotten" for run in state.runs) == 1
            index = OpenIndex(files, state, frozenset(run.key for run in state.runs), None)
            found = index.find_files(paths, sizes, [10**18] * 4)
            assert found.codes.tolist() == [0, 0, 0, -1]
            origin = index.find_content(bytes.fromhex(sha("doe two")))
            assert origin is not None and origin.run == "_forgotten"
    assert index_of(root).find_content(bytes.fromhex(sha("roe one"))) is not None


def test_rejected_files_are_found_by_patient_bytes_and_study(
    tmp_path: Path, key_file: Path, no_page: None
) -> None:
    root = tmp_path / "runs"
    first = [
        InputFile("a/1.dcm", "doe one", DOE, study="1.2"),
        InputFile("a/2.dcm", "roe one", "ROE", study="1.3"),
        InputFile("a/3.dcm", "doe's knee", DOE, code="out_of_scope_view"),
        InputFile("a/4.dcm", "", code="damaged", study="1.2"),
        InputFile("a/5.dcm", "roe's", code="damaged", study="1.3"),
        InputFile("a/6.txt", "", code="not_an_image"),
    ]
    make_scored(root / "first", first, key=KEY, key_file=key_file, kept=False)
    second = [
        InputFile("b/1.dcm", "doe's knee", DOE, code="out_of_scope_view"),
        InputFile("b/2.dcm", "roe one", "ROE"),
        InputFile("b/3.dcm", "doe later", DOE),
    ]
    make_scored(root / "second", second, key=RANDOM, kept=False)
    result = forget(root, key_file)
    assert result.removed == {
        "first": {"scored": 1, "rejected": 2, "known": 0},
        "second": {"scored": 1, "rejected": 1, "known": 0},  # its bytes tell the hash of the id
    }
    assert (result.hidden, result.unnamed) == ({}, {"first": 1})
    left = [
        pq.read_table(RunDir(root / name).rejected)["path"].to_pylist()
        for name in ("first", "second")
    ]
    assert left == [["a/5.dcm", "a/6.txt"], []]
    assert sha("doe's knee") in {file[-1] for file in load_forgotten(root).files}


def test_runs_whose_ids_are_hidden_are_named(tmp_path: Path, key_file: Path, no_page: None) -> None:
    root = tmp_path / "runs"
    make_scored(root / "hidden", FIRST, key=RANDOM, kept=False)
    make_scored(root / "plain", [InputFile("1.png", "x", listed=DOE)], kept=False)
    result = forget(root, key_file)
    assert result.hidden == {"hidden": "its key was random and was not kept"}
    assert list(result.removed) == ["plain"]
    result = forget(root, key_file, Path(ROOT) / "b")  # a folder of theirs
    # One of their images tells the hash under which all others are.
    assert result.removed == {"hidden": {"scored": 3, "rejected": 0, "known": 0}}
    assert read_predictions(root / "hidden")["path"].tolist() == ["a/2.dcm", "c/5.dcm", "c/6.dcm"]
    make_scored(root / "lasting", FIRST[4:], key=KEY, key_file=key_file, kept=False)
    assert "give it as --patient-key-file" in forget(root, None).hidden["lasting"]
    other = tmp_path / "other"
    other.write_bytes(RANDOM)
    assert "another key file" in forget(root, other).hidden["lasting"]
    assert forget(root, key_file).hidden == {"hidden": "its key was random and was not kept"}


def test_what_is_not_searched_is_said(tmp_path: Path, key_file: Path, no_page: None) -> None:
    root = make_root(tmp_path / "runs", key_file)
    RunDir(root / "second").success.unlink()
    training = RunDir(root / "training")
    training.path.mkdir()
    training.status.write_text('{"kind": "train"}')
    shutil.copy(root / "second" / "manifest.parquet", training.splits)
    left = forget(root, key_file).left
    assert set(left) == {"second", "training"}
    assert "unfinished" in left["second"] and "another command" in left["training"]
    with pytest.raises(SpecError, match="--why holds the patient's id"):
        forget(root, key_file, why=f"{DOE} asked")
    with pytest.raises(DataError, match="is not a folder"):
        forget(tmp_path / "none", key_file)
    with pytest.raises(SpecError, match="empty patient id"):
        start_traces(" ", None, None, ())
