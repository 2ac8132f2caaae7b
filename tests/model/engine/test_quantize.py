"""Networks in int8: made by NNCF where it is installed, run by OpenVINO alone."""

import importlib.metadata
from pathlib import Path

import numpy as np
import openvino
import pytest

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine import openvino as engines
from orchestrator.model.engine.export import export_ir
from orchestrator.model.engine.openvino import REST, int8_arithmetics, openvino_engine
from orchestrator.model.engine.quantize import choose_usual, quantize_ir
from orchestrator.model.network import build_network
from orchestrator.model.views import scoring_model
from tests.conftest import computes_in
from tests.model.engine.int8_by_hand import quantize_by_hand

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.xml"
    export_ir(scoring_model(build_network(build_backbone("tiny", "none", 32), 0.2), 1), path, 1)
    return path


def layers(path: Path) -> dict[str, set[str]]:
    """Kernels of a network's convolutions and dense layers, by the kind of layer."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found: dict[str, set[str]] = {}
    for node in openvino.Core().compile_model(path, "CPU", settings).get_runtime_model().get_ops():
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        if facts["layerType"] in ("Convolution", "FullyConnected"):
            found.setdefault(facts["layerType"], set()).add(facts["primitiveType"].split("_")[-1])
    return found


def check_int8(network: Path, quantized: Path, kernels: set[str], num_features: int) -> None:
    assert layers(quantized) == {"Convolution": kernels, "FullyConnected": {"f32"}}
    expected = openvino_engine(network, 1, "f32", with_features=True).predict(IMAGES)
    engine = openvino_engine(quantized, 1, "int8", with_features=True)
    assert (engine.precision, engine.num_features) == ("int8", num_features)
    received = engine.predict(IMAGES)
    # Near, and not the same
    assert 0 < np.abs(received - expected).max() < 0.1 * np.abs(expected).max()


def test_what_openvino_computes_in_int8(network: Path, tmp_path: Path) -> None:
    quantize_by_hand(network, tmp_path / "int8.xml", IMAGES)
    check_int8(network, tmp_path / "int8.xml", {"I8"}, 32)


def test_nncf_quantises_all_but_the_first_layers_and_the_head(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    network = tmp_path / "model.xml"
    export_ir(scoring_model(build_network(build_backbone("cnn", "none", 32), 0.2), 1), network, 1)
    quantize_ir(network, tmp_path / "int8.xml", IMAGES)
    assert capfd.readouterr().out == ""  # --json prints one object there
    check_int8(network, tmp_path / "int8.xml", {"f32", "I8"}, 256)
    (tmp_path / "bad.xml").write_text("<net/>")
    with pytest.raises(BundleError, match=r"NNCF cannot quantise .*bad\.xml: .*; score .* in f32"):
        quantize_ir(tmp_path / "bad.xml", tmp_path / "int8.xml", IMAGES)


def test_activations_are_quantised_by_channel_not_by_row(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    import keras

    image = keras.Input((32, 32, 1), name="image")
    maps = keras.layers.Rescaling(1 / 255)(image)
    for name in ("first", "second", "third", "fourth"):
        maps = keras.layers.Conv2D(16, 1, activation="swish", name=name)(maps)
        maps = keras.layers.DepthwiseConv2D(3, padding="same", name=f"{name}_depthwise")(maps)
        maps = keras.layers.Activation("swish", name=f"{name}_swish")(maps)
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    export_ir(keras.Model(image, keras.layers.Dense(1, name="logit")(features)), tmp_path / "m.xml")
    quantize_ir(tmp_path / "m.xml", tmp_path / "int8.xml", IMAGES)
    ranges = [
        tuple(node.input(1).get_partial_shape().to_shape())
        for node in openvino.Core().read_model(tmp_path / "int8.xml").get_ops()
        if node.get_type_name() == "FakeQuantize"
    ]
    assert any(shape == (1, 16, 1, 1) for shape in ranges)
    assert all(size in (1, 16) for shape in ranges for size in shape)


def test_sums_of_residual_blocks_stay_out_of_int8_beside_swish(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    import keras

    image = keras.Input((32, 32, 1), name="image")
    maps = keras.layers.Rescaling(1 / 255)(image)
    for name in ("first", "second", "third", "fourth"):
        maps = keras.layers.Conv2D(16, 3, padding="same", activation="swish", name=name)(maps)
    for name in ("fifth", "sixth"):
        more = keras.layers.Conv2D(16, 3, padding="same", activation="swish", name=name)(maps)
        more = keras.layers.Conv2D(16, 1, name=f"{name}_linear")(more)
        maps = keras.layers.Add(name=f"{name}_sum")([maps, more])
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    export_ir(keras.Model(image, keras.layers.Dense(1, name="logit")(features)), tmp_path / "m.xml")
    quantize_ir(tmp_path / "m.xml", tmp_path / "int8.xml", IMAGES)
    takers = {
        taker.get_node().get_type_name()
        for node in openvino.Core().read_model(tmp_path / "int8.xml").get_ops()
        if node.get_type_name() == "FakeQuantize"
        for taker in node.output(0).get_target_inputs()
    }
    assert "Convolution" in takers
    assert "Add" not in takers


def test_the_strangest_images_give_no_ranges() -> None:
    features = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    features[:, 0] = 0.25  # a feature that is the same of all
    features[1:, 1] = 0.0  # one that is not zero of one image
    features[[7, 123], 2:] *= 100
    kept = choose_usual(features)
    assert len(kept) == 294
    assert not {7, 123} & {*kept.tolist()}
    assert list(kept) == sorted(kept)
    assert list(choose_usual(features[:49])) == list(range(49))  # of so few all


def test_without_nncf_the_extra_is_named(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(SpecError, match=r"needs NNCF, .*: pip install 'xray-orchestrator\[int8\]'"):
        quantize_ir(network, tmp_path / "int8.xml", IMAGES)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512_vnni", ("vnni",)),
        ("avx2 avx_vnni", ("vnni",)),
        ("avx2 amx_int8", ("vnni",)),
        ("avx2 avx512_vnni avx512_bf16", ("vnni+bf16", "vnni")),
        ("avx2 amx_int8 amx_bf16", ("vnni+bf16", "vnni")),
        ("sse4_2 avx avx2", ("avx2",)),
        ("sse4_2 avx", ()),
        ("", ()),
    ],
)
def test_how_a_cpu_computes_in_int8(
    flags: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_flags(monkeypatch, flags)
    assert int8_arithmetics() == expected


def has_flags(patch: pytest.MonkeyPatch, flags: str) -> None:
    text = f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: avx512_vnni\n" if flags else ""
    patch.setattr(engines.Path, "read_text", lambda path, *given: text)


@pytest.mark.parametrize(
    ("activation", "flags", "expected"),
    [
        ("swish", "avx2 avx512_vnni avx512_bf16", "vnni+bf16"),
        ("swish", "avx2 avx512_vnni", "vnni"),
        ("relu", "avx2 avx512_vnni avx512_bf16", "vnni"),
        ("swish", "avx2", "avx2"),
    ],
)
def test_what_swish_is_computed_in(
    activation: str, flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="made with the extra int8")
    import keras

    image = keras.Input((32, 32, 1), name="image")
    maps = keras.layers.Conv2D(16, 3, activation=activation)(image)
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    export_ir(keras.Model(image, keras.layers.Dense(1, name="logit")(features)), tmp_path / "m.xml")
    monkeypatch.setattr(engines, "_cpu_flags", lambda: set(flags.split()))
    assert quantize_ir(tmp_path / "m.xml", tmp_path / "int8.xml", IMAGES) == expected
    model = openvino.Core().read_model(tmp_path / "int8.xml")
    assert model.has_rt_info(REST) == (expected == "vnni+bf16")


def mark_bf16(network: Path, target: Path) -> Path:
    """Writes a network quantised by hand whose other layers are to be computed in bfloat16."""
    quantize_by_hand(network, target, IMAGES)
    model = openvino.Core().read_model(target)
    model.set_rt_info("bf16", REST)
    marked = target.with_name("marked.xml")
    openvino.save_model(model, marked, compress_to_fp16=False)
    return marked


@pytest.mark.skipif(not computes_in("bf16"), reason="this CPU has no bf16")
def test_a_network_computes_in_what_it_was_made_for(network: Path, tmp_path: Path) -> None:
    marked = mark_bf16(network, tmp_path / "plain.xml")
    without, with_bf16 = (
        openvino_engine(path, 1, "int8").predict(IMAGES)
        for path in (tmp_path / "plain.xml", marked)
    )
    difference = np.abs(with_bf16 - without).max()
    assert 0 < difference < 0.05 * np.abs(without).max()


def test_a_cpu_without_bf16_refuses_a_network_made_with_it(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = mark_bf16(network, tmp_path / "plain.xml")
    whole = engines._openvino_config
    # Such a CPU computes in float32 whatever it is asked for.
    monkeypatch.setattr(engines, "_openvino_config", lambda threads, _: whole(threads, "f32"))
    with pytest.raises(
        SpecError, match="not quantised in bf16, which this CPU does not have: give"
    ):
        openvino_engine(marked, 1, "int8")
    assert openvino_engine(tmp_path / "plain.xml", 1, "int8").precision == "int8"
