"""Networks that learn within minutes, from random weights or from ImageNet's."""

from pathlib import Path

import keras
import numpy as np

from orchestrator.data.decode.images import Limits, decode


def load(folder: Path, size_px: int) -> tuple[np.ndarray, np.ndarray, list[Path]]:
    """Returns the images of two class folders, uint8 [N, size_px, size_px], labels, and files."""
    files = sorted(folder.rglob("*.jpeg"))
    images = [decode(path.read_bytes(), size_px, Limits()).pixels for path in files]
    labels = [path.parent.name == "PNEUMONIA" for path in files]
    return np.stack(images), np.array(labels, np.float32), files


def learn_xrays(backbone: keras.Model, folder: Path, steps: int, lr: float) -> None:
    """Trains a backbone from random weights, by steps of 16 X-rays, half of them of each class."""
    images, labels, _ = load(folder, backbone.input_shape[1])
    logit = keras.layers.Dense(1)(keras.layers.Dropout(0.2)(backbone.output))
    rng = np.random.default_rng(0)
    halves = [rng.choice(np.flatnonzero(labels == value), (steps, 8)) for value in (0, 1)]
    rows = np.concatenate(halves, axis=1).ravel()
    learn(keras.Model(backbone.input, logit), images, labels, rows, batch_size=16, lr=lr)


def learn(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    lr: float,
) -> None:
    """Trains all layers of a model that gives logits.

    Args:
        model: of images float32 [None, S, S, 1].
        images: uint8 [N, S, S].
        labels: float32 [N].
        rows: of both, in the order in which they are shown, each time in another variant.
        batch_size: rows a step.
        lr: learning rate after a warm-up, from which it falls to 0 along a cosine.
    """
    for layer in model.layers:
        layer.trainable = True
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # its statistics are to settle within a few hundred steps
    steps = -(-len(rows) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        lr / 20, steps - 40, warmup_target=lr, warmup_steps=40
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.02),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(0)
    x = np.stack([vary(images[row], rng) for row in rows])[..., np.newaxis]
    model.fit(x, labels[rows], batch_size=batch_size, shuffle=False, verbose=0)


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Gives batch normalisation the mean of its statistics over 40 batches of 48 images.

    Those that training leaves are mostly of its last ten batches.
    Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576: PreciseBN.
    """
    layers = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.trainable = True  # else it takes the statistics that it has
    for place in range(40):
        for layer in layers:
            layer.momentum = place / (place + 1)
        rows = rng.choice(len(images), 48, replace=False)
        batch = np.stack([vary(images[row], rng) for row in rows])[..., np.newaxis]
        model(batch.astype(np.float32), training=True)


def vary(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors an image or not, shifts it by up to 4 pixels, changes its contrast and brightness."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
    image = np.roll(image, rng.integers(-4, 5, 2), axis=(0, 1))
    grey = (image - 128.0) * rng.uniform(0.85, 1.15) + 128.0 + rng.uniform(-20.0, 20.0)
    return grey.clip(0, 255).astype(np.uint8)
