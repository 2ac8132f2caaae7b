"""A bundle with an int8 network: made if the gate is passed, scored with, replayed, let go again.

The network is quantised by hand, so that none of this needs NNCF.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import orchestrator.pipelines.quantize.quantize as quantization
import orchestrator.pipelines.recalibrate as recalibration
from orchestrator.cli.app import app
from orchestrator.cli.summaries import bundle_summary, quantize_summary
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import (
    RecalibrateSpec,
    Resources,
    ScoreSpec,
)
from orchestrator.errors import BundleError, DataError, SpecError
from orchestrator.evaluation.figures import Interval, Threshold
from orchestrator.model.bundle import INT8_FILES, Recalibration, load_info
from orchestrator.model.bundle_writer import copy_bundle
from orchestrator.model.engine import load
from orchestrator.model.engine import openvino as engines
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.golden import check_engine, replay_bundle
from orchestrator.pipelines.quantize.quantize import quantize
from orchestrator.pipelines.score.score import score
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.model.engine.int8_by_hand import quantize_by_hand
from tests.pipelines.quantize.conftest import ingest_phantoms
from tests.pipelines.test_recalibrate import scored_as

pytestmark = pytest.mark.ray  # for the bundle
HERE = Resources()


def by(writer: Callable[..., None], patch: pytest.MonkeyPatch) -> None:
    """Has networks quantised by a function, on a CPU with VNNI, without NNCF."""

    def quantize_ir(source: Path, target: Path, images: Any) -> str:
        writer(source, target, images)
        return "vnni"

    patch.setattr(quantization, "check_nncf", lambda: "3.4")
    patch.setattr(quantization, "quantize_ir", quantize_ir)
    has_flags(patch, "avx512_vnni")


def has_flags(patch: pytest.MonkeyPatch, *flags: str) -> None:
    patch.setattr(engines, "_cpu_flags", lambda: {*flags})


def spoil(source: Path, target: Path, images: Any) -> None:
    """A quantisation that takes the sign from the logit."""
    model = openvino.Core().read_model(source)
    (result,) = model.get_results()
    turned = openvino.opset13.multiply(result.input_value(0), np.float32(-1.0))
    result.input(0).replace_source_output(turned.output(0))
    openvino.save_model(model, target, compress_to_fp16=False)


def run(model: Path, data: Path, out: Path, **fields: Any) -> Any:
    spec = QuantizeSpec(model=str(model), data=str(data), out=str(out), **fields)
    recorder = Recorder()
    return quantize(spec, HERE, recorder, run_folder=out.with_name(f"{out.name}-run"))


@pytest.fixture(scope="module")
def made(trained: SimpleNamespace, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        by(quantize_by_hand, patch)
        result = run(trained.bundle, dataset, tmp_path_factory.mktemp("int8") / "bundle")
    path = result.bundle / "bundle.json"
    stored = json.loads(path.read_text())
    stored["int8"]["speed"] = 2.0  # so small a network need not be faster
    path.write_text(json.dumps(stored))
    return result


def test_the_new_bundle_holds_both_networks_and_two_operating_points(
    made: Any, trained: SimpleNamespace
) -> None:
    before, after = load_info(trained.bundle), load_info(made.bundle)
    kept = set(before.files) - {"README.md", "card.json"}
    assert {name: after.files[name] for name in kept} == {name: before.files[name] for name in kept}
    assert [one.sha256 for one in after.ancestors] == [before.sha256]
    assert set(after.files) - set(before.files) == set(INT8_FILES)
    assert after.parent == before.sha256
    for name in ("threshold", "calibration", "review", "metrics", "data", "training"):
        assert getattr(after, name) == getattr(before, name)
    int8 = after.int8
    assert int8 is not None
    assert int8.threshold.rule == before.threshold.rule
    assert int8.calibration != before.calibration
    assert int8.review is not None
    assert int8.review.target == before.review.target  # type: ignore[union-attr]
    assert int8.num_images == sum(before.data.counts["val"].values())
    assert int8.calls_changed.value == 0
    assert int8.calls_changed.high > 0
    assert abs(int8.auroc_change.value) <= 0.002
    # The identity stays, whichever precision it is asked about.
    assert after.at("int8").sha256 == after.at("f32").sha256 == after.sha256
    assert after.at("int8").threshold == int8.threshold
    assert after.at("f32") == after


def test_report_card_and_summaries_say_what_int8_changes(made: Any) -> None:
    info = load_info(made.bundle)
    said = made.report["described"]
    assert "calls changed 0.00% [0.00% to" in said
    assert said in (made.bundle / "README.md").read_text()
    assert any(said in line for line in quantize_summary(made))
    assert "2.00 x f32 with vnni" in " ".join(" ".join(bundle_summary(made.bundle, info)).split())
    assert (made.run / "_SUCCESS").exists()


def test_models_verify_replays_int8_too(made: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["models", "verify", str(made.bundle), "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)["replays"]
    assert [(each["engine"], each["precision"], each["ok"]) for each in shown] == [
        ("keras", "f32", True),
        ("openvino", "f32", True),
        ("openvino", "int8", True),
    ]
    assert shown[2]["tolerance"] > shown[1]["tolerance"]


def test_a_network_that_this_cpu_cannot_compute_is_not_replayed(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = load_info(made.bundle)
    assert info.int8 is not None
    changed = info.int8.model_copy(update={"arithmetic": "vnni+bf16"})
    for flags, expected in (
        (["avx512_vnni"], ["f32", "f32"]),
        (["avx512_vnni", "avx512_bf16"], ["f32", "f32", "int8"]),
    ):
        has_flags(monkeypatch, *flags)
        found = replay_bundle(made.bundle, info.model_copy(update={"int8": changed}))
        assert [replay.precision for replay in found] == expected


def run_score(made: Any, phantoms: Path, **fields: Any) -> Any:
    spec = ScoreSpec(input=str(phantoms), model=str(made.bundle), **fields)
    recorder = Recorder()
    done = score(spec, HERE, recorder)
    return SimpleNamespace(
        report=done.report,
        lines=recorder.lines,
        terms=RunDir(done.run).load_status()["terms"],
        rows=pq.read_table(done.run / "predictions").to_pylist()
        if done.report["counts"]["scored"]
        else [],
    )


def test_scoring_in_int8_calls_by_its_own_point(made: Any, phantoms: Path, tmp_path: Path) -> None:
    info = load_info(made.bundle)
    assert info.int8 is not None
    f32 = run_score(made, phantoms, out=str(tmp_path / "f32"))
    int8 = run_score(made, phantoms, out=str(tmp_path / "int8"), precision="int8")
    assert (f32.terms["precision"], int8.terms["precision"]) == ("f32", "int8")
    assert int8.terms["engine"] == "openvino"
    assert int8.report["threshold"] == info.int8.threshold.value
    assert f32.report["threshold"] == info.threshold.value
    logits = np.array([row["logit"] for row in int8.rows])
    expected = info.int8.calibration.apply(logits)
    np.testing.assert_allclose([row["probability"] for row in int8.rows], expected, atol=1e-6)
    assert np.abs(logits - [row["logit"] for row in f32.rows]).max() > 0
    assert {row["decision"] for row in int8.rows} == {"accept", "review"}


def test_auto_is_int8_where_it_passed_and_pays_and_only_new_knows_both(
    made: Any, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = {"out_root": str(tmp_path), "only_new": True}
    first = run_score(made, phantoms, **nightly, precision="int8")
    assert first.report["counts"]["scored"] == 160
    has_flags(monkeypatch, "avx512_vnni")
    second = run_score(made, phantoms, **nightly, precision="auto")
    assert second.terms["precision"] == "int8"
    assert "scoring in int8" in second.lines
    assert second.report["counts"]["scored_before"] == 160
    has_flags(monkeypatch, "avx2")  # the gate was passed elsewhere
    third = run_score(made, phantoms, **nightly, precision="auto")
    assert third.terms["precision"] == "f32"
    assert third.report["counts"]["scored_before"] == 0


def test_what_a_whole_run_computes_in(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    info = load_info(made.bundle)
    assert info.int8 is not None
    slow = info.model_copy(update={"int8": info.int8.model_copy(update={"speed": 0.9})})
    with_bf16 = info.model_copy(
        update={"int8": info.int8.model_copy(update={"arithmetic": "vnni+bf16"})}
    )
    none = info.model_copy(update={"int8": None})
    has_flags(monkeypatch, "avx512_vnni")
    for infos, engine, expected in (
        ([info], "openvino", "int8"),
        ([info], "keras", "f32"),
        ([info, none], "openvino", "f32"),
        ([slow], "openvino", "f32"),
        ([with_bf16], "openvino", "f32"),  # this CPU has none
    ):
        assert load.choose_precision("auto", engine, infos) == expected
    has_flags(monkeypatch, "avx512_vnni", "avx512_bf16")
    assert load.choose_precision("auto", "openvino", [info, with_bf16]) == "int8"
    assert load.choose_precision("bf16", "openvino", [info]) == "bf16"


def test_a_model_without_an_int8_network_is_refused_at_once(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="holds no int8 network; make one that does with `orch"):
        run_score(trained, phantoms, out=str(tmp_path / "run"), precision="int8")
    assert not (tmp_path / "run").exists()


def test_a_worker_does_not_begin_where_int8_gives_something_else(made: Any, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made.bundle, tmp_path / "copied"))
    path = copied / "golden_int8.json"
    stored = json.loads(path.read_text())
    stored["logits"][3] += 0.1
    path.write_text(json.dumps(stored))
    for batch_size in (1, 16):
        engine = openvino_engine(copied / "openvino_int8.xml", 1, "int8", batch_size)
        message = r"with openvino in int8 here .* --precision f32 here"
        with pytest.raises(BundleError, match=message):
            check_engine(copied, engine)
    check_engine(copied, openvino_engine(copied / "openvino.xml", 1, "f32"))


def test_a_network_that_does_not_pass_leaves_no_bundle(
    trained: SimpleNamespace, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(spoil, monkeypatch)
    out = tmp_path / "bundle"
    with pytest.raises(BundleError) as caught:
        run(trained.bundle, dataset, out)
    report = json.loads((tmp_path / "bundle-run" / "report.json").read_text())
    assert not report["change"]["passes"]
    assert report["described"] in str(caught.value)
    assert "at most 0.002 of AUROC may be lost and 0.5% of the calls changed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert json.loads((tmp_path / "bundle-run" / "status.json").read_text())["exit_code"] == 4


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("data", "fingerprint"), "does not hold the images, with the labels, that the bundle was"),
        (("data", "counts"), "divide otherwise than when the bundle was trained"),
        (("metrics", "validation", "metrics", "log_loss", "value"), "log loss of the validation"),
    ],
)
def test_other_images_than_those_of_the_training_are_refused(
    where: tuple[str, ...],
    message: str,
    trained: SimpleNamespace,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by(quantize_by_hand, monkeypatch)
    model = Path(shutil.copytree(trained.bundle, tmp_path / "model"))
    stored = json.loads((model / "bundle.json").read_text())
    place = stored
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = {"fingerprint": "0" * 64, "counts": {}, "value": 0.7}[where[-1]]
    (model / "bundle.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match=message):
        run(model, dataset, tmp_path / "bundle")


@pytest.mark.parametrize(("rule", "chosen"), [("0.5", "fixed"), ("youden", "youden")])
def test_a_recalibrated_model_goes_by_its_own_images_and_rule(
    rule: str,
    chosen: str,
    trained: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a training could not divide it: there is no `train`.
    shutil.copytree(phantoms, tmp_path / "site" / "test")
    data = ingest_phantoms(tmp_path / "site", tmp_path / "data")
    info = load_info(trained.bundle)
    site = {"threshold": Threshold(info.threshold.value, chosen), "metrics": {}}
    found = Recalibration(
        date="2026-01-31T02:00:00+00:00",
        num_images=160,
        counts={},
        rule=rule,
        calibration="none",
        threshold=Interval(None),
        fingerprint=info.data.fingerprint,
    )
    model = tmp_path / "model"
    copy_bundle(trained.bundle, model, info.model_copy(update=site | {"recalibration": found}))
    seen: list[int] = []

    def quantize_some(source: Path, target: Path, images: Any) -> None:
        seen.append(len(images))
        for suffix in (".xml", ".bin"):  # which changes no call
            shutil.copyfile(source.with_suffix(suffix), target.with_suffix(suffix))

    by(quantize_some, monkeypatch)
    made = run(model, data, tmp_path / "bundle")
    int8 = load_info(made.bundle).int8
    assert int8 is not None
    assert int8.calibration == info.calibration
    assert int8.threshold.rule == chosen
    assert rule == "youden" or int8.threshold == site["threshold"]
    assert int8.calls_changed.value == 0
    assert int8.review is not None
    assert int8.review.num_images == 160
    assert 28 <= seen[0] == int8.num_calibration <= 36
    assert int8.num_images == 160 - seen[0]


def test_a_recalibration_lets_the_int8_network_go(
    made: Any, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = scored_as([0, 1] * 20, np.random.default_rng(0).normal(size=40))
    monkeypatch.setattr(recalibration, "score", stand_in)
    spec = RecalibrateSpec(model=str(made.bundle), data=str(phantoms), out=str(tmp_path / "site"))
    recalibration.recalibrate(spec, HERE, Recorder(), run_folder=tmp_path / "run")
    info = load_info(tmp_path / "site")
    assert info.int8 is None
    assert not set(info.files) & set(INT8_FILES)
    assert not set(INT8_FILES) & {path.name for path in (tmp_path / "site").iterdir()}


def test_a_cpu_without_fast_int8_is_told(
    trained: SimpleNamespace, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(quantize_by_hand, monkeypatch)
    has_flags(monkeypatch)
    with pytest.raises(SpecError, match="neither AVX2 nor VNNI"):
        run(trained.bundle, dataset, tmp_path / "bundle")
