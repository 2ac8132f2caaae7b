"""int8 on real X-rays: Lite0 with ImageNet weights and a linear head.

Its backbone is not fine-tuned, so more images lie near the threshold than those of a model that is
released: 0.60% of 1,159 calls changed, the gate's AUROC by -0.0000.
"""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.int8_gate import MAX_AUROC_LOSS, MAX_CALLS_CHANGED, measure_change
from orchestrator.evaluation.operating_point import OperatingPoint, choose_point
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine.export import export_ir
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.engine.quantize import quantize_ir

SIZE_PX = 128


@pytest.mark.slow
@pytest.mark.real_data
def test_int8_hardly_changes_what_real_xrays_are_called(public_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    import keras

    from orchestrator.data.decode.images import Limits, decode

    paths = sorted((public_data / "kermany224" / "train").rglob("*.jpeg"))[::3]
    xrays = np.stack([decode(path.read_bytes(), SIZE_PX, Limits()).pixels for path in paths])
    labels = np.array([path.parent.name == "PNEUMONIA" for path in paths]).astype(np.int8)
    patients = np.array([path.stem.split("_")[0] for path in paths], object)
    backbone = build_backbone("efficientnet-lite0", "offline", SIZE_PX)
    export_ir(backbone, tmp_path / "features.xml", 2)
    features = openvino_engine(tmp_path / "features.xml", 2, "f32").predict(xrays)
    features = features.astype(np.float64)
    fitted = np.arange(len(paths)) % 3 == 0  # these give the head and the ranges of values
    mean = features[fitted].mean(axis=0)
    centred = features[fitted] - mean
    signs = 2.0 * labels[fitted] - 1.0
    gram = centred @ centred.T + 50.0 * np.eye(len(centred))
    kernel = 8.0 * centred.T @ np.linalg.solve(gram, signs)
    head = keras.layers.Dense(1, name="logit")
    model = keras.Model(backbone.input, head(backbone.output))
    head.set_weights([kernel[:, None], np.array([-mean @ kernel])])
    export_ir(model, tmp_path / "model.xml", 2)
    ranges = np.random.default_rng(0).permutation(xrays[fitted])[:200]
    quantize_ir(tmp_path / "model.xml", tmp_path / "int8.xml", ranges)

    judged, truth = xrays[~fitted], labels[~fitted]
    f32 = openvino_engine(tmp_path / "model.xml", 2, "f32").logits(judged)
    int8 = openvino_engine(tmp_path / "int8.xml", 2, "int8").logits(judged)
    points = (
        choose_point(truth, f32, "youden-smoothed"),
        choose_point(truth, int8, "youden-smoothed"),
    )
    found = measure_change(truth, (f32, int8), points, patients[~fitted])
    assert found.auroc_change.value is not None
    assert abs(found.auroc_change.value) <= MAX_AUROC_LOSS, str(found)
    assert found.calls_changed.value is not None
    assert found.calls_changed.value <= 2 * MAX_CALLS_CHANGED, str(found)
    # The gate can tell: logits with noise of a third of their spread do not pass.
    noise = np.random.default_rng(0).normal(size=len(f32)) * f32.std() / 3
    spoilt = OperatingPoint(Calibration(), Threshold(0.5, "fixed"))
    assert not measure_change(truth, (f32, f32 + noise), (spoilt, spoilt), None).passes
