import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli import app as cli
from orchestrator.config.specs import IngestSpec, Resources, ScoreSpec
from orchestrator.data.predictions import read_predictions
from orchestrator.data.schema import PREDICTIONS, REJECTED
from orchestrator.errors import BundleError, DataError, SpecError
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.explain import explain
from orchestrator.pipelines.prepare.ingest import ingest
from orchestrator.pipelines.score import heatmaps
from orchestrator.pipelines.score.score import ScoreResult, score
from tests.conftest import Recorder

HERE = Resources(workers=1)


def tally_of(labels: list[int | None], probabilities: list[float]) -> Tally:
    num = len(labels)
    given = {"path": [str(row) for row in range(num)], "root": [0] * num}
    given |= {"label": labels, "probability": probabilities}
    columns = {name: given.get(name, [None] * num) for name in PREDICTIONS.names}
    tally = Tally(0.5)
    tally.add(pa.table(columns, schema=PREDICTIONS), REJECTED.empty_table())
    return tally


def test_wrong_uncertain_and_random_images_are_chosen_each_once() -> None:
    probabilities = [0.01, 0.99, 0.45, 0.9, 0.6, 0.02, 0.3, 0.85, 0.97, 0.2]
    labels: list[int | None] = [0, 0, 0, 0, 0, 1, None, 1, 1, 0]

    chosen = heatmaps.choose_images(tally_of(labels, probabilities), 9, 0)

    whys = list(chosen.values())
    assert [place for place, why in chosen.items() if why == "wrong"] == [1, 5, 3]
    assert [place for place, why in chosen.items() if why == "uncertain"] == [2, 4, 6, 9, 7]
    assert whys == sorted(whys, key=["wrong", "uncertain", "random"].index)
    assert len(chosen) == 9
    assert heatmaps.choose_images(tally_of(labels, probabilities), 9, 0) == chosen
    unlabelled = heatmaps.choose_images(tally_of([None] * 10, probabilities), 5, 0)
    assert list(unlabelled.values()) == ["uncertain"] * 4 + ["random"]
    assert len(heatmaps.choose_images(tally_of(labels, probabilities), 100, 0)) == 10
    assert list(heatmaps.choose_images(tally_of(labels, probabilities), 1, 0)) == [2]


@pytest.fixture
def inbox(phantoms: Path, tmp_path: Path) -> Path:
    """Five phantoms, one of them not square, and a file that is none."""
    folder = tmp_path / "in"
    for name in ("NORMAL", "PNEUMONIA"):
        (folder / name).mkdir(parents=True)
        for path in sorted((phantoms / name).iterdir())[:2]:
            shutil.copy(path, folder / name)
    with Image.open(path) as image:
        image.resize((300, 150)).save(folder / "PNEUMONIA" / "wide.png")
    (folder / "bad.jpeg").write_bytes(b"no image")
    return folder


def score_here(inbox: Path, trained: SimpleNamespace, **more: Any) -> ScoreResult:
    given: dict[str, Any] = {"input": str(inbox), "model": str(trained.bundle)}
    spec = ScoreSpec(**given | {"out": str(inbox.parent / "run"), "heatmaps": 4} | more)
    return score(spec, HERE, Recorder())


@pytest.mark.usefixtures("in_process")
def test_a_run_leaves_pictures_that_its_report_shows(inbox: Path, trained: SimpleNamespace) -> None:
    # Of several shards, and one file is rejected.
    result = score_here(inbox, trained, hash_paths=True, shard_rows=2, heatmaps=5)

    rows = read_predictions(result.run).set_index("row")
    entries = result.report["heatmaps"]
    assert sorted(entry["row"] for entry in entries) == sorted(rows.index)
    page = (result.run / "report.html").read_text()
    for entry in entries:
        row = rows.loc[entry["row"]]
        assert (entry["path"], entry["label"]) == (row["path"], row["label"])
        assert entry["probability"] == row["probability"]
        with Image.open(result.run / entry["file"]) as picture:
            assert picture.format == "PNG"
            assert picture.width > row["width_px"]
            assert picture.height >= row["height_px"]
        assert f'href="{entry["file"]}"' in page
    assert len(list((result.run / "heatmaps").iterdir())) == 5
    assert page.count("data:image/jpeg") == 5


@pytest.mark.slow
def test_an_ingested_data_set_has_heat_maps_too(
    ray_cluster: None, inbox: Path, trained: SimpleNamespace, tmp_path: Path
) -> None:
    ingest(
        IngestSpec(
            input=str(inbox), out=str(tmp_path / "set"), image_size=64, max_rejected_fraction=1.0
        ),
        HERE,
        Recorder(),
    )
    shutil.rmtree(inbox)
    result = score_here(tmp_path / "set", trained, heatmaps=5)
    sizes = {}
    for entry in result.report["heatmaps"]:
        with Image.open(result.run / entry["file"]) as picture:
            sizes[Path(entry["path"]).name] = picture.size
    assert sizes["wide.png"][0] > 300


def test_images_that_are_gone_by_then_are_counted_and_a_misfit_is_told_at_once(
    inbox: Path, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = heatmaps.choose_images

    def remove(*given: Any) -> dict[int, str]:
        wide = inbox / "PNEUMONIA" / "wide.png"
        changed = next(path for path in sorted(inbox.rglob("*.*")) if path != wide)
        changed.write_bytes(wide.read_bytes())  # another image than the one that was scored
        wide.unlink()
        return choose(*given)

    monkeypatch.setattr(heatmaps, "choose_images", remove)
    recorder = Recorder()
    spec = ScoreSpec(input=str(inbox), model=str(trained.bundle), out="r", heatmaps=100)
    result = score(spec.model_copy(update={"out": str(inbox.parent / "r")}), HERE, recorder)
    assert len(result.report["heatmaps"]) == 3
    assert "no heat map of 2 files that have changed or can no longer be read" in recorder.lines

    def misfit(_: Path) -> None:
        raise BundleError("no global average pooling")

    monkeypatch.setattr(heatmaps, "load_heat_model", misfit)
    with pytest.raises(BundleError, match="no global average pooling"):
        score_here(inbox, trained, out=str(inbox.parent / "other"))
    assert not list((inbox.parent / "other").glob("manifest.parquet"))


def test_explain_gives_the_probabilities_of_a_run_that_has_no_heat_maps(
    inbox: Path, trained: SimpleNamespace, tmp_path: Path
) -> None:
    without = score_here(inbox, trained, heatmaps=0)
    assert "heatmaps" not in without.report
    assert not (without.run / "heatmaps").exists()
    assert "data:image" not in (without.run / "report.html").read_text()
    rows = read_predictions(without.run).set_index("path")
    (inbox / "more").mkdir()
    (copied,) = inbox.glob("PNEUMONIA/wide.png")
    shutil.copy(copied, inbox / "more")
    out = tmp_path / "pictures"
    arguments = ["explain", str(inbox), "--model", str(trained.bundle), "--out", str(out)]

    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)

    assert done.output.count("PNEUMONIA") + done.output.count("NORMAL") >= 6
    assert "rejected  bad.jpeg: " in done.output
    assert {path.name for path in out.iterdir()} >= {"wide.png", "wide-2.png"}
    again = explain([str(inbox / "PNEUMONIA")], [str(trained.bundle)], tmp_path / "two", Recorder())
    for image in again.images:
        expected = rows.loc[f"PNEUMONIA/{image['path']}"]
        assert image["probability"] == pytest.approx(expected["probability"], abs=1e-5)
        assert image["called"] == expected["predicted"]
        with Image.open(image["picture"]) as picture:
            assert np.asarray(picture).shape[0] >= expected["height_px"]


def test_explain_says_what_is_wrong(inbox: Path, trained: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image could be used: bad.jpeg: "):
        explain([str(inbox / "bad.jpeg")], [str(trained.bundle)], tmp_path / "out", Recorder())
    with pytest.raises(SpecError, match="is not an empty folder; name a new one"):
        explain([str(inbox)], [str(trained.bundle)], inbox, Recorder())
