"""Which images give the ranges of values, and the threshold of an int8 network."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.config.fields import STORED
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import TrainSpec
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import read_part, table_images
from orchestrator.data.source import open_ingested
from orchestrator.data.splits import group_rows
from orchestrator.evaluation.figures import Threshold
from orchestrator.model.bundle import load_info
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.pipelines.prepare.images import prepare_images
from orchestrator.pipelines.prepare.ingest import fingerprint
from orchestrator.pipelines.quantize.judge import (
    QuantizeImages,
    choose_site_images,
    choose_training_images,
    judge,
)
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.model.engine.int8_by_hand import quantize_by_hand
from tests.pipelines.quantize.test_quantize import by, run

pytestmark = pytest.mark.ray  # for the bundle


def test_ranges_come_from_both_classes_from_the_first_image_on(
    trained: SimpleNamespace, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def note(source: Path, target: Path, images: Any) -> None:
        seen.extend(images)
        quantize_by_hand(source, target, images)

    by(note, monkeypatch)
    made = run(trained.bundle, dataset, tmp_path / "bundle")
    int8 = load_info(made.bundle).int8
    assert int8 is not None
    num_train = sum(load_info(trained.bundle).data.counts["train"].values())
    assert num_train >= 50  # so that some images are left out
    assert int8.num_calibration == len(seen) == num_train - num_train // 50
    table = pa.concat_tables(read_part(path) for path in sorted(dataset.glob("images/part-*")))
    labels = {
        image.tobytes(): label
        for image, label in zip(table_images(table), table["label"].to_pylist(), strict=True)
    }
    # NNCF corrects the biases by the first fifth.
    assert {labels[image.tobytes()] for image in seen[: len(seen) // 5]} == {0, 1}


@pytest.fixture
def images(trained: SimpleNamespace, dataset: Path, tmp_path: Path) -> QuantizeImages:
    info = load_info(trained.bundle)
    known = {**info.training, "data": str(dataset), "image_size": info.size_px}
    recipe = TrainSpec.model_validate(known, context=STORED)
    prepared = prepare_images(recipe, Session(1, 1.0, 0.0), RunDir(tmp_path), Recorder())
    spec = QuantizeSpec(model=str(trained.bundle), data=str(dataset), out="")
    return choose_training_images(spec, info, prepared)


@pytest.mark.parametrize("rule", ["youden", "sensitivity@0.9"])
def test_the_threshold_calls_as_before_unless_it_keeps_a_floor(
    rule: str, trained: SimpleNamespace, images: QuantizeImages
) -> None:
    info = load_info(trained.bundle)
    engine = openvino_engine(trained.bundle / "openvino.xml", 1, "f32")
    numbers, labels = images.table["row"].to_numpy(), images.table["label"].to_numpy()
    before = info.calibration.apply(engine.logits(images.store.take(numbers)))
    # Such as neither rule would choose: it calls a quarter of the pneumonias.
    other = Threshold(float(np.quantile(before[labels == 1], 0.75)), rule)
    changed = info.model_copy(update={"threshold": other})
    point = judge(changed, images, (engine, engine), 0, Recorder()).point
    after = point.calibration.apply(engine.logits(images.store.take(numbers)))
    calls = after >= point.threshold.value
    assert point.threshold.rule == rule
    if rule == "youden":
        assert np.array_equal(calls, before >= other.value)
    else:
        assert calls[labels == 1].mean() >= 0.9


def test_speed_is_that_of_int8_over_float32(
    trained: SimpleNamespace, images: QuantizeImages
) -> None:
    engine = openvino_engine(trained.bundle / "openvino.xml", 1, "f32")

    def compute_slowly(batch: Any) -> Any:
        time.sleep(0.1)
        return engine.run_batch(batch)

    slow = replace(engine, run_batch=compute_slowly)
    info = load_info(trained.bundle)
    for engines, faster in (((slow, engine), True), ((engine, slow), False)):
        assert (judge(info, images, engines, 0, Recorder()).speed > 1) == faster


@pytest.mark.parametrize("most", [300, 20])
def test_a_site_s_gate_has_other_patients_than_its_ranges(
    most: int, dataset: Path, trained: SimpleNamespace
) -> None:
    source = open_ingested(dataset)
    assert source is not None
    rows = source.load_rows()
    site = SimpleNamespace(fingerprint=fingerprint(rows))
    spec = QuantizeSpec(model=str(trained.bundle), data=str(dataset), out="", images=most)
    chosen = choose_site_images(spec, site, source)  # type: ignore[arg-type]
    groups = group_rows(rows)
    gate = chosen.table["row"].to_numpy()[chosen.held_out]
    assert not set(groups[gate]) & set(groups[chosen.ranges])
    assert len(chosen.ranges) <= min(most, 36)  # a fifth, or what a fold of whole patients takes
    for part in (gate, chosen.ranges):
        assert set(rows["label"].to_numpy()[part]) == {0, 1}
