"""A second model beside the live one: its calls apart, its faults free.

Listing, shards, tables and reports are the product's; networks are means of grey levels.
"""

import html
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import read_predictions
from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data import schema, source
from orchestrator.data.phantoms import write_phantoms
from orchestrator.errors import ClusterError, ImageError
from orchestrator.evaluation.report import plots
from orchestrator.model.engine.base import Engine
from orchestrator.pipelines.score import shadow_scorer, stage
from orchestrator.pipelines.score.ensemble import load_members
from orchestrator.pipelines.score.score import score
from orchestrator.pipelines.score.shadow import open_shadow
from orchestrator.registry.history import add_version, load_registry, promote
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder, keep_in_process
from tests.registry.bundles import make_bundle
from tests.registry.test_history import no_syncs, quiet

__all__ = ["no_syncs"]

NUM_IMAGES = 12
_CENTRES = {"live": 110.0, "other": 120.0}  # grey level at which the logit is 0


def make_engine(
    folder: Path, batch_size: int = 3, step: Callable[[], None] | None = None
) -> Engine:
    """An engine whose logit is a function of an image's grey levels and of its bundle."""
    size_px = json.loads((folder / "bundle.json").read_text())["size_px"]

    def run_batch(images: Any) -> Any:
        if step is not None:
            step()
        means = images.reshape(len(images), -1)[:, ::7].astype(np.float32).mean(axis=1)
        logits = (means - _CENTRES.get(folder.name, 115.0)) / 20
        return logits.astype(np.float32)[:, np.newaxis]

    return Engine("openvino", "f32", size_px, batch_size, 1, 2, run_batch)


class PoolHere:
    """Decodes in this process, which starts no other one."""

    def __init__(self, decode: Callable[[Any], Any], *_: Any) -> None:
        self._decode = decode

    def submit(self, file: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(self._decode(file))
        except ImageError as error:
            done.set_exception(error)
        return done

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in `in`, and bundles beside it."""
    folder = tmp_path_factory.mktemp("place")
    write_phantoms(folder / "in", num_images=NUM_IMAGES, seed=5, size_px=48)
    (folder / "in" / "NORMAL" / "broken.jpeg").write_bytes(b"no image")
    plain = {"calibration": {"slope": 1.0, "intercept": 0.0}}
    make_bundle(folder / "live", seed=1, threshold={"value": 0.5, "rule": "fixed"}, **plain)
    make_bundle(folder / "other", seed=2, threshold={"value": 0.4, "rule": "youden"})
    make_bundle(folder / "large", seed=3, size_px=40, **plain)
    return folder


@pytest.fixture(scope="module")
def engines() -> Any:
    """By a folder's name what its engine is to be made with."""
    how: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        keep_in_process(patch)
        patch.setattr(source, "DecoderPool", PoolHere)
        for picture in ("roc", "precision_recall", "reliability", "confusion_matrix", "histogram"):
            patch.setattr(plots, picture, lambda *_: "<svg/>")
        for module in (stage, shadow_scorer):
            patch.setattr(
                module,
                "load_engine",
                lambda folder, *_, **__: make_engine(folder, **how.get(folder.name, {})),
            )
        yield how


@pytest.fixture(autouse=True)
def forget(engines: dict[str, Any]) -> None:
    engines.clear()


def run(place: Path, out: Path | None, model: str = "live", **fields: Any) -> tuple[Any, list[str]]:
    fields |= {"shard_rows": 5, "model": str(place / model)}
    fields |= {"out": str(out)} if out else {}
    recorder = Recorder()
    result = score(ScoreSpec(input=str(place / "in"), **fields), Resources(), recorder)
    return result, recorder.lines


def table_of(result: Any) -> pa.Table:
    return pq.read_table(result.run / "predictions")


def shadow_of(result: Any) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(RunDir(result.run).shadow).to_pylist()}


@pytest.fixture(scope="module")
def alone(place: Path, engines: Any, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The live model's predictions without a shadow."""
    result, _ = run(place, tmp_path_factory.mktemp("alone") / "run")
    assert "shadow" not in result.report and not RunDir(result.run).shadow.exists()
    assert "shadow" not in (result.run / "report.html").read_text()
    return table_of(result)


@pytest.mark.parametrize(("name", "batch"), [("other", 4), ("large", 1)])
def test_the_shadow_gives_what_it_gives_as_the_live_model_and_changes_nothing_of_that(
    name: str, batch: int, place: Path, tmp_path: Path, engines: Any, alone: pa.Table
) -> None:
    engines[name] = {"batch_size": batch}
    result, _ = run(place, tmp_path / "run", shadow=str(place / name))
    assert table_of(result).equals(alone)
    assert pq.read_table(RunDir(result.run).shadow).schema.equals(schema.SHADOW)
    found = shadow_of(result)
    assert len(found) == NUM_IMAGES
    for row in table_of(run(place, tmp_path / "as-live", name)[0]).to_pylist():
        own = found[row["path"]]
        names = ("row", "root", "label", "logit", "probability", "predicted")
        assert [own[n] for n in names] == [row[n] for n in names]
    for row in alone.to_pylist():
        own = found[row["path"]]
        assert own["live_probability"] == row["probability"]
        assert own["live_predicted"] == row["predicted"]
    # No reader of predictions sees any of it.
    assert not [column for column in read_predictions(result.run).columns if "shadow" in column]
    assert not RunDir(result.run).shadow_attempts.exists()


def test_the_report_says_where_the_calls_differ(
    place: Path, tmp_path: Path, alone: pa.Table
) -> None:
    result, _ = run(place, tmp_path / "run", shadow=str(place / "other"))
    report = json.loads((result.run / "report.json").read_text())["shadow"]
    rows = list(shadow_of(result).values())
    cells = [(row["live_predicted"], row["predicted"]) for row in rows]
    assert report["calls"] == {
        "both_normal": cells.count((0, 0)),
        "shadow_only": cells.count((0, 1)),
        "live_only": cells.count((1, 0)),
        "both": cells.count((1, 1)),
    }
    apart = {
        row["row"]: abs(row["probability"] - row["live_probability"])
        for row in rows
        if row["live_predicted"] != row["predicted"]
    }
    assert 1 < len(apart) < NUM_IMAGES
    assert [image["row"] for image in report["images"]] == sorted(apart, key=lambda r: -apart[r])
    shares = [np.mean([row[name] for row in rows]) for name in ("live_predicted", "predicted")]
    rate = report["positive_rate"]
    assert [rate["live"], rate["shadow"]] == pytest.approx(shares)
    assert rate["difference"]["value"] == pytest.approx(shares[1] - shares[0])
    right = [sum(r[n] == r["label"] for r in rows) for n in ("live_predicted", "predicted")]
    accuracy = report["metrics"]["accuracy"]
    assert [accuracy["live"], accuracy["shadow"]] == pytest.approx([r / NUM_IMAGES for r in right])
    assert accuracy["difference"]["value"] == pytest.approx((right[1] - right[0]) / NUM_IMAGES)
    own = result.report["metrics"]
    assert all(figures["live"] == own[name]["value"] for name, figures in report["metrics"].items())
    assert (report["threshold"], report["threshold_rule"]) == (0.4, "youden")
    assert report["model"]["sha256"] == load_members([str(place / "other")]).hashes[0]
    page = (result.run / "report.html").read_text()
    assert "The shadow" in page and report["images"][0]["path"] in page
    (line,) = [line for line in score_summary(result) if line.startswith("shadow ")]
    assert f"calls {len(apart)} of {NUM_IMAGES} images differently" in line


def fail_from(number: int, error: Exception) -> Callable[[], None]:
    """Raises in the nth batch and all later ones."""
    calls = iter(range(1, 1000))

    def step() -> None:
        if next(calls) >= number:
            raise error

    return step


@pytest.mark.parametrize(
    ("fault", "said", "num_scored"),
    [
        ("no bundle", "gone does not exist; expected a bundle", 0),
        ("damaged", "openvino.bin differs from what bundle.json records", 0),
        ("no alias", "registry", 0),
        ("same", "it is the live model itself", 0),
        ("at load", "it failed with TypeError", 0),
        ("at work", "it failed with RuntimeError", 3),
    ],
)
def test_a_fault_of_the_shadow_costs_the_run_nothing_and_is_told(
    fault: str,
    said: str,
    num_scored: int,
    place: Path,
    tmp_path: Path,
    engines: Any,
    alone: pa.Table,
) -> None:
    shadow = str(place / {"same": "live"}.get(fault, "other"))
    if fault == "no bundle":
        shadow = str(tmp_path / "gone")
    elif fault == "damaged":
        shadow = str(shutil.copytree(shadow, tmp_path / "damaged"))
        (tmp_path / "damaged" / "openvino.bin").write_text("changed")
    elif fault == "no alias":
        shadow = f"{tmp_path}/models:staging"
    elif fault == "at load":
        engines["other"] = {"surprise": 1}
    elif fault == "at work":
        step = fail_from(2, RuntimeError("/data/person1.jpeg"))
        engines["other"] = {"step": step}
    result, lines = run(place, tmp_path / "run", shadow=shadow)
    assert table_of(result).equals(alone)
    assert (result.run / "_SUCCESS").exists()
    assert len(shadow_of(result)) == num_scored
    report = result.report["shadow"]
    ((reason, missing),) = report["not_scored"].items()
    assert said in reason
    assert (report["num_images"], missing) == (num_scored, NUM_IMAGES - num_scored)
    page = (result.run / "report.html").read_text()
    assert reason in html.unescape(page)
    assert reason in "\n".join(score_summary(result))
    assert "person1.jpeg" not in page
    at_once = [line for line in lines if reason in line]
    assert bool(at_once) == fault.startswith(("no", "damaged", "same"))


@pytest.mark.parametrize("same", [True, False])
def test_a_run_that_goes_on_keeps_the_shadow_that_it_began_with(
    same: bool, place: Path, tmp_path: Path, engines: Any, alone: pa.Table
) -> None:
    registry = tmp_path / "models"
    for name in ("other", "large"):
        add_version(registry, place / name, name, "a version", quiet)
    promote(registry, "other@1", "staging", "to look at", quiet)
    asked = {"shadow": f"{registry}:staging"}
    engines["live"] = {"step": fail_from(3, ClusterError("the node is gone"))}
    with pytest.raises(ClusterError):
        run(place, tmp_path / "run", **asked)
    committed = list((tmp_path / "run" / "_shards").iterdir())
    assert committed
    promote(registry, "large@1", "staging", "in the night", quiet, force=True)
    engines.clear()
    shutil.copytree(tmp_path / "run", tmp_path / "without")
    result, lines = run(place, tmp_path / "run", **(asked if same else {"shadow": "another"}))
    assert f"the shadow {registry}:other@1 goes on with the run" in lines
    assert table_of(result).equals(alone)
    assert result.report["shadow"]["model"]["version"] == "other@1"
    undisturbed, _ = run(place, tmp_path / "next", shadow=f"{registry}:other@1")
    assert shadow_of(result) == shadow_of(undisturbed)
    assert len(shadow_of(result)) == NUM_IMAGES
    without, _ = run(place, tmp_path / "without")  # or with none at all
    assert table_of(without).equals(alone)
    assert "shadow" not in without.report and not RunDir(without.run).shadow.exists()


def test_the_shadow_changes_nothing_of_what_is_known(
    place: Path, tmp_path: Path, alone: pa.Table
) -> None:
    terms = {"out_root": str(tmp_path / "runs"), "only_new": True}
    counts = []
    for shadow in ({"shadow": str(place / "other")}, {}, {"shadow": str(place / "large")}):
        result, _ = run(place, None, **terms, **shadow)
        counts.append(result.report["counts"])
    assert [(of["scored"], of["scored_before"]) for of in counts] == [
        (NUM_IMAGES, 0),
        (0, NUM_IMAGES),
        (0, NUM_IMAGES),
    ]
    assert result.report["shadow"]["num_images"] == 0
    assert result.report["shadow"]["positive_rate"] is None


def test_a_data_set_of_another_size_is_no_input_of_the_shadow(place: Path, tmp_path: Path) -> None:
    spec = ScoreSpec(input="set", shadow=str(place / "large"))
    live, ingested = load_members([str(place / "live")]), SimpleNamespace(size_px=32)
    found = open_shadow(spec, RunDir(tmp_path), live, ingested)  # type: ignore[arg-type]
    assert found is not None and found.model is None
    assert "images of 32 px and it takes 40 px" in found.fault


def test_a_promotion_under_a_running_night_counts_from_the_next_one_on(
    place: Path, tmp_path: Path, engines: Any
) -> None:
    registry = tmp_path / "models"
    for name in ("live", "other"):
        add_version(registry, place / name, "lite", "a version", quiet)
    promote(registry, "lite@1", "production", "the first", quiet)
    batches = iter(range(1, 1000))

    def step() -> None:
        if next(batches) == 2:
            promote(registry, "lite@2", "production", "in the night", quiet, force=True)

    engines[load_registry(str(registry)).find("production").sha256] = {"step": step}
    nights = [run(place, tmp_path / name, f"{registry}:production")[0] for name in ("one", "two")]
    assert next(batches) > 3  # the first night went on with it
    engines.clear()
    for night, version in zip(nights, ("lite@1", "lite@2"), strict=True):
        assert night.report["model"]["version"] == version
        alone, _ = run(place, tmp_path / version, f"{registry}:{version}")
        assert table_of(night).equals(table_of(alone))
    assert not table_of(nights[0]).equals(table_of(nights[1]))
