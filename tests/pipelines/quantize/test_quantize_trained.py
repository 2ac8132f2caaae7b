"""int8 of an EfficientNetB5 that was trained from random weights, by half of the patients.

Slow: it learns for 40 minutes. Its features are those of a network that tells X-rays
apart, where those of random weights hardly vary from image to image. The head is trained, and the
network quantised and judged, on the other patients.
"""

import re
from pathlib import Path

import keras
import pytest

from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.evaluation.int8_gate import MAX_AUROC_LOSS, MAX_CALLS_CHANGED
from orchestrator.model.backbones import build_backbone
from orchestrator.model.bundle import load_info
from orchestrator.pipelines.quantize.quantize import quantize
from orchestrator.pipelines.train.train import train
from tests.conftest import Recorder
from tests.model.learning import learn_xrays, load, settle

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.ray, pytest.mark.timeout(7200)]
SIZE_PX = 96


def halve(source: Path, folder: Path) -> tuple[Path, Path]:
    """Copies images into two folders that share no patient."""
    for path in sorted(source.rglob("*.jpeg")):
        found = re.search(r"IM-(\d+)|person(\d+)", path.name)
        assert found is not None, path.name
        half = ("even", "odd")[int(found[1] or found[2]) % 2]
        target = folder / half / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder / "even", folder / "odd"


def test_a_b5_trained_from_random_weights_passes_in_int8(public_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    learnt, others = halve(public_data / "kermany224" / "train", tmp_path / "xrays")
    keras.utils.set_random_seed(0)
    weights = tmp_path / "b5.weights.h5"
    build_backbone("EfficientNetB5", "none", SIZE_PX).save_weights(weights)
    # Not as with `none`: weights of a file get the scaling of grey levels that ImageNet's have.
    backbone = build_backbone("EfficientNetB5", str(weights), SIZE_PX)
    learn_xrays(backbone, learnt, steps=1500, lr=2e-3)
    settle(backbone, load(learnt, SIZE_PX)[0])
    backbone.save_weights(weights)
    spec = TrainSpec(
        data=str(others),
        out=str(tmp_path / "bundle"),
        backbone="EfficientNetB5",
        weights=str(weights),
        image_size=SIZE_PX,
        epochs=30,
    )
    trained = train(spec, Resources(), Recorder(), run_folder=tmp_path / "training").bundle

    released = quantize(
        QuantizeSpec(model=str(trained), data=str(others), out=str(tmp_path / "int8")),
        Resources(),
        Recorder(),
        run_folder=tmp_path / "quantizing",
    )

    info = load_info(released.bundle)
    int8 = info.int8
    assert int8 is not None
    auroc = info.metrics["validation"].metrics["auroc"]
    print(
        f"validation AUROC {auroc}; {released.report['described']}; {int8.speed:.2f} x f32 by "
        f"{int8.arithmetic}"
    )
    assert auroc.value is not None
    assert auroc.value > 0.95  # it has learnt
    assert int8.auroc_change.value is not None
    assert int8.auroc_change.value >= -MAX_AUROC_LOSS
    assert int8.calls_changed.value is not None
    assert int8.calls_changed.value <= MAX_CALLS_CHANGED
