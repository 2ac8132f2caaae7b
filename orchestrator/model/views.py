"""Test-time views: a bundle may average the logits of an image seen plain, closer and farther."""

from typing import TYPE_CHECKING

from orchestrator.errors import SpecError
from orchestrator.model.network import HEAD_LAYERS, logit_model

if TYPE_CHECKING:
    import keras

CLOSER = 0.9  # share of the side that the closer view shows
FARTHER = 1.15  # side of the farther view, its border black


def scoring_model(
    network: "keras.Model", num_views: int, *, with_features: bool = False
) -> "keras.Model":
    """Returns what scores an image: the logit of a network, or the mean logit of three views.

    Zoom differs from one site to the next; the mean over it steadied the results on images unlike
    the training's, at three times the cost. Mirrored views gained nothing.

    Args:
        network: a model of `build_network`; its layers are shared with the result.
        num_views: 1, or 3 for the plain, a closer and a farther view.
        with_features: whether the pooled features, of three views their mean, follow the logit.

    Returns:
        A model from images [None, S, S, 1] to float32 [None, 1], the logit, or [None, 1 + D].

    Raises:
        SpecError: another number of views.
    """
    import keras

    single = logit_model(network)
    if with_features:
        pooled = network.get_layer(HEAD_LAYERS[0]).input
        joined = keras.layers.Concatenate(name="logit_features", dtype="float32")(
            [single.output, pooled]
        )
        single = keras.Model(network.input, joined, name=single.name)
    if num_views == 1:
        return single
    if num_views != 3:
        raise SpecError(f"test-time views {num_views} are not offered; expected 1 or 3")
    size_px = int(network.input_shape[1])
    image = keras.Input((size_px, size_px, 1), name="image")
    inside = round(size_px * CLOSER)
    border = round(size_px * (FARTHER - 1.0) / 2.0)
    closer = keras.layers.CenterCrop(inside, inside)(image)
    farther = keras.layers.ZeroPadding2D(border)(image)
    views = [image, *(keras.layers.Resizing(size_px, size_px)(v) for v in (closer, farther))]
    # Resizing and cropping count as augmentation, and would set layers after them to training.
    logits = [single(view, training=False) for view in views]
    logit = keras.layers.Average(dtype="float32")(logits)
    return keras.Model(image, logit, name="three_views")
