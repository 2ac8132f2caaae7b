"""What earlier versions have stored is opened, gone on with and not done again."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pyarrow.parquet as pq
import pytest

from orchestrator import read_predictions
from orchestrator.cli.summaries import bundle_summary
from orchestrator.config.fields import Form, decides_results, flag
from orchestrator.config.forms import DecodeLimits
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import (
    CompareSpec,
    FindLrSpec,
    IngestSpec,
    RecalibrateSpec,
    Resources,
    ScoreSpec,
    TrainSpec,
    TuneSpec,
)
from orchestrator.data import terms
from orchestrator.data.source import open_ingested
from orchestrator.data.sql.database import open_database
from orchestrator.errors import BundleError, DataError, OrchestratorError, SpecError
from orchestrator.model import bundle as bundles
from orchestrator.pipelines.forget.find import start_traces
from orchestrator.pipelines.forget.forget import forget_patient
from orchestrator.pipelines.score import score as scoring
from orchestrator.pipelines.train import train as training
from orchestrator.pipelines.tune import tune as tuning
from orchestrator.pipelines.tune.trials import TrialLedger
from orchestrator.runs.identity import identify
from orchestrator.runs.run_dir import SCHEMA_VERSION, RunDir
from tests.conftest import Recorder
from tests.fixtures.stored import unpack

DEFAULTS = Path(__file__).parent / "fixtures" / "defaults.json"
ONE = Resources(workers=1)
SMALL: dict[str, Any] = {"backbone": "tiny", "weights": "none", "image_size": 32}
SCORED: dict[str, Any] = {"input": "in", "model": "bundle", "shard_rows": 3}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what version 1 has stored, as if it had been made where it is now."""
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    decoder = RunDir(tmp_path / "score_finished").load_status()["terms"]["decoder"]
    for module in (scoring, terms):  # it decodes as the program did then
        monkeypatch.setattr(module, "DECODER_VERSION", decoder)
    return tmp_path


def test_a_finished_run_is_read(made: Path) -> None:
    frame = read_predictions(made / "score_finished")
    assert sorted(frame["label"]) == [0, 0, 1, 1, 1, 1]
    with pytest.raises(SpecError, match="holds a finished run"):
        scoring.score(ScoreSpec(**SCORED, out="score_finished"), ONE, Recorder())


def test_sql_and_a_removal_take_a_run_of_version_1(made: Path) -> None:
    pytest.importorskip("duckdb")
    forget_patient(made, start_traces("person1", None, None, ()), "asked", lambda *_: None)
    with open_database("score_finished") as database:
        (batch,) = database.query("SELECT patient_id, label FROM latest ORDER BY ALL")
    rows = [(row["patient_id"], row["label"]) for row in batch.to_pylist()]
    assert rows == [("IM-0001", 0)] * 2 + [("person2", 1)] * 2
    page = (made / "score_finished" / "report.html").read_text()
    assert "2 rows were removed" in page and "person1" not in page


def test_a_bundle_is_read_and_keeps_its_identity(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bundles.load_info(made / "bundle")
    assert "tiny" in str(bundle_summary(made / "bundle", info))
    status = RunDir(made / "score_finished").load_status()
    assert status["terms"]["models"] == [info.sha256]

    class Later(bundles.BundleInfo):
        later: str | None = None

    monkeypatch.setattr(bundles, "BundleInfo", Later)
    assert bundles.load_info(made / "bundle").sha256 == info.sha256


def test_a_data_set_is_read(made: Path) -> None:
    source = open_ingested(made / "dataset")
    assert source is not None
    assert source.load_rows().column("code").to_pylist().count("not_an_image") == 1
    assert source.load_rows().column("code").null_count == 6


@pytest.mark.usefixtures("in_process")
def test_an_unfinished_scoring_goes_on(made: Path) -> None:
    run = RunDir(made / "score_unfinished")
    done = run.shards / "part-00000.arrow"
    written = done.stat().st_mtime_ns
    seen: list[int] = []

    class Watcher(Recorder):
        def end(self) -> None:
            seen.append(done.stat().st_mtime_ns)

    report = scoring.score(ScoreSpec(**SCORED, out="score_unfinished"), ONE, Watcher()).report
    assert report["counts"]["scored"] == 6
    assert seen == [written]
    assert run.load_status()["schema_version"] == SCHEMA_VERSION
    same = ["path", "sha256", "probability"]
    expected = read_predictions(made / "score_finished")[same]
    assert read_predictions(run.path)[same].equals(expected)


def test_a_night_leaves_out_what_earlier_versions_have_scored(made: Path) -> None:
    (stored,) = made.glob("nights/*/status.json")
    assert None in json.loads(stored.read_text())["limits"].values()  # it stored those not given
    recorder = Recorder()
    spec = ScoreSpec(**SCORED, out_root="nights", only_new=True)
    counts = scoring.score(spec, ONE, recorder).report["counts"]
    names = ("found", "scored", "rejected", "scored_before", "rejected_before")
    assert [counts[name] for name in names] == [7, 0, 0, 6, 1]
    assert "no image is left to score" in recorder.lines


@pytest.mark.parametrize("copied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_night_does_not_score_who_was_forgotten(copied: bool, made: Path) -> None:
    nights = made / "nights"
    forget_patient(nights, start_traces("person1", None, None, ()), "asked", lambda *_: None)
    if copied:
        folder = made / "in" / "PNEUMONIA"
        shutil.copy(folder / "person1_bacteria_1.jpeg", folder / "other.jpeg")
    spec = ScoreSpec(**SCORED, out_root="nights", only_new=True)
    result = scoring.score(spec, ONE, Recorder())
    counts = result.report["counts"]
    names = ("found", "scored", "rejected", "scored_before", "rejected_before")
    assert [counts[name] for name in names] == [7 + copied, 0, 0, 6 + copied, 1]
    assert not pq.read_metadata(RunDir(result.run).known).num_rows
    assert "person1" not in str(read_predictions(nights)["patient_id"].tolist())


def test_a_limit_that_a_later_version_adds_makes_no_other_limits(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was rejected under the limits of an earlier version is not tried again."""

    class Later(DecodeLimits):
        later: int | None = None

    spec = ScoreSpec(**SCORED, out_root="nights", only_new=True)
    spec = spec.model_copy(update={"limits": Later()})
    assert scoring.score(spec, ONE, Recorder()).report["counts"]["rejected_before"] == 1


def stub_work(module: Any, name: str, patch: pytest.MonkeyPatch, place: int) -> list[Path]:
    """Puts a stub in place of the work; returns the folders of the runs that it is given."""
    folders: list[Path] = []

    def work(*given: Any) -> None:
        folders.append(given[place].path)
        given[place].report_json.write_text("{}")

    patch.setattr(module, "open_session", lambda *_, **__: nullcontext(SimpleNamespace()), False)
    patch.setattr(module, name, work)
    return folders


def longer_training(**changed: Any) -> TrainSpec:
    given = {"data": "data", "out": "bundle_unfinished", "epochs": 5000, "patience": 5000}
    # One view was the default then.
    return TrainSpec(**(given | {"lr": 0.003, "views": 1} | SMALL | changed))


def test_an_unfinished_training_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = stub_work(training, "_train", monkeypatch, 2)
    with pytest.raises(SpecError, match="holds an unfinished run of another spec"):
        training.train(longer_training(lr=0.1), ONE, Recorder())
    training.train(longer_training(), ONE, Recorder())
    assert folders == [made / "train_unfinished"]
    assert (folders[0] / "history.json").exists()
    assert (folders[0] / "_SUCCESS").exists()


def test_an_unfinished_training_that_was_moved_goes_on(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = stub_work(training, "_train", monkeypatch, 2)
    moved = (made / "train_unfinished").rename(made / "moved")
    training.train(longer_training(), ONE, Recorder(), run_folder=moved)
    assert folders == [moved]
    assert (moved / "history.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_an_unfinished_training_is_trained_to_its_end(
    made: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made / "train_unfinished" / "spec.yaml").write_text(
        (made / "train_unfinished" / "spec.yaml").read_text().replace("5000", "3")
    )
    kept = made / "train_unfinished" / "_images" / "part-00000.arrow"
    written = kept.stat().st_mtime_ns
    seen: list[bool] = []

    class Watcher(Recorder):
        def say(self, line: str) -> None:
            if kept.exists():
                seen.append(kept.stat().st_mtime_ns == written)

    result = training.train(longer_training(epochs=3, patience=3), ONE, Watcher())
    assert seen
    assert all(seen)
    assert bundles.load_info(result.bundle).size_px == 32


def test_an_unfinished_search_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = stub_work(tuning, "_tune", monkeypatch, 2)
    spec = TuneSpec(data="data", out="tune_unfinished", epochs=2, trials=3, views=1, **SMALL)
    tuning.tune(spec, ONE, Recorder())
    assert folders == [made / "tune_unfinished"]
    ledger = TrialLedger(RunDir(folders[0]).trials)
    assert len([trial for trial in ledger.ended if trial.value is not None]) == 3


FORMS: dict[type[Form], dict[str, Any]] = {
    TrainSpec: {"data": "x", "seed": 1},
    FindLrSpec: {"data": "x"},
    CompareSpec: {"data": "x", "loss": "bce"},
    TuneSpec: {"data": "x", "lr": "0.001:0.1", "time_budget": "30m"},
    ScoreSpec: {"input": ["x", "y"], "limits": {"max_pixels": 9}},
    ModelsCompareSpec: {"live": "a", "candidate": "b", "data": "x"},
    RecalibrateSpec: {"model": "m", "data": "x"},
    QuantizeSpec: {"model": "m", "data": "x"},
    IngestSpec: {"input": "x", "out": "y"},
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_field_that_is_added_changes_no_digest(form: Any) -> None:
    class LaterLimits(DecodeLimits):
        later: Annotated[int | None, flag("Later.")] = None

    class Later(form):  # type: ignore[misc]
        later: Annotated[int | None, flag("Later.")] = None
        words: Annotated[tuple[str, ...], flag("Later.")] = ("a", "b")
        silent: Annotated[bool, flag("Later.", decides=False)] = False
        limits: LaterLimits = LaterLimits()

    given = FORMS[form]
    now = identify(form(**given))
    assert identify(Later(**given)) == now
    assert identify(Later(**given, silent=True)) == now
    assert identify(Later(**given, later=1)) != now
    assert identify(Later(**given, words=("a",))) != now
    assert identify(Later(**given | {"limits": {"later": 1}})) != now
    assert identify(form(**given), {"models": ["1"]}) != now


def dump_form(value: Form) -> dict[str, Any]:
    return value.model_dump(mode="json", exclude_none=True)


def test_a_changed_default_raises_the_schema_version() -> None:
    """Digests leave out what is at its default, so one that changes must not look like another."""
    now = {
        form.__name__: {
            name: json.loads(json.dumps(field.default, default=dump_form))
            for name, field in form.model_fields.items()
            if decides_results(field) and not field.is_required()
        }
        for form in FORMS
    }
    pinned = json.loads(DEFAULTS.read_text())
    assert {"schema_version": SCHEMA_VERSION, **now} == pinned, (
        f"Of a new field, say decides=False where no result depends on it; else add it to "
        f"{DEFAULTS.name}. For a changed default, raise SCHEMA_VERSION of run_dir.py there too."
    )


def test_what_does_not_decide_results_is_no_part_of_an_identity() -> None:
    aside = {"out": "b", "overwrite": True, "max_rejected_fraction": 0.5}
    assert identify(ScoreSpec(input=("x",))) == identify(ScoreSpec(input=("x",), **aside))
    aside = {"out": "b", "overwrite": True, "mlflow": "m", "allow_leakage": True}
    assert identify(TrainSpec(data="x")) == identify(TrainSpec(data="x", **aside))


def newer(path: Path) -> None:
    """Makes a stored JSON file that of a program to come."""
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"schema_version": 99}))


def score_again(made: Path, **fields: Any) -> Any:
    return scoring.score(ScoreSpec(**SCORED, **fields), ONE, Recorder())


REFUSED: list[tuple[str, type[OrchestratorError], Callable[[Path], Any]]] = [
    ("score_unfinished/status.json", SpecError, lambda p: score_again(p, out="score_unfinished")),
    (
        "nights/score-20260101-020000-000000/status.json",
        SpecError,
        lambda p: score_again(p, out_root=str(p / "nights"), only_new=True),
    ),
    ("score_finished/status.json", DataError, lambda p: read_predictions(p / "score_finished")),
    ("bundle/bundle.json", BundleError, lambda p: bundles.load_info(p / "bundle")),
    ("dataset/dataset.json", DataError, lambda p: open_ingested(p / "dataset")),
]


@pytest.mark.parametrize(("file", "kind", "use"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_a_newer_version_has_stored_is_refused_by_name(
    file: str, kind: type[OrchestratorError], use: Callable[[Path], Any], made: Path
) -> None:
    newer(made / file)
    before = sorted((path, path.stat().st_mtime_ns) for path in (made / file).parent.rglob("*"))
    with pytest.raises(
        kind, match=r"newer version .*schema 99, .*; upgrade orchestrator"
    ) as caught:
        use(made)
    assert str((made / file).parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    after = sorted((path, path.stat().st_mtime_ns) for path in (made / file).parent.rglob("*"))
    assert after == before
