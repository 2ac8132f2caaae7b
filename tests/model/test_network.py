import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit

from orchestrator.errors import SpecError
from orchestrator.model.backbones import build_backbone
from orchestrator.model.network import (
    HEAD_LAYERS,
    build_head,
    build_network,
    copy_head,
    focal_alpha,
    focal_loss,
    logit_model,
)


@pytest.fixture(scope="module")
def backbone() -> keras.Model:
    return build_backbone("tiny", "none", 32)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 1), dtype=np.uint8)


def test_head_has_the_papers_parameters() -> None:
    head = build_head(2048, 0.2)

    assert [head.get_layer(name).count_params() for name in HEAD_LAYERS] == [
        1_049_088,
        32_832,
        2_080,
        33,
    ]
    assert head.count_params() == 1_084_033


def test_network_is_flat_and_only_its_head_is_trained(backbone: keras.Model) -> None:
    network = build_network(backbone, 0.2)

    assert not any(isinstance(layer, keras.Model) for layer in network.layers)
    trained = {weight.path.split("/")[0] for weight in network.trainable_weights}
    assert trained == set(HEAD_LAYERS)


def test_same_seed_gives_the_same_head_alone_and_in_a_network(backbone: keras.Model) -> None:
    head = build_head(32, 0.2, seed=4)
    network = build_network(backbone, 0.2, seed=4)
    other = build_head(32, 0.2, seed=5)

    for name in HEAD_LAYERS:
        kernel = head.get_layer(name).get_weights()[0]
        np.testing.assert_array_equal(kernel, network.get_layer(name).get_weights()[0])
        assert not np.array_equal(kernel, other.get_layer(name).get_weights()[0])


def test_copied_head_gives_the_same_probabilities(backbone: keras.Model) -> None:
    head, network = build_head(32, 0.2, seed=1), build_network(backbone, 0.2, seed=2)
    pixels = images(5)
    features = backbone.predict(pixels, verbose=0)
    assert not np.allclose(head.predict(features, verbose=0), network.predict(pixels, verbose=0))

    copy_head(head, network)

    np.testing.assert_allclose(
        network.predict(pixels, verbose=0), head.predict(features, verbose=0), atol=1e-6
    )


def test_probability_is_the_sigmoid_of_the_logit(backbone: keras.Model) -> None:
    network = build_network(backbone, 0.2)
    pixels = images(5)

    logits = logit_model(network).predict(pixels, verbose=0)

    np.testing.assert_allclose(
        network.predict(pixels, verbose=0), 1 / (1 + np.exp(-logits)), atol=1e-6
    )


def test_last_layers_stay_float32_in_mixed_precision() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        network = build_network(build_backbone("tiny", "none", 32), 0.2)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")

    assert network.get_layer("head_32").compute_dtype == "bfloat16"
    assert network.get_layer("logit").compute_dtype == "float32"
    assert network.output.dtype == "float32"


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(SpecError, match=rf"dropout {dropout} is out of range; expected 0 <="):
        build_head(8, dropout)


def test_focal_loss_by_hand() -> None:
    labels = np.array([[1.0], [1.0], [0.0], [0.0]])
    probabilities = np.array([[0.9], [0.2], [0.1], [0.7]])
    alpha, gamma = 0.25, 2.0

    losses = focal_loss(alpha, gamma, reduction=None)(labels, logit(probabilities))

    expected = [
        -0.25 * 0.1**2 * np.log(0.9),
        -0.25 * 0.8**2 * np.log(0.2),
        -0.75 * 0.1**2 * np.log(0.9),
        -0.75 * 0.7**2 * np.log(0.3),
    ]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(losses), expected, rtol=1e-5)
    mean = float(focal_loss(alpha, gamma)(labels, logit(probabilities)))
    assert mean == pytest.approx(np.mean(expected), rel=1e-5)


def test_focal_loss_with_gamma_zero_is_weighted_cross_entropy() -> None:
    losses = focal_loss(0.5, 0.0, reduction=None)(np.array([[1.0]]), logit([[0.3]]))

    assert float(losses[0]) == pytest.approx(-0.5 * np.log(0.3), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_equals_keras_own_where_probabilities_do_not_round(
    alpha: float, gamma: float
) -> None:
    logits = np.linspace(-8, 8, 161, dtype=np.float32)[:, None]
    stock = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=alpha, gamma=gamma, reduction=None, dtype="float64"
    )
    for label in (0.0, 1.0):
        labels = np.full_like(logits, label)
        ours = keras.ops.convert_to_numpy(focal_loss(alpha, gamma, reduction=None)(labels, logits))
        theirs = keras.ops.convert_to_numpy(stock(labels, expit(logits.astype(np.float64))))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_and_its_gradient_are_exact_at_every_logit(gamma: float) -> None:
    logits = np.concatenate([np.linspace(-60, 60, 241), [-16.0, 16.0]]).astype(np.float32)[:, None]
    for label in (0.0, 1.0):
        labels = np.full_like(logits, label)
        z = tf.Variable(logits)
        with tf.GradientTape() as tape:
            losses = focal_loss(0.25, gamma, reduction=None)(labels, z)
        found = tape.gradient(losses, z).numpy()[:, 0].astype(np.float64)
        # In float64, with s = z for label 1 and -z for label 0: p_t = sigmoid(s).
        sign = 2 * label - 1
        s = sign * logits[:, 0].astype(np.float64)
        log_p, log_q = -np.logaddexp(0, -s), -np.logaddexp(0, s)
        weight = 0.25 if label else 0.75
        np.testing.assert_allclose(
            losses.numpy(), -weight * np.exp(gamma * log_q) * log_p, rtol=1e-5, atol=1e-30
        )
        p, q = np.exp(log_p), np.exp(log_q)
        expected = sign * weight * np.exp(gamma * log_q) * (gamma * p * log_p - q)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)
        assert np.isfinite(found).all()
        # Where the answer is wrong there is always something to learn, in the right direction.
        wrong = s < 0
        assert (np.sign(found[wrong]) == -sign).all()


def test_focal_loss_out_of_range() -> None:
    with pytest.raises(SpecError, match=r"focal alpha 1\.0 is out of range"):
        focal_loss(1.0, 2.0)
    with pytest.raises(SpecError, match=r"focal gamma -1\.0 is out of range"):
        focal_loss(0.5, -1.0)


def test_alpha_auto_is_the_share_of_normal_as_in_the_paper() -> None:
    labels = np.array([0] * 1341 + [1] * 3875, np.int8)
    assert focal_alpha("auto", labels) == pytest.approx(1341 / 5216)
    assert focal_alpha(0.3, labels) == 0.3
