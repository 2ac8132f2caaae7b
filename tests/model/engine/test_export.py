import keras
import numpy as np
import pytest

from orchestrator.errors import BundleError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine import export
from orchestrator.model.engine.keras import keras_engine
from orchestrator.model.engine.load import load_engine
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.network import build_network, logit_model


def test_exported_backbone_gives_keras_features(tmp_path) -> None:
    backbone = build_backbone("tiny", "none", 32)
    images = np.random.default_rng(3).integers(0, 256, (40, 32, 32), dtype=np.uint8)

    difference = export.export_backbone(backbone, tmp_path / "made")

    assert 0 <= difference <= export.MAX_DIFFERENCE
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "backbone.bin",
        "backbone.keras",
        "backbone.xml",
    ]
    expected = backbone.predict(images[..., None], verbose=0)
    for name in ("openvino", "keras"):
        engine = load_engine(tmp_path / "made", name, 1)
        assert engine.num_outputs == 32
        np.testing.assert_allclose(engine.predict(images), expected, rtol=1e-4, atol=1e-6)


def test_export_has_one_output_however_many_activations_are_swish(tmp_path) -> None:
    import openvino

    image = keras.Input((16, 16, 1))
    x = image
    for _ in range(3):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="silu")(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))

    export.export_ir(model, tmp_path / "swish.xml", 1)

    written = openvino.Core().read_model(tmp_path / "swish.xml")
    assert [list(output.partial_shape)[1].get_length() for output in written.outputs] == [4]
    assert sum(op.get_type_name() == "Swish" for op in written.get_ops()) == 3


def test_logits_equal_keras_to_1e5_probability(tmp_path) -> None:
    network = build_network(build_backbone("efficientnet-lite0", "offline", 64), 0.2)
    kernel, bias = network.get_layer("logit").get_weights()
    network.get_layer("logit").set_weights([kernel * 20, bias])  # logits of a trained network
    model = logit_model(network)
    images = np.random.default_rng(3).integers(0, 256, (8, 64, 64), dtype=np.uint8)

    export.export_ir(model, tmp_path / "m.xml", 1)

    ours = openvino_engine(tmp_path / "m.xml", 1, "f32").logits(images)
    theirs = keras_engine(model).logits(images)
    assert np.abs(theirs).max() > 1
    assert np.abs(1 / (1 + np.exp(-ours)) - 1 / (1 + np.exp(-theirs))).max() < 1e-5


def test_export_that_differs_is_refused_and_removed(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_DIFFERENCE", -1.0)
    monkeypatch.setattr(export, "_MAX_CHAOS", -1.0)

    with pytest.raises(BundleError, match=r"export of tiny differs from Keras by .*--engine keras"):
        export.export_ir(build_backbone("tiny", "none", 16), tmp_path / "m.xml", 1)

    assert list(tmp_path.iterdir()) == []


def test_a_chaotic_network_may_differ_by_what_its_own_outputs_do(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 1))
    maps = keras.layers.Conv2D(16, 3)(keras.layers.Conv2D(16, 3)(image))
    mean = keras.layers.GlobalAveragePooling2D()(maps)

    def scaled(factor: float) -> keras.Model:
        return keras.Model(image, keras.ops.sin(mean * factor))

    difference = export.export_ir(scaled(1e2), tmp_path / "m.xml", 1)
    assert export.MAX_DIFFERENCE < difference < 0.1
    with pytest.raises(BundleError, match="expected at most 2e-01"):
        export.export_ir(scaled(1e6), tmp_path / "m.xml", 1)


def test_wrong_weights_are_found(tmp_path) -> None:
    path = tmp_path / "m.xml"
    export.export_ir(build_backbone("tiny", "none", 16, seed=1), path, 1)

    other = build_backbone("tiny", "none", 16, seed=2)

    assert export._largest_difference(other, path, 1) > 0.01
