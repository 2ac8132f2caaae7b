"""Heat maps against gradients that TensorFlow computes, for a network of each kind."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from orchestrator.model.backbones import REGISTRY, build_backbone
from orchestrator.model.engine.export import export_ir
from orchestrator.model.heatmap import open_heat_model
from orchestrator.model.network import build_network, logit_model
from orchestrator.model.views import scoring_model

# Of networks that differ in size alone the smallest one.
KINDS = sorted(
    set(REGISTRY)
    - {f"EfficientNetB{n}" for n in range(1, 8)}
    - {"VGG19", "DenseNet201", "efficientnet-lite1", "efficientnet-lite2"}
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_the_map_is_grad_cam_by_tensorflow(name: str, views: int, tmp_path: Path) -> None:
    if views == 3 and name != "EfficientNetB0":
        pytest.skip("one kind shows it")
    size_px = max(96, REGISTRY[name].min_px, 128 if name == "InceptionV3" else 0)  # a map of 2 x 2
    network = build_network(build_backbone(name, "none", size_px, seed=1), 0.0, seed=2)
    export_ir(scoring_model(network, views), tmp_path / "m.xml")
    image = np.random.default_rng(0).integers(0, 256, (size_px, size_px), dtype=np.uint8)

    logit, heat = open_heat_model(tmp_path / "m.xml").explain(image)

    maps = network.get_layer("features").input
    to_maps = keras.Model(network.input, [maps, logit_model(network).output])
    found, expected = to_maps(image[np.newaxis, ..., np.newaxis].astype(np.float32), training=False)
    head = keras.Model(maps, network.get_layer("logit").output)
    with tf.GradientTape() as tape:
        tape.watch(found)
        gradients = tape.gradient(head(found), found)
    moves = np.einsum("hwd,d->hw", found[0], np.mean(gradients[0], (0, 1)))
    wanted = np.maximum(moves, 0) / np.abs(moves).max()
    np.testing.assert_allclose(heat, wanted, atol=2e-3)
    assert wanted.shape[0] >= 2
    if views == 1:
        assert logit == pytest.approx(float(expected[0, 0]), rel=1e-3, abs=1e-4)
