import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine.base import Precision, choose_engine, default_batch_size
from orchestrator.model.engine.export import export_backbone, export_ir
from orchestrator.model.engine.keras import _full_float32, keras_engine
from orchestrator.model.engine.load import load_engine
from orchestrator.model.engine.openvino import (
    _convolution_kernels,
    _has_amx,
    _kernels_to_ask_for,
    _openvino_config,
    _read_ir,
    openvino_engine,
)
from tests.conftest import computes_in


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


@pytest.mark.skipif(not computes_in("bf16"), reason="this CPU has no bf16")
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


needs_amx = pytest.mark.skipif(not _has_amx(), reason="asked for on a CPU with AMX")


@needs_amx
@pytest.mark.parametrize(
    ("precision", "kernels"),
    [
        ("f32", {"jit_avx512", "jit_avx512_1x1", "jit_avx512_dw"}),
        ("bf16", {"brgconv_avx512_amx", "brgconv_avx512_amx_1x1", "brgconv_avx512_dw"}),
        # Those of float32 would be answered by reference code, thousands of times slower.
        pytest.param(
            "f16",
            {"brgconv_avx512", "brgconv_avx512_1x1", "brgconv_avx512_dw"},
            marks=pytest.mark.skipif(not computes_in("f16"), reason="this CPU has no f16"),
        ),
    ],
)
def test_openvino_runs_the_kernels_it_is_asked_for(
    exported: Path, precision: Precision, kernels: set[str]
) -> None:
    core = openvino.Core()
    path = exported / "backbone.xml"
    model = _read_ir(core, path, _kernels_to_ask_for(core, path, precision))
    model.reshape([2, 64, 64])

    compiled = core.compile_model(model, "CPU", _openvino_config(1, precision))

    assert _convolution_kernels(compiled) == kernels


@needs_amx
def test_int8_with_swish_is_computed_without_amx(tmp_path: Path) -> None:
    opset = openvino.opset13
    rng = np.random.default_rng(0)

    def quantized(node: Any, least: float, largest: float, levels: int) -> Any:
        ends = [np.float32(end) for end in (least, largest, least, largest)]
        return opset.fake_quantize(node, *ends, levels)

    def mixed(node: Any, name: str) -> Any:
        weights = rng.normal(0, 0.1, (64, 64, 1, 1)).astype(np.float32)
        taken = quantized(node, 0.0, 2.55, 256), quantized(weights, -0.5, 0.5, 255)
        return opset.convolution(*taken, [1, 1], [0, 0], [0, 0], [1, 1], name=name)

    image = opset.parameter([-1, 32, 32], np.uint8)
    grey = opset.convert(opset.unsqueeze(image, np.int64(1)), "f32")
    bias = rng.normal(size=(1, 64, 1, 1)).astype(np.float32)
    active = opset.swish(opset.add(mixed(opset.concat([grey] * 64, 1), "first"), bias))
    pooled = opset.reduce_mean(opset.relu(mixed(active, "second")), np.array([2, 3]), False)
    model = openvino.Model([pooled], [image])
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    core = openvino.Core()

    kernels = _kernels_to_ask_for(core, tmp_path / "model.xml", "int8")
    used = []
    for asked in (kernels, {}):
        model = _read_ir(core, tmp_path / "model.xml", asked)
        model.reshape([2, 32, 32])
        compiled = core.compile_model(model, "CPU", _openvino_config(1, "f32"))
        used.append(_convolution_kernels(compiled))

    assert list(kernels) == ["first"]
    assert used == [{"jit_avx512_1x1", "brgconv_avx512_amx_1x1"}, {"brgconv_avx512_amx_1x1"}]


@needs_amx
def test_openvino_never_falls_back_on_matrix_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    class Core(openvino.Core):
        def compile_model(self, *given: Any) -> openvino.CompiledModel:
            compiled.append(super().compile_model(*given))
            return compiled[-1]

    monkeypatch.setattr(openvino, "Core", Core)
    image = openvino.opset13.parameter([-1, 32, 32], np.uint8)
    grey = openvino.opset13.convert(openvino.opset13.unsqueeze(image, np.int64(1)), "f32")
    wide = openvino.opset13.concat([grey] * 64, 1)
    weights = np.random.default_rng(0).normal(size=(64, 64, 1, 1)).astype(np.float32)
    mixed = openvino.opset13.convolution(wide, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    pooled = openvino.opset13.reduce_mean(mixed, np.array([2, 3]), False)
    model = openvino.Model([pooled], [image])
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)

    openvino_engine(tmp_path / "model.xml", 1, "f32", 2)

    assert [_convolution_kernels(each) for each in compiled] == [
        {"jit_gemm"},
        {"brgconv_avx512_1x1"},
    ]


def test_auto_is_openvino_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert choose_engine("auto") == "openvino"


def test_auto_is_keras_on_gpus_except_in_int8() -> None:
    assert choose_engine("auto", "f32", gpus=True) == "keras"
    assert choose_engine("auto", "int8", gpus=True) == "openvino"
    assert choose_engine("auto", "f32", gpus=False) == "openvino"
    with pytest.raises(SpecError, match="Keras does not compute in int8; leave out --engine"):
        choose_engine("keras", "int8", gpus=True)
    with pytest.raises(SpecError, match="expected auto, openvino or keras"):
        choose_engine("tpu")


def test_no_images(exported: Path) -> None:
    engine = load_engine(exported, "openvino", 1)

    assert engine.predict(np.empty((0, 64, 64), np.uint8)).shape == (0, 1280)
    assert engine.batch_size == default_batch_size("openvino", 64)


def test_batches_are_powers_of_two_that_hold_about_as_many_pixels() -> None:
    sizes = [default_batch_size("openvino", size_px) for size_px in (64, 150, 224, 456, 1024)]
    assert sizes == [16, 8, 4, 1, 1]


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
    with pytest.raises(SpecError, match="unknown precision 'int4'; expected f32, bf16, f16"):
        load_engine(exported, "openvino", 1, "int4")
    with pytest.raises(SpecError, match="no int8 network; compute it in f32, or name a bundle"):
        load_engine(exported, "openvino", 1, "int8")


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_what_is_computed_in_is_what_was_asked_for_or_an_error(
    exported: Path, precision: str
) -> None:
    if computes_in(precision):
        assert load_engine(exported, "openvino", 1, precision).precision == precision
        return
    message = (
        rf"asked for precision {precision}; OpenVINO computes in b?f\d+ on this CPU: give --pre"
    )
    with pytest.raises(SpecError, match=message):
        load_engine(exported, "openvino", 1, precision)


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
from orchestrator.model import augment, backbones, bundle
from orchestrator.model.engine import load as engine
backbones.check_weights("EfficientNetB5", None)
loaded = engine.load_engine(Path({str(exported)!r}), "openvino", 1)
images = np.zeros((1, 64, 64), np.uint8)
for recipe in augment.RECIPES:
    loaded.predict(augment.augment(images, np.arange(1), 1, 0, recipe=recipe))
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


# How near the threshold a label may change at a lower precision, in probability. On 96 X-rays bf16
# moved probabilities by up to 0.022 and f16 by up to 0.003 (f32, in another engine, by 5e-7).
MARGIN = 0.05


@pytest.mark.real_data
def test_precisions_on_real_xrays(public_data: Path, tmp_path: Path) -> None:
    import keras

    from orchestrator.data.decode.images import Limits, decode

    paths = sorted((public_data / "fullres").rglob("*.jpeg"))
    xrays = np.stack([decode(path.read_bytes(), 128, Limits()).pixels for path in paths])
    labels = np.array([path.parent.name == "PNEUMONIA" for path in paths])
    backbone = build_backbone("efficientnet-lite0", "offline", 128)
    features = keras_engine(backbone).predict(xrays).astype(np.float64)
    # A linear head by ridge regression: logits of a trained network, threshold 0.5 within them.
    centred = features - features.mean(axis=0)
    gram = centred @ centred.T + 50.0 * np.eye(len(xrays))
    kernel = 8.0 * centred.T @ np.linalg.solve(gram, labels - labels.mean())
    head = keras.layers.Dense(1)
    model = keras.Model(backbone.input, head(backbone.output))
    head.set_weights([kernel[:, None], np.array([-features.mean(axis=0) @ kernel])])
    export_ir(model, tmp_path / "model.xml", 2)

    def probabilities(logits: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    expected = probabilities(keras_engine(model).logits(xrays))
    assert (expected > 0.5).mean() == pytest.approx(0.5, abs=0.1)
    assert np.ptp(expected) > 0.8
    for precision, most in (("f32", 1e-5), ("bf16", MARGIN), ("f16", MARGIN)):
        if not computes_in(precision):
            continue
        engine = openvino_engine(tmp_path / "model.xml", 2, precision)
        received = probabilities(engine.logits(xrays))
        difference = np.abs(received - expected).max()
        assert difference < most, f"{precision}: {difference:.1e}"
        changed = (received >= 0.5) != (expected >= 0.5)
        assert (np.abs(expected[changed] - 0.5) < most).all()


def test_first_batches_at_once_do_not_lock_each_other(exported: Path) -> None:
    code = f"""
import sys, threading
import numpy as np
from pathlib import Path
from orchestrator.model.engine.load import load_engine
sys.setswitchinterval(1e-6)
engine = load_engine(Path({str(exported)!r}), "openvino", 8)
start = threading.Barrier(8)
done = []
def run():
    start.wait()
    done.append(engine.run_batch(np.zeros((engine.batch_size, 64, 64), np.uint8)))
threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(len(done) != 8)
"""
    for _ in range(3):  # without its remedy about one in two of these never ends
        subprocess.run([sys.executable, "-c", code], check=True, timeout=90)


def test_openvino_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    code = "import orchestrator.model.engine.openvino; import openvino"
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)

    assert not [*tmp_path.iterdir()]  # where it keeps the number by which it reports
