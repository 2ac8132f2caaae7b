import random

import h5py
import keras
import numpy as np
import pytest

from orchestrator.errors import ClusterError, SpecError
from orchestrator.model import small_networks
from orchestrator.model.backbones import (
    REGISTRY,
    build_backbone,
    canonical_name,
    canonical_names,
    check_size,
    check_weights,
)
from orchestrator.model.lite import VARIANTS
from orchestrator.model.network import build_network


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("efficientnetb5", "EfficientNetB5"),
        ("EFFICIENTNET-B0", "EfficientNetB0"),
        ("efficientnet_lite0", "efficientnet-lite0"),
        ("resnet50", "ResNet50"),
        ("inception_v3", "InceptionV3"),
        ("Tiny", "tiny"),
        ("models/mine.keras", "models/mine.keras"),
    ],
)
def test_canonical_name(given: str, expected: str) -> None:
    assert canonical_name(given) == expected


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(SpecError, match=r"'resnet51'.*EfficientNetB7.*VGG19.*tiny.*\.keras"):
        canonical_name("resnet51")


def test_weights_default_to_the_first_offer() -> None:
    assert check_weights("vgg16", None) == "imagenet"
    assert check_weights("efficientnet-lite0", None) == "offline"
    assert check_weights("tiny", None) == "none"
    assert check_weights("a.keras", None) == "file"
    assert check_weights("vgg16", "mine.weights.h5") == "mine.weights.h5"


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("efficientnet-lite0", "imagenet", "'imagenet' are not offered.*choose offline, none"),
        ("EfficientNetB5", "offline", "'offline' are not offered.*choose imagenet, none"),
        ("tiny", "imagenet", "choose none or the path"),
        ("a.keras", "imagenet", "brings its own"),
        ("vgg16", "weights.pkl", "not offered for VGG16"),
    ],
)
def test_weights_that_are_not_offered(name: str, weights: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_weights(name, weights)


def test_size_too_small() -> None:
    check_size("InceptionV3", 75)
    with pytest.raises(SpecError, match="74 px is too small for InceptionV3; at least 75 px"):
        check_size("inceptionv3", 74)


def test_efficientnetb5_has_the_papers_parameters() -> None:
    network = build_network(build_backbone("EfficientNetB5", "none", 150), 0.2)

    def count(weights: list[keras.Variable]) -> int:
        return sum(int(np.prod(weight.shape)) for weight in weights)

    assert count(network.non_trainable_weights) == 28_513_527
    assert count(network.trainable_weights) == 1_084_033
    assert network.count_params() == 29_597_560
    # Table III, from the pooling on.
    tail = [(layer.name, layer.output.shape[1:], layer.count_params()) for layer in network.layers]
    assert tail[-9:] == [
        ("features", (2048,), 0),
        ("dropout_512", (2048,), 0),
        ("head_512", (512,), 1_049_088),
        ("dropout_64", (512,), 0),
        ("head_64", (64,), 32_832),
        ("dropout_32", (64,), 0),
        ("head_32", (32,), 2_080),
        ("logit", (1,), 33),
        ("probability", (1,), 0),
    ]
    assert not any(isinstance(layer, keras.Model) for layer in network.layers)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("VGG16", keras.applications.vgg16),
        ("DenseNet121", keras.applications.densenet),
        ("InceptionV3", keras.applications.inception_v3),
    ],
)
def test_preprocessing_is_that_of_keras(name: str, module: object) -> None:
    backbone = build_backbone(name, "none", 75)
    scaled = keras.Model(backbone.input, backbone.get_layer("preprocess").output)
    grey = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 1)).astype("float32")

    expected = module.preprocess_input(np.repeat(grey, 3, axis=-1))  # type: ignore[attr-defined]

    np.testing.assert_allclose(scaled.predict(grey, verbose=0), expected, rtol=1e-5, atol=1e-4)


def test_lite_scaling() -> None:
    backbone = build_backbone("efficientnet-lite0", "none", 32)
    scaled = keras.Model(backbone.input, backbone.get_layer("preprocess").output)
    grey = np.array([0, 127, 255], np.float32).reshape(3, 1, 1, 1) * np.ones((1, 32, 32, 1), "f4")

    out = scaled.predict(grey, verbose=0)[:, 0, 0]

    np.testing.assert_allclose(out, np.repeat([[-127 / 128], [0], [1]], 3, axis=1), atol=1e-6)


# Of torchvision's tables, without the classifier; ResNet18 has 2 x 4,800 statistics besides.
@pytest.mark.parametrize(
    ("name", "num_trained", "num_statistics", "maps"),
    [
        ("ResNet18", 11_176_512, 9_600, (7, 7, 512)),
        ("SqueezeNet", 722_496, 0, (13, 13, 512)),
        ("AlexNet", 2_469_696, 0, (6, 6, 256)),
        ("cnn", 388_416, 0, (14, 14, 256)),
    ],
)
def test_small_networks_are_the_published_ones(
    name: str, num_trained: int, num_statistics: int, maps: tuple[int, int, int]
) -> None:
    image = keras.Input((224, 224, 3))
    network = keras.Model(image, small_networks.TRUNKS[name](image))

    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)

    assert trained == num_trained
    assert network.count_params() == trained + num_statistics == REGISTRY[name].num_params
    assert network.output_shape == (None, *maps)


def test_a_pool_of_squeezenet_sees_the_last_row() -> None:
    # torchvision rounds the number of windows up (`ceil_mode`): of 6 rows 3, of 7 rows 3.
    for size in (6, 7):
        image = keras.Input((size, size, 1))
        pool = keras.Model(image, small_networks._pool(image, ((0, 1), (0, 1)), "pool"))
        rows = np.broadcast_to(np.arange(size, dtype="f4")[:, None, None], (1, size, size, 1))
        assert np.asarray(pool(rows))[0, :, 0, 0].tolist() == [2, 4, size - 1]


def test_random_weights_neither_fade_nor_blow_up_through_the_layers() -> None:
    # He's initialisation keeps the scale through a ReLU; Keras's own halves it at every layer.
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1)).astype("f4")
    for name in ("SqueezeNet", "AlexNet", "cnn"):
        features = np.asarray(build_backbone(name, "none", 64)(images))
        assert 0.3 < features.mean() < 10, name


def test_a_weights_file_of_a_small_network_is_taken(tmp_path) -> None:
    path = tmp_path / "squeezenet.weights.h5"
    source = build_backbone("SqueezeNet", "none", 64, seed=1)
    source.save_weights(path)

    loaded = build_backbone("squeezenet", str(path), 64, seed=2)

    np.testing.assert_array_equal(loaded.get_weights()[-2], source.get_weights()[-2])


def test_all_stands_for_the_whole_registry() -> None:
    assert canonical_names(["all"]) == list(REGISTRY)
    assert canonical_names(("vgg19", "Tiny")) == ["VGG19", "tiny"]
    with pytest.raises(SpecError, match="unknown backbone 'all'"):
        canonical_names(["all", "tiny"])


@pytest.mark.parametrize("name", [*(f"EfficientNetB{i}" for i in (0, 7)), "ResNet50", "tiny"])
def test_registered_backbones_build(name: str) -> None:
    backbone = build_backbone(name, "none", 64)

    assert backbone.input_shape == (None, 64, 64, 1)
    assert len(backbone.output_shape) == 2
    assert backbone.layers[-1].name == "features"
    assert backbone.trainable_weights == []


def test_seed_alone_decides_the_weights() -> None:
    random.seed(5)
    state = random.getstate()
    first, again, other = (build_backbone("tiny", "none", 32, seed=seed) for seed in (1, 1, 2))

    for left, right in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])
    assert random.getstate() == state


def test_uint8_images_are_accepted() -> None:
    backbone = build_backbone("tiny", "none", 32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)

    np.testing.assert_array_equal(
        backbone.predict(images, verbose=0), backbone.predict(images.astype("f4"), verbose=0)
    )


def test_failed_download_names_the_other_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure on https://example: None -- no route\nmore")

    monkeypatch.setattr("keras.src.applications.vgg16.file_utils.get_file", refuse)

    with pytest.raises(ClusterError) as raised:
        build_backbone("VGG16", "imagenet", 32)

    message = str(raised.value)
    assert "\n" not in message
    assert "URL fetch failure" in message
    assert "choose none or the path" in message
    assert "efficientnet-lite0 --weights offline" in message


def test_weights_file_equals_keras_own_imagenet_graph(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras's ImageNet graph of an EfficientNet scales its input by a factor that the plain graph
    # lacks. A weights file must give the features of the former.
    plain = keras.applications.EfficientNetB0(include_top=False, weights=None)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    variance = np.array([0.229, 0.224, 0.225], np.float32)
    normalization = next(x for x in plain.layers if isinstance(x, keras.layers.Normalization))
    normalization.set_weights([mean, variance, np.array(0)])
    path = tmp_path / "b0.weights.h5"
    plain.save_weights(path)
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: path
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)

    from_file = build_backbone("EfficientNetB0", str(path), 32).predict(images, verbose=0)
    downloaded = build_backbone("EfficientNetB0", "imagenet", 32).predict(images, verbose=0)
    unweighted = build_backbone("EfficientNetB0", "none", 32).predict(images, verbose=0)

    np.testing.assert_allclose(from_file, downloaded, rtol=1e-3, atol=1e-4 * abs(downloaded).max())
    assert abs(from_file - unweighted).max() > 0.1 * abs(from_file).max()


def test_weights_file_that_is_missing_or_does_not_fit(tmp_path) -> None:
    path = tmp_path / "tiny.weights.h5"
    with pytest.raises(SpecError, match="does not exist; choose none"):
        build_backbone("tiny", str(path), 32)
    build_backbone("efficientnet-lite0", "none", 32).save_weights(path)
    with pytest.raises(SpecError, match=r"tiny\.weights\.h5 does not fit tiny"):
        build_backbone("tiny", str(path), 32)


def test_weights_file_round_trip(tmp_path) -> None:
    path = tmp_path / "tiny.weights.h5"
    source = build_backbone("tiny", "none", 32, seed=7)
    source.save_weights(path)

    loaded = build_backbone("tiny", str(path), 32, seed=8)

    for left, right in zip(source.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("channels", [1, 3])
def test_keras_file_as_backbone(tmp_path, channels: int) -> None:
    image = keras.Input((None, None, channels))
    maps = keras.layers.Conv2D(5, 3, name="mine")(keras.layers.Rescaling(1 / 255)(image))
    saved = keras.Model(image, maps)
    path = tmp_path / "mine.keras"
    saved.save(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 1)).astype("f4")

    backbone = build_backbone(str(path), None, 20)

    assert "mine" in [layer.name for layer in backbone.layers]  # flat
    assert backbone.trainable_weights == []
    expected = saved.predict(np.repeat(images, channels, axis=-1), verbose=0).mean((1, 2))
    np.testing.assert_allclose(backbone.predict(images, verbose=0), expected, atol=1e-5)


def test_own_backbone_file_as_backbone(tmp_path) -> None:
    source = build_backbone("tiny", "none", 32, seed=3)
    path = tmp_path / "own.keras"
    source.save(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)

    loaded = build_backbone(str(path), "file", 32)

    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), source.predict(images, verbose=0)
    )
    with pytest.raises(SpecError, match=r"takes \(None, 32, 32, 1\); expected .* 48 px"):
        build_backbone(str(path), "file", 48)


def test_keras_file_with_a_lambda_is_refused(tmp_path) -> None:
    image = keras.Input((8, 8, 1))
    path = tmp_path / "unsafe.keras"
    keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image)).save(path)

    with pytest.raises(SpecError, match=r"backbone: .*unsafe\.keras holds a Lambda layer"):
        build_backbone(str(path), None, 8)


def test_registry_names_are_keras_names() -> None:
    for name, backbone in REGISTRY.items():
        assert backbone.name == name
        if "imagenet" in backbone.weights:
            assert hasattr(keras.applications, name)
        else:
            assert name in {**small_networks.TRUNKS, **VARIANTS}


def test_weights_file_that_lacks_a_layer(tmp_path) -> None:
    path = tmp_path / "partial.weights.h5"
    build_backbone("tiny", "none", 32).save_weights(path)
    with h5py.File(path, "a") as file:
        # Keras stores layers by class and count; without this link the layer is not found.
        del file["layers/conv2d_2/vars"]["0"]

    with pytest.raises(SpecError, match=r"partial\.weights\.h5 does not fit tiny \("):
        build_backbone("tiny", str(path), 32)


def test_weights_file_of_the_same_seed_is_accepted(tmp_path) -> None:
    path = tmp_path / "same.weights.h5"
    source = build_backbone("tiny", "none", 32, seed=7)
    source.save_weights(path)

    loaded = build_backbone("tiny", str(path), 32, seed=7)

    np.testing.assert_array_equal(loaded.get_weights()[0], source.get_weights()[0])
