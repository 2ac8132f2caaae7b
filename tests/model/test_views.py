from pathlib import Path

import keras
import numpy as np
import pytest

from orchestrator.errors import SpecError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine.export import build_engine
from orchestrator.model.engine.keras import keras_engine
from orchestrator.model.network import build_network, logit_model
from orchestrator.model.views import scoring_model


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build_network(build_backbone("tiny", "none", 64, seed=2), 0.2, seed=2)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64)).astype(np.uint8)


def test_three_views_are_the_mean_logit_of_plain_closer_and_farther(
    network: keras.Model, images: np.ndarray
) -> None:
    single = keras_engine(logit_model(network))
    scored = keras_engine(scoring_model(network, 3)).logits(images)

    def resized(x: np.ndarray) -> np.ndarray:
        made = keras.ops.image.resize(x[..., None].astype(np.float32), (64, 64))
        return np.asarray(logit_model(network)(made))[:, 0]

    closer = resized(images[:, 3:-3, 3:-3])  # 0.9 of 64 is 58
    farther = resized(np.pad(images, [(0, 0), (5, 5), (5, 5)]))  # 1.15 of 64 is 74
    expected = (single.logits(images) + closer + farther) / 3
    np.testing.assert_allclose(scored, expected, atol=1e-5)
    assert np.abs(scored - single.logits(images)).max() > 1e-4


def test_one_view_is_the_network(network: keras.Model, images: np.ndarray) -> None:
    scored = keras_engine(scoring_model(network, 1)).logits(images)
    np.testing.assert_array_equal(scored, keras_engine(logit_model(network)).logits(images))


def test_both_engines_score_three_views_alike(
    network: keras.Model, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    engine = build_engine(network, 3, 1)
    assert engine.name == "openvino"
    model = keras_engine(scoring_model(network, 3), batch_size=4)
    np.testing.assert_allclose(engine.logits(images), model.logits(images), atol=1e-4)
    joined = scoring_model(network, 3, with_features=True)
    both = keras_engine(joined, batch_size=4, with_features=True).predict(images)
    assert both.shape == (len(images), 1 + engine.num_features)
    np.testing.assert_allclose(engine.predict(images), both, atol=1e-4)


@pytest.mark.parametrize("num_views", [1, 3])
def test_features_beside_the_logit_are_those_of_the_backbone(
    network: keras.Model, images: np.ndarray, num_views: int
) -> None:
    joined = scoring_model(network, num_views, with_features=True)
    both = keras_engine(joined, with_features=True)
    np.testing.assert_allclose(
        both.logits(images),
        keras_engine(scoring_model(network, num_views)).logits(images),
        atol=1e-6,
    )
    pooled = keras.Model(network.input, network.get_layer("dropout_512").input)
    seen = keras_engine(pooled).predict(images)
    found = both.predict(images)[:, 1:]
    assert found.shape == seen.shape
    if num_views == 1:
        np.testing.assert_allclose(found, seen, atol=1e-6)
    else:
        assert 0 < np.abs(found - seen).max() < np.abs(seen).max()


def test_other_numbers_of_views() -> None:
    network = build_network(build_backbone("tiny", "none", 32), 0.0)
    with pytest.raises(SpecError, match="views 2 are not offered; expected 1 or 3"):
        scoring_model(network, 2)
