import numpy as np
import pytest

from orchestrator.model.fit import ArrayBatches, Fit, FitConfig, compile_model
from orchestrator.model.network import build_head
from orchestrator.model.reusable_head import ReusableHead
from orchestrator.model.steps import KerasStep

NUM_FEATURES, NUM_EXAMPLES, EPOCHS = 12, 70, 3
CONFIGS = [
    {"lr": 0.003, "alpha": 0.3, "gamma": 2.0, "dropout": 0.2},
    {"lr": 0.001, "alpha": 0.7, "gamma": 0.0, "dropout": 0.5},
]


def trained(model: object, views: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    fit = Fit(model, KerasStep(model, 32), FitConfig(EPOCHS, EPOCHS))
    fit.run(ArrayBatches(views, labels, 32, 0), views[0], labels, lambda row: None)
    return [layer.get_weights() for layer in model.layers if layer.name.startswith("head")]  # type: ignore[attr-defined]


def test_a_head_used_again_trains_as_a_new_one_does() -> None:
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, NUM_EXAMPLES, NUM_FEATURES)).astype(np.float32)
    labels = (rng.random(NUM_EXAMPLES) < 0.7).astype(np.int8)
    head = ReusableHead(NUM_FEATURES, seed=4)
    for config in [*CONFIGS, CONFIGS[0]]:
        again = trained(head.begin(**config), views, labels)
        fresh = build_head(NUM_FEATURES, config["dropout"], seed=4)
        settings = {name: value for name, value in config.items() if name != "dropout"}
        fresh = compile_model(fresh, seed=4, **settings)
        for ours, theirs in zip(again, trained(fresh, views, labels), strict=True):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_an_epoch_has_as_many_steps_as_batches_and_gives_the_mean_over_the_examples() -> None:
    rng = np.random.default_rng(0)
    views = rng.normal(size=(1, NUM_EXAMPLES, NUM_FEATURES)).astype(np.float32)
    labels = (rng.random(NUM_EXAMPLES) < 0.7).astype(np.int8)
    model = ReusableHead(NUM_FEATURES, seed=0).begin(lr=1e-9, alpha=0.3, gamma=2.0, dropout=0.0)
    logs = KerasStep(model, 32).train_epoch(ArrayBatches(views, labels, 32, 0).epoch(0))
    assert int(model.optimizer.iterations) == 3
    targets, found = labels[:, None].astype(np.float32), model.predict_on_batch(views[0])
    assert logs["loss"] == pytest.approx(float(model.loss(targets, found)), rel=1e-4)
    assert logs["accuracy"] == pytest.approx(float(np.mean((found > 0.0) == targets)), abs=1e-6)
