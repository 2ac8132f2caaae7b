from pathlib import Path

import keras
import numpy as np
import pytest

from orchestrator.model.backbones import build_backbone
from orchestrator.model.finetune import compile_finetuning, unfreeze
from orchestrator.model.fit import ArrayBatches, Fit, FitConfig, compile_model
from orchestrator.model.keras_file import load_keras_file
from orchestrator.model.network import build_network
from orchestrator.model.steps import KerasStep

SIZE_PX, NUM_IMAGES, BATCH = 16, 24, 8
NAMES = ["small", pytest.param("EfficientNetB0", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extractor")


@pytest.fixture(params=NAMES)
def any_extractor(request: pytest.FixtureRequest, folder: Path, extractor: Path) -> Path:
    """The small one, or an EfficientNet."""
    if request.param == "small":
        return extractor
    path = folder / f"{request.param}.keras"
    if not path.exists():
        build_backbone(request.param, "none", 64, seed=1).save(path)
    return path


@pytest.fixture(scope="module")
def extractor(folder: Path) -> Path:
    """A feature extractor with dropout between its layers, as EfficientNets have."""
    image = keras.Input((SIZE_PX, SIZE_PX, 1))
    x = keras.layers.Conv2D(4, 3, strides=2, name="first")(image)
    x = keras.layers.Dropout(0.4, noise_shape=(None, 1, 1, 1), name="early")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, name="second")(x)
    x = keras.layers.GaussianNoise(0.3, name="late")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = folder / "backbone.keras"
    keras.Model(image, x).save(path)
    return path


def load(extractor: Path) -> keras.Model:
    """A network as another process would load it."""
    backbone = load_keras_file(extractor)
    backbone.trainable = False
    return build_network(backbone, 0.3, seed=1)


def data(size_px: int = SIZE_PX) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.random((1, NUM_IMAGES, size_px, size_px, 1)).astype(np.float32)
    return images, (np.arange(NUM_IMAGES) % 3 > 0).astype(np.int8)


def begin(network: keras.Model, seed: int = 5) -> Fit:
    unfreeze(network, "all")
    model = compile_finetuning(
        network,
        lr=0.003,
        head_lr=0.003,
        steps=9,
        warmup=0.1,
        weight_decay=0.01,
        ema=0.9,
        alpha=0.4,
        gamma=2.0,
        seed=seed,
    )
    config = FitConfig(3, patience=3, plateau=False)
    return Fit(model, KerasStep(model, BATCH, seed), config)


def trained(fit: Fit, keep: Path | None = None) -> list[np.ndarray]:
    images, labels = data(fit.model.input_shape[1])
    folder = keep if keep is None else keep / "checkpoint"

    def on_epoch(row: dict[str, float]) -> None:
        if folder is not None and row["epoch"] == 1:
            folder.mkdir()
            fit.save(folder)

    fit.run(ArrayBatches(images, labels, BATCH, 5), images[0], labels, on_epoch)
    return fit.model.get_weights()


def test_a_frozen_backbone_runs_in_training_as_in_scoring(extractor: Path) -> None:
    network = load(extractor)
    images = data()[0][0]
    compile_model(network, lr=0.001, alpha=0.4, gamma=2.0, seed=0)
    features = keras.Model(network.input, network.get_layer("dropout_512").input)
    inference = keras.ops.convert_to_numpy(features(images, training=False))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(features(images, training=True)), inference
    )

    unfreeze(network, "all")
    compile_finetuning(
        network, lr=0.001, head_lr=0.001, steps=9, warmup=0, weight_decay=0, ema=0,
        alpha=0.4, gamma=2.0, seed=0,
    )  # fmt: skip
    assert (
        np.abs(keras.ops.convert_to_numpy(features(images, training=True)) - inference).max() > 0.01
    )
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(features(images, training=False)), inference
    )

    unfreeze(network, "top:1")  # `second` learns, and only what comes after it is dropped
    compile_model(network, lr=0.001, alpha=0.4, gamma=2.0, seed=0)
    assert [network.get_layer("early").rate, network.get_layer("late").stddev] == [0.0, 0.3]


def test_the_same_seed_gives_the_same_weights(any_extractor: Path) -> None:
    first, second = trained(begin(load(any_extractor))), trained(begin(load(any_extractor)))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    other = trained(begin(load(any_extractor), seed=6))
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(first, other, strict=True))


def test_a_resumed_fine_tuning_ends_as_an_undisturbed_one(
    any_extractor: Path, tmp_path: Path
) -> None:
    network = load(any_extractor)
    images, labels = data(network.input_shape[1])
    model = compile_model(network, lr=0.001, alpha=0.4, gamma=2.0, seed=5)
    # A stage before this one, whose masks are no business of the next stage's.
    head = Fit(model, KerasStep(model, BATCH, 5), FitConfig(1, 1))
    head.run(ArrayBatches(images, labels, BATCH, 5), images[0], labels, lambda row: None)
    undisturbed = trained(begin(network), tmp_path)

    resumed = begin(load(any_extractor))
    resumed.load(tmp_path / "checkpoint")
    for one, other in zip(trained(resumed), undisturbed, strict=True):
        np.testing.assert_array_equal(one, other)
