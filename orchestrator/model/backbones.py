"""The registry of feature extractors: names, sizes, weights and preprocessing.

A backbone here maps grey images [N, S, S, 1], grey levels 0..255, to pooled features [N, D]. Its
own preprocessing is part of the graph, made of standard layers, so a saved model carries it. Names
and weights can be checked without importing Keras. The classifier's head is in `network.py`.

Over 300 lines, a good part of them the rows of the table.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from orchestrator.errors import BundleError, ClusterError, SpecError
from orchestrator.model.keras_file import first_line, load_keras_file
from orchestrator.model.lite import VARIANTS, build_trunk, load_weights

if TYPE_CHECKING:
    import keras

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

# (scale, offset) of x * scale + offset on grey levels 0..255, per channel. "own" is EfficientNet,
# whose Keras graph starts with its own scaling. Caffe's networks take BGR; the three channels of
# a grey image are equal, so the order of the means is all that is left of it.
_PREPROCESSING: dict[str, tuple[Any, Any]] = {
    "own": (1.0, 0.0),
    "caffe": (1.0, [-mean for mean in _CAFFE_MEAN_BGR]),
    "torch": (
        [1.0 / (255.0 * std) for std in _IMAGENET_STD],
        [-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)],
    ),
    "inception": (1.0 / 127.5, -1.0),
    "lite": (1.0 / 128.0, -127.0 / 128.0),
}


@dataclass(frozen=True)
class Backbone:
    """One entry of the registry.

    Attributes:
        name: canonical name; for a network of Keras also its name in `keras.applications`.
        preprocessing: key of the preprocessing table.
        num_params: parameters without the head.
        num_features: features it gives an image.
        weights: kinds of weights offered, the default first; a path to a weights file is offered
            by every entry besides.
        min_px: smallest size the network accepts, px.
        training_bytes: memory of its fine-tuning for every pixel of a batch, besides weights,
            gradients and moments. Measured for Lite0 at 224 px (1,370) and B5 at 150 px (8,390),
            which stands for Keras's others; the rest by what a step takes relative to Lite0's.
    """

    name: str
    preprocessing: Literal["own", "caffe", "torch", "inception", "lite"]
    num_params: int
    num_features: int
    weights: tuple[str, ...] = ("imagenet", "none")
    min_px: int = 32
    training_bytes: int = 8_400


REGISTRY: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("EfficientNetB0", "own", 4_049_571, 1280),
        Backbone("EfficientNetB1", "own", 6_575_239, 1280),
        Backbone("EfficientNetB2", "own", 7_768_569, 1408),
        Backbone("EfficientNetB3", "own", 10_783_535, 1536),
        Backbone("EfficientNetB4", "own", 17_673_823, 1792),
        Backbone("EfficientNetB5", "own", 28_513_527, 2048),
        Backbone("EfficientNetB6", "own", 40_960_143, 2304),
        Backbone("EfficientNetB7", "own", 64_097_687, 2560),
        Backbone("VGG16", "caffe", 14_714_688, 512),
        Backbone("VGG19", "caffe", 20_024_384, 512),
        Backbone("ResNet50", "caffe", 23_587_712, 2048),
        Backbone("DenseNet121", "torch", 7_037_504, 1024),
        Backbone("DenseNet201", "torch", 18_321_984, 1920),
        Backbone("InceptionV3", "inception", 21_802_784, 2048, min_px=75),
        Backbone(
            "efficientnet-lite0", "lite", 3_413_024, 1280, ("offline", "none"), training_bytes=1_400
        ),
        Backbone(
            "efficientnet-lite1", "lite", 4_189_344, 1280, ("offline", "none"), training_bytes=1_900
        ),
        Backbone(
            "efficientnet-lite2", "lite", 4_869_168, 1280, ("offline", "none"), training_bytes=1_900
        ),
        Backbone("ResNet18", "torch", 11_186_112, 512, ("none",), training_bytes=800),
        Backbone("SqueezeNet", "torch", 722_496, 512, ("none",), training_bytes=1_100),
        Backbone("AlexNet", "torch", 2_469_696, 256, ("none",), 63, training_bytes=300),
        Backbone("cnn", "inception", 388_416, 256, ("none",), training_bytes=1_400),
        Backbone("tiny", "inception", 6_200, 32, ("none",), min_px=16),
    )
}


def sizes_of(name: str) -> Backbone:
    """Returns the entry whose sizes to plan with: the largest for a backbone of one's own.

    Args:
        name: canonical name, or the path of a `.keras` file.
    """
    return REGISTRY.get(name) or max(REGISTRY.values(), key=lambda entry: entry.num_params)


def canonical_name(name: str) -> str:
    """Returns the registry's spelling of a backbone's name.

    Args:
        name: a name in any case, with or without `-` and `_`; or the path of a `.keras` file.

    Returns:
        A key of `REGISTRY`, or the path as given.

    Raises:
        SpecError: no such backbone; the message lists the valid names.
    """
    if name.endswith(".keras"):
        return name
    wanted = re.sub("[-_ ]", "", name).lower()
    for known in REGISTRY:
        if wanted == known.replace("-", "").lower():
            return known
    raise SpecError(
        f"unknown backbone {name!r}; expected one of {', '.join(REGISTRY)}, or the path of a "
        ".keras feature extractor"
    )


def canonical_names(names: Sequence[str]) -> list[str]:
    """Returns the registry's spelling of several backbones' names.

    Args:
        names: as `canonical_name` takes them; `all` alone stands for the whole registry.

    Raises:
        SpecError: no such backbone; the message lists the valid names.
    """
    return list(REGISTRY) if [*names] == ["all"] else [canonical_name(name) for name in names]


def check_weights(name: str, weights: str | None) -> str:
    """Returns the weights to use with a backbone, or says which ones it offers.

    Args:
        name: backbone, as `canonical_name` takes it.
        weights: `imagenet`, `offline`, `none`, the path of a `.h5` weights file, or None for the
            backbone's first choice.

    Returns:
        The choice; `file` where the backbone itself is a `.keras` file.

    Raises:
        SpecError: the backbone does not offer these weights.
    """
    name = canonical_name(name)
    if name not in REGISTRY:
        if weights in (None, "file"):
            return "file"
        raise SpecError(
            f"weights {weights!r} cannot be used with the backbone {name}, which brings its own; "
            "leave weights out or give 'file'"
        )
    offered = REGISTRY[name].weights
    if weights is None:
        return offered[0]
    if weights in offered or weights.endswith(".h5"):
        return weights
    raise SpecError(f"weights {weights!r} are not offered for {name}; {_choices(name)}")


def check_size(name: str, size_px: int) -> None:
    """Raises SpecError where an image size is too small for a backbone.

    Args:
        name: backbone, as `canonical_name` takes it.
        size_px: height and width of the images, px.
    """
    name = canonical_name(name)
    smallest = REGISTRY[name].min_px if name in REGISTRY else 1
    if size_px < smallest:
        raise SpecError(f"image size {size_px} px is too small for {name}; at least {smallest} px")


def build_backbone(name: str, weights: str | None, size_px: int, *, seed: int = 0) -> "keras.Model":
    """Builds a frozen feature extractor.

    Args:
        name: backbone, as `canonical_name` takes it.
        weights: as `check_weights` takes them. A `.h5` file is one written by
            `model.save_weights` for the same network, or Keras's own `..._notop.h5`; for an
            EfficientNet it is taken to follow Keras's ImageNet preprocessing.
        size_px: height and width of the images, px.
        seed: of the random weights; the same seed gives the same weights.

    Returns:
        A flat model from `image` float32 [None, size_px, size_px, 1], grey levels 0..255, to
        pooled features float32 [None, D]; `trainable` is False.

    Raises:
        SpecError: unknown name, weights not offered, size too small, or a file that does not fit.
        ClusterError: the download of the ImageNet weights failed.
    """
    import keras

    name = canonical_name(name)
    weights = check_weights(name, weights)
    check_size(name, size_px)
    image = keras.Input((size_px, size_px, 1), name="image")
    with seeded(seed):
        if name in REGISTRY:
            maps = _registered_maps(REGISTRY[name], image, weights)
        else:
            maps = _file_maps(Path(name), image)
        if len(maps.shape) == 4:
            maps = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    model = keras.Model(image, maps, name=re.sub("[^A-Za-z0-9]", "_", Path(name).stem).lower())
    if weights == "offline":
        load_weights(model, name)
    elif weights.endswith(".h5"):
        _load_weights_file(model, name, Path(weights))
    model.trainable = False
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Makes every layer built within take its seeds from `seed`.

    Keras draws the seed of each initializer and dropout from Python's `random`; the state of
    `random` is put back afterwards.

    Args:
        seed: any integer.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _choices(name: str, without: str | None = None) -> str:
    """One clause that names the weights a registered backbone can have."""
    offered = ", ".join(kind for kind in REGISTRY[name].weights if kind != without)
    return (
        f"choose {offered} or the path of a .h5 weights file for {name}, or "
        "--backbone efficientnet-lite0 --weights offline, which needs no download"
    )


def _registered_maps(backbone: Backbone, image: Any, weights: str) -> Any:
    """Preprocessing and convolutions of a registered network, as a Keras tensor."""
    import keras

    scale, offset = _PREPROCESSING[backbone.preprocessing]
    if backbone.preprocessing == "own" and weights.endswith(".h5"):
        scale, offset = _efficientnet_imagenet_scaling()
    x = keras.layers.Concatenate(name="grey_to_rgb")([image, image, image])
    if scale != 1.0 or offset != 0.0:
        x = keras.layers.Rescaling(scale, offset, name="preprocess")(x)
    if backbone.name in VARIANTS:
        return build_trunk(x, backbone.name)
    if "imagenet" not in backbone.weights:
        from orchestrator.model.small_networks import TRUNKS

        return TRUNKS[backbone.name](x)
    build = getattr(keras.applications, backbone.name)
    if weights != "imagenet":
        return build(include_top=False, weights=None, input_tensor=x).output
    try:
        return build(include_top=False, weights="imagenet", input_tensor=x).output
    except Exception as error:  # Keras raises plain Exception when its download fails
        raise ClusterError(
            f"the ImageNet weights of {backbone.name} could not be downloaded "
            f"({first_line(error)}); {_choices(backbone.name, without=weights)}"
        ) from error


def _efficientnet_imagenet_scaling() -> tuple[list[float], list[float]]:
    """Scaling that makes Keras's plain EfficientNet graph equal to its ImageNet one.

    With `weights="imagenet"` Keras multiplies by 1/sqrt(std) after its normalisation
    (x/255 - mean) / sqrt(std), where std is stored as the variance. The same factor s applied
    before it is x * s + 255 * mean * (1 - s).
    """
    factors = [std**-0.5 for std in _IMAGENET_STD]
    offsets = [
        255.0 * mean * (1.0 - factor) for mean, factor in zip(_IMAGENET_MEAN, factors, strict=True)
    ]
    return factors, offsets


def _file_maps(path: Path, image: Any) -> Any:
    """Applies the feature extractor of a `.keras` file to grey images."""
    import keras

    try:
        model = load_keras_file(path)
    except BundleError as error:
        raise SpecError(f"backbone: {error}") from error
    shape = model.input_shape
    size_px = image.shape[1]
    fits = isinstance(shape, tuple) and len(shape) == 4 and shape[3] in (1, 3)
    if not fits or any(side not in (None, size_px) for side in shape[1:3]):
        raise SpecError(
            f"the backbone {path} takes {shape}; expected one input of images of {size_px} px "
            "with 1 or 3 channels"
        )
    if not isinstance(model.output_shape, tuple) or len(model.output_shape) not in (2, 4):
        raise SpecError(
            f"the backbone {path} gives {model.output_shape}; expected one output of feature "
            "maps [N, h, w, D] or features [N, D]"
        )
    if shape[3] == 3:
        image = keras.layers.Concatenate(name="grey_to_rgb")([image, image, image])
    # `call`, not the model itself: it applies the layers one by one, so the graph stays flat.
    return model.call(image)


def _load_weights_file(model: "keras.Model", name: str, path: Path) -> None:
    """Loads a `.h5` weights file, which holds arrays only, into a built backbone."""
    if not path.is_file():
        raise SpecError(f"the weights file {path} does not exist; {_choices(name)}")
    # Keras only warns of layers that it does not find in some kinds of file; NaN tells.
    model.set_weights([np.full(w.shape, np.nan, "float32") for w in model.get_weights()])
    try:
        model.load_weights(path)
    except Exception as error:  # Keras and h5py raise many kinds for a file that does not fit
        reason = first_line(error)
    else:
        loaded = zip(model.weights, model.get_weights(), strict=True)
        missing = [weight.path for weight, value in loaded if np.isnan(value).any()]
        if not missing:
            return
        reason = f"it lacks {len(missing)} of the weights, the first is {missing[0]}"
    raise SpecError(
        f"the weights file {path} does not fit {name} ({reason}); give a file saved from the same "
        "network without its top"
    )
