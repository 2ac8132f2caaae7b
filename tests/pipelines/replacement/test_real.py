"""A frozen and a fine-tuned network on real X-rays: the verdict is the one that the figures give.

Slow: two trainings on 600 images each.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.data.manifest import build_manifest
from orchestrator.evaluation.model_pair import ModelPair, measure_endpoints
from orchestrator.evaluation.verdict import Grounds, decide
from orchestrator.pipelines.replacement import compare_models as comparing
from orchestrator.pipelines.train.train import train
from tests.conftest import Recorder, keep_in_process

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.real_data,
    pytest.mark.timeout(1800),  # of its fixture, which trains twice
]
NUM_TRAIN, NUM_JUDGED = 300, 250  # of each class
MARGIN = 0.02


def divide(folder: Path, out: Path) -> None:
    """Copies images of some patients to `train` and of others to `judged`."""
    manifest = build_manifest(folder, 256)
    patients = pc.unique(manifest.table["patient_id"]).to_pylist()
    rng = np.random.default_rng(3)
    part_of = dict(zip(patients, rng.integers(0, 2, len(patients)), strict=True))
    rows = manifest.table.select(["path", "label", "patient_id"]).to_pylist()
    left = {(part, label): n for part, n in enumerate((NUM_TRAIN, NUM_JUDGED)) for label in (0, 1)}
    for place in rng.permutation(len(rows)):
        row = rows[place]
        part, label = part_of[row["patient_id"]], row["label"]
        if left[part, label]:
            left[part, label] -= 1
            copy = out / ("for-training", "judged")[part] / Path(row["path"])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((folder / row["path"]).read_bytes())


@pytest.fixture(scope="module")
def compared(
    ray_cluster: None, public_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A comparison of the frozen network, which is live, with the fine-tuned one."""
    folder = tmp_path_factory.mktemp("replacement")
    divide(public_data / "kermany224" / "train", folder)
    common: dict[str, Any] = {
        "data": str(folder / "for-training"),
        "backbone": "efficientnet-lite0",
        "weights": "offline",
        "image_size": 96,
        "views": 1,
        "augmentation": "none",
        "epochs": 12,
    }
    pairs: list[ModelPair] = []
    measure = comparing.measure_pair

    def keep(pair: ModelPair, **given: Any) -> Any:
        pairs.append(pair)
        return measure(pair, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(comparing, "measure_pair", keep)
        for name, more in (("frozen", {}), ("tuned", {"finetune": "all", "finetune_epochs": 3})):
            spec = TrainSpec(**common | more | {"out": str(folder / name)})
            train(spec, Resources(workers=1), Recorder())
        keep_in_process(patch)
        spec = ModelsCompareSpec(
            live=str(folder / "frozen"),
            candidate=str(folder / "tuned"),
            data=str(folder / "judged"),
            margin=MARGIN,
        )
        result = comparing.compare_models(spec, Resources(workers=1), Recorder())
    return SimpleNamespace(report=result.report, pair=pairs[0], run=result.run)


def draw_patients(pair: ModelPair, rng: np.random.Generator) -> ModelPair:
    """The pair on as many patients, drawn with replacement; each draw is a patient of its own."""
    rows_of = [np.flatnonzero(pair.clusters == n) for n in range(int(pair.clusters.max()) + 1)]
    drawn = [rows_of[n] for n in rng.integers(0, len(rows_of), len(rows_of))]
    rows = np.concatenate(drawn)
    patients = np.repeat(np.arange(len(drawn)), [len(of) for of in drawn]).astype(object)
    return replace(pair.select(rows), patients=patients)


def figures(pair: ModelPair) -> np.ndarray:
    """AUROC, sensitivity, specificity and balanced accuracy, candidate minus live."""
    found = []
    for of, threshold in zip(pair.probabilities, pair.thresholds, strict=True):
        called = of.astype(float) >= threshold
        rates = [np.mean(called[pair.labels == 1]), np.mean(~called[pair.labels == 0])]
        found.append([roc_auc_score(pair.labels, of), *rates, np.mean(rates)])
    return np.array(found[1]) - np.array(found[0])


def test_the_verdict_is_what_the_intervals_say(compared: SimpleNamespace) -> None:
    report, pair = compared.report, compared.pair
    assert report["files"]["compared"] == 2 * NUM_JUDGED
    ends = report["grounds"]["endpoints"]
    # The same intervals by another route: patients drawn one by one
    rng = np.random.default_rng(8)
    drawn = np.array([figures(draw_patients(pair, rng)) for _ in range(400)])
    names = ("auroc", "sensitivity", "specificity", "balanced_accuracy")
    for name, value, of in zip(names, figures(pair), drawn.T, strict=True):
        low, high = np.quantile(of, [0.025, 0.975])
        assert ends[name]["value"] == pytest.approx(value, abs=1e-12)
        width = high - low
        assert ends[name]["low"] == pytest.approx(low, abs=0.15 * width + 0.005)
        assert ends[name]["high"] == pytest.approx(high, abs=0.15 * width + 0.005)
    # The rule in words of its own
    safe = all(ends[name]["low"] > -MARGIN for name in names[:3])
    gained = ends["auroc"]["gain_low"] > 0 or ends["balanced_accuracy"]["gain_low"] > 0
    harmed = any(ends[name]["high"] < 0 for name in names[:3])
    no_gain = ends["auroc"]["high"] < MARGIN and ends["balanced_accuracy"]["high"] < MARGIN
    if safe and gained:
        expected = "undecided" if report["groups"]["worse"] else "promote"
    else:
        expected = "keep" if harmed or no_gain else "undecided"
    assert report["verdict"]["word"] == expected
    # DeLong's test and the bootstrap agree on AUROC
    areas = report["areas"]
    normal = areas["second"] - areas["first"] - 1.96 * areas["error"]
    assert ends["auroc"]["low"] == pytest.approx(normal, abs=0.01)


def word_of(pair: ModelPair, seed: int) -> str:
    grounds = Grounds(
        is_same=False,
        margin=MARGIN,
        superiority=0.0,
        endpoints=measure_endpoints(pair, num_resamples=400, seed=seed),
        unusable=[],
        worse_groups=[],
    )
    return decide(grounds).word


def test_equal_models_are_not_promoted(compared: SimpleNamespace) -> None:
    """The live model against itself, and two that trade places by a coin for each patient."""
    same, traded = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        pair = draw_patients(compared.pair, rng)
        alone = replace(
            pair,
            probabilities=(pair.probabilities[0],) * 2,
            thresholds=(pair.thresholds[0],) * 2,
        )
        same.append(word_of(alone, seed))
        # On one scale, so that a call stays the call of its model
        margins = [p - t for p, t in zip(pair.probabilities, pair.thresholds, strict=True)]
        heads = rng.integers(0, 2, int(pair.clusters.max()) + 1)[pair.clusters] == 1
        mixed = [np.where(heads, a, b) for a, b in (margins, margins[::-1])]
        scaled = [((of + 1) / 2).astype(np.float32) for of in mixed]
        coin = replace(pair, probabilities=(scaled[0], scaled[1]), thresholds=(0.5, 0.5))
        traded.append(word_of(coin, seed))
    assert same.count("promote") == 0
    assert traded.count("promote") <= 5
