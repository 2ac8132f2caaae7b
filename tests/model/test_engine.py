import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine import (
    BATCH_SIZES,
    _full_float32,
    _openvino_config,
    keras_engine,
    load_engine,
    openvino_engine,
    resolve_engine,
)
from orchestrator.model.export import export_backbone


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_backbone(build_backbone("efficientnet-lite0", "offline", 64), folder, 1)
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (45, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize("name", ["openvino", "keras"])
def test_row_does_not_depend_on_its_batch_mates(
    exported: Path, images: np.ndarray, name: str
) -> None:
    engine = load_engine(exported, name, 1)
    whole = engine.predict(images)
    order = np.random.default_rng(1).permutation(len(images))

    assert whole.shape == (45, 1280)
    assert whole.dtype == np.float32
    exact = {"openvino": 0.0, "keras": 1e-5}[name]
    np.testing.assert_allclose(engine.predict(images[order]), whole[order], rtol=exact, atol=exact)
    np.testing.assert_allclose(engine.predict(images[7:8]), whole[7:8], rtol=exact, atol=exact)


def test_openvino_result_does_not_depend_on_threads(exported: Path, images: np.ndarray) -> None:
    one, two = (load_engine(exported, "openvino", threads) for threads in (1, 2))

    np.testing.assert_array_equal(one.predict(images), two.predict(images))


def test_bf16_is_near_f32_and_is_asked_for(exported: Path, images: np.ndarray) -> None:
    expected = load_engine(exported, "openvino", 1, "f32").predict(images)

    received = load_engine(exported, "openvino", 1, "bf16").predict(images)

    assert np.abs(received - expected).max() < 0.1 * np.abs(expected).max()


def test_keras_mixed_precision_is_near_f32(images: np.ndarray) -> None:
    backbone = build_backbone("tiny", "none", 64)
    expected = keras_engine(backbone).predict(images)

    engine = keras_engine(backbone, "bf16")

    assert backbone.get_layer("conv_0").compute_dtype == "bfloat16"
    assert backbone.get_layer("preprocess").compute_dtype == "float32"
    received = engine.predict(images)
    assert received.dtype == np.float32
    assert 0 < np.abs(received - expected).max() < 0.05 * np.abs(expected).max()


def test_openvino_settings() -> None:
    config = _openvino_config(3, "f32")

    assert config["INFERENCE_PRECISION_HINT"] == "f32"
    assert config["INFERENCE_NUM_THREADS"] == 3
    assert config["ENABLE_CPU_PINNING"] is False
    assert _openvino_config(None, "bf16")["INFERENCE_NUM_THREADS"] >= 1


def test_auto_is_openvino_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert resolve_engine("auto") == "openvino"


def test_no_images(exported: Path) -> None:
    engine = load_engine(exported, "openvino", 1)

    assert engine.predict(np.empty((0, 64, 64), np.uint8)).shape == (0, 1280)
    assert engine.batch_size == BATCH_SIZES["openvino"]


def test_wrong_images(exported: Path) -> None:
    engine = load_engine(exported, "openvino", 1)

    for wrong in (np.zeros((2, 64, 64), np.float32), np.zeros((2, 32, 64), np.uint8)):
        with pytest.raises(SpecError, match=r"expected uint8 \[N, 64, 64\]"):
            engine.predict(wrong)
    with pytest.raises(SpecError, match="gives 1280 features an image, not a logit"):
        engine.logits(np.zeros((1, 64, 64), np.uint8))


def test_unknown_engine_and_precision(exported: Path) -> None:
    with pytest.raises(SpecError, match="unknown engine 'onnx'; expected auto, openvino or keras"):
        load_engine(exported, "onnx")
    with pytest.raises(SpecError, match="unknown precision 'int8'; expected f32, bf16, f16"):
        load_engine(exported, "openvino", 1, "int8")


def test_missing_or_damaged_ir(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"backbone\.xml and its \.bin are missing"):
        openvino_engine(tmp_path / "backbone.xml", 1, "f32")
    (tmp_path / "backbone.xml").write_text("<net/>")
    (tmp_path / "backbone.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"OpenVINO cannot load .*backbone\.xml: "):
        openvino_engine(tmp_path / "backbone.xml", 1, "f32")


def test_openvino_engine_imports_no_framework(exported: Path) -> None:
    code = f"""
import sys
import numpy as np
from pathlib import Path
from orchestrator.model import backbones, bundle, engine
backbones.check_weights("EfficientNetB5", None)
loaded = engine.load_engine(Path({str(exported)!r}), "openvino", 1)
loaded.predict(np.zeros((1, 64, 64), np.uint8))
found = [name for name in ("tensorflow", "keras", "jax", "torch", "ray") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_f32_on_tensorflow_turns_tf32_off_and_back_on(images: np.ndarray) -> None:
    from tensorflow.config.experimental import tensor_float_32_execution_enabled as enabled

    seen = []
    backbone = build_backbone("tiny", "none", 64)
    engine = keras_engine(backbone)
    assert enabled()
    with _full_float32():
        seen.append(enabled())
    engine.predict(images)

    assert seen == [False]
    assert enabled()
