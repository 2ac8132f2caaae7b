from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.model.augment import augment
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine.export import export_backbone
from orchestrator.model.engine.load import load_engine
from orchestrator.model.fit import Fit, FitConfig, compile_model
from orchestrator.model.keras_file import load_keras_file
from orchestrator.model.live import ImageBatches
from orchestrator.model.multiworker import DistributedStep, Group
from orchestrator.model.network import HEAD_LAYERS, build_head, build_network
from orchestrator.model.steps import KerasStep

SIZE, NUM_TRAIN, NUM_VAL, EPOCHS, BATCH, SEED = 64, 44, 20, 4, 16, 5
SETTINGS = {"lr": 0.01, "alpha": 0.3, "gamma": 2.0, "seed": SEED}


class Images:
    """Images in memory behind the interface of `ImageStore`."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = (np.arange(NUM_TRAIN + NUM_VAL) % 3 > 0).astype(np.int8)
        noise = rng.integers(0, 120, (len(self.labels), SIZE, SIZE))
        self.pixels = (noise + 60 * self.labels[:, None, None]).astype(np.uint8)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


class EpochViews:
    """Features of the view that live training draws in each epoch, in its order."""

    def __init__(self, views: np.ndarray, labels: np.ndarray) -> None:
        self.views, self.labels = views, labels

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([SEED, epoch]).permutation(len(self.labels))
        for start in range(first * BATCH, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield self.views[epoch, chosen], self.labels[chosen, None].astype(np.float32)


# EfficientNets have stochastic depth, which a frozen network must not run.
@pytest.mark.parametrize(
    ("backbone_name", "dropout"),
    [("tiny", 0.3), pytest.param("EfficientNetB0", 0.3, marks=pytest.mark.slow)],
)
def test_cached_and_live_training_of_a_frozen_network_give_the_same_head(
    backbone_name: str, dropout: float, tmp_path: Path
) -> None:
    images = Images()
    train, val = np.arange(NUM_TRAIN), np.arange(NUM_TRAIN, NUM_TRAIN + NUM_VAL)
    export_backbone(build_backbone(backbone_name, "none", SIZE, seed=1), tmp_path)
    engine = load_engine(tmp_path, "openvino", 1)
    views = np.stack(
        [engine.predict(augment(images.take(train), train, e, SEED)) for e in range(EPOCHS)]
    )
    head = build_head(views.shape[-1], dropout, seed=SEED)
    model = compile_model(head, **SETTINGS)
    cached = Fit(model, KerasStep(model, BATCH, SEED), FitConfig(EPOCHS, EPOCHS))
    cached.run(
        EpochViews(views, images.labels[train]),
        engine.predict(images.take(val)),
        images.labels[val],
        lambda row: None,
    )

    backbone = load_keras_file(tmp_path / "backbone.keras")
    backbone.trainable = False
    network = build_network(backbone, dropout, seed=SEED)
    before = [network.get_layer(name).get_weights()[0] for name in HEAD_LAYERS]
    model = compile_model(network, **SETTINGS)
    step = DistributedStep(Group(), model, BATCH, NUM_TRAIN, SEED)
    live = Fit(model, step, FitConfig(EPOCHS, EPOCHS))
    batches = ImageBatches(images, train, images.labels[train], BATCH, SEED, "paper")  # type: ignore[arg-type]
    live.run(batches, images.take(val)[..., None], images.labels[val], lambda row: None)

    for name, first in zip(HEAD_LAYERS, before, strict=True):
        ours, theirs = head.get_layer(name).get_weights(), network.get_layer(name).get_weights()
        assert np.abs(theirs[0] - first).max() > 1e-3, "nothing was trained"
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
