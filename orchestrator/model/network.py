"""The classifier: a backbone, the paper's head, one flat graph; and the focal loss.

A flat graph, with no model nested in a layer, keeps heat maps, freezing and exact parameter counts
simple. Training loops are in `fit.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpecError
from orchestrator.model.backbones import seeded

if TYPE_CHECKING:
    import keras

_HIDDEN_UNITS = (512, 64, 32)
HEAD_LAYERS = (*(f"head_{units}" for units in _HIDDEN_UNITS), "logit")
_HEAD_DROPOUT = tuple(f"dropout_{units}" for units in _HIDDEN_UNITS)


def build_network(backbone: "keras.Model", dropout: float, *, seed: int = 0) -> "keras.Model":
    """Adds the classifier's head to a backbone.

    Args:
        backbone: a model of `build_backbone`; its layers are shared with the result.
        dropout: dropped fraction before the first three dense layers, 0 <= dropout < 1.
        seed: of the head's first weights and of its dropout.

    Returns:
        A flat model from images [None, S, S, 1], uint8 or float, grey levels 0..255, to the
        probability of PNEUMONIA, float32 [None, 1]. The layer `logit` gives its logit.

    Raises:
        SpecError: dropout outside its range.
    """
    import keras

    probability = _apply_head(backbone.output, dropout, seed)
    return keras.Model(backbone.input, probability, name="network")


def build_head(num_features: int, dropout: float, *, seed: int = 0) -> "keras.Model":
    """Builds the head alone, to train on cached features.

    The same seed gives the same weights as in `build_network`.

    Args:
        num_features: length of a feature vector.
        dropout: dropped fraction before the first three dense layers, 0 <= dropout < 1.
        seed: of the first weights and of the dropout.

    Returns:
        A model from features float32 [None, num_features] to probability float32 [None, 1].

    Raises:
        SpecError: dropout outside its range.
    """
    import keras

    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _apply_head(features, dropout, seed), name="head")


def build_head_with(
    num_features: int, make_dropout: "Callable[[str], keras.layers.Layer]", seed: int
) -> "keras.Model":
    """Builds `build_head` with dropout layers of the caller's own, made from their names."""
    import keras

    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _stack_head(features, make_dropout, seed), name="head")


def _apply_head(features: Any, dropout: float, seed: int) -> Any:
    import keras

    if not 0.0 <= dropout < 1.0:
        raise SpecError(f"dropout {dropout} is out of range; expected 0 <= dropout < 1")
    return _stack_head(features, lambda name: keras.layers.Dropout(dropout, name=name), seed)


def _stack_head(features: Any, make_dropout: Callable[[str], Any], seed: int) -> Any:
    """The paper's Table III after the pooling: dropout and dense in turn, then one logit."""
    import keras

    x = features
    with seeded(seed):
        for units in _HIDDEN_UNITS:
            x = make_dropout(f"dropout_{units}")(x)
            x = keras.layers.Dense(units, activation="relu", name=f"head_{units}")(x)
        # The last two stay float32 under a mixed-precision policy: probabilities near 0 and 1
        # do not survive 8 bits of mantissa.
        x = keras.layers.Dense(1, name="logit", dtype="float32")(x)
    return keras.layers.Activation("sigmoid", name="probability", dtype="float32")(x)


def copy_head(source: "keras.Model", destination: "keras.Model") -> None:
    """Copies the head's weights from one model to another by layer name.

    Args:
        source: a model of `build_head` or `build_network`.
        destination: likewise, with the same number of features; changed in place.
    """
    for name in HEAD_LAYERS:
        destination.get_layer(name).set_weights(source.get_layer(name).get_weights())


def logit_model(network: "keras.Model") -> "keras.Model":
    """Returns the part of a network or head that ends in the logit.

    Args:
        network: a model of `build_network` or `build_head`.

    Returns:
        A model with the same input and output float32 [None, 1], sharing all layers.
    """
    import keras

    return keras.Model(network.input, network.get_layer("logit").output, name="logit_model")


def settle_dropout(network: "keras.Model") -> None:
    """Turns off the dropout of a backbone up to its first layer that learns, and on after it.

    A frozen layer is a fixed function of the image. Keras runs its dropout in training all the
    same (stochastic depth in EfficientNets), so that a frozen backbone would give other features
    each time, and never those that scoring gives.

    Args:
        network: a model of `build_network` or `build_head`, before it is compiled; changed in
            place.
    """
    learns = False
    for layer in network.layers:
        learns = learns or bool(layer.trainable_variables)
        if getattr(layer, "seed_generator", None) is None or layer.name in _HEAD_DROPOUT:
            continue
        strength = next(name for name in ("rate", "stddev") if hasattr(layer, name))
        if not hasattr(layer, "own_strength"):
            layer.own_strength = getattr(layer, strength)
        setattr(layer, strength, layer.own_strength if learns else 0.0)


def focal_alpha(alpha: float | Literal["auto"], labels: npt.ArrayLike) -> float:
    """Returns the focal weight of PNEUMONIA that a spec asks for.

    Args:
        alpha: the weight itself; "auto" for the share of NORMAL in the labels, as in the paper.
        labels: int [N], of the training rows, 0 NORMAL, 1 PNEUMONIA.
    """
    return float(np.mean(np.asarray(labels) == 0)) if alpha == "auto" else alpha


def focal_loss(
    alpha: float, gamma: float, *, reduction: str | None = "sum_over_batch_size"
) -> "keras.losses.Loss":
    """Returns the class-balanced focal loss on logits.

    FL(p) = -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the probability given to the true
    label and alpha_t is alpha for PNEUMONIA (label 1) and 1 - alpha for NORMAL (label 0). Taken
    from the logit by log-sigmoids, it has a gradient also where a probability would round to 0
    or 1.

    Args:
        alpha: weight of PNEUMONIA, 0 < alpha < 1; the paper takes the share of NORMAL.
        gamma: focusing exponent, >= 0; 0 leaves weighted cross-entropy.
        reduction: as Keras takes it; None gives one loss an image.

    Returns:
        A Keras loss of labels [N, 1] and logits [N, 1].

    Raises:
        SpecError: alpha or gamma outside its range.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5.
    """
    if not 0.0 < alpha < 1.0:
        raise SpecError(f"focal alpha {alpha} is out of range; expected 0 < alpha < 1")
    if gamma < 0.0:
        raise SpecError(f"focal gamma {gamma} is out of range; expected gamma >= 0")
    return unchecked_focal_loss(alpha, gamma, reduction)


def unchecked_focal_loss(
    alpha: Any, gamma: Any, reduction: str | None = "sum_over_batch_size"
) -> "keras.losses.Loss":
    """Returns `focal_loss` of settings that may be variables, known only at run time."""
    import keras

    class FocalLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            y_true = keras.ops.cast(y_true, y_pred.dtype)
            # With s = z for label 1 and -z for label 0: log(p_t) = log_sigmoid(s), and
            # log(1 - p_t) = log_sigmoid(-s).
            signed = (2.0 * y_true - 1.0) * y_pred
            weight = y_true * alpha + (1.0 - y_true) * (1.0 - alpha)
            focus = keras.ops.exp(gamma * keras.ops.log_sigmoid(-signed))
            return keras.ops.mean(-weight * focus * keras.ops.log_sigmoid(signed), axis=-1)

    return FocalLoss(reduction=reduction)
