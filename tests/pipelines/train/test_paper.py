"""The paper's recipe as it is shipped, on real X-rays; needs no weights and two CPU workers."""

from pathlib import Path

import pytest

from orchestrator.config.load import build_spec, load_job
from orchestrator.config.specs import TrainSpec
from orchestrator.pipelines.train.train import train
from tests.conftest import ROOT, Recorder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = ROOT / "jobs" / "train-paper.yaml"
NUM_IMAGES = 320


@pytest.mark.usefixtures("ray_cluster")
def test_the_recipe_leaves_every_frozen_weight_as_it_was(
    public_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.model.backbones import build_backbone
    from orchestrator.model.bundle import load_network

    for path in sorted((public_data / "kermany224").rglob("*.jpeg"))[:: 5216 // NUM_IMAGES]:
        copy = tmp_path / "in" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    job = load_job(RECIPE)
    change = {"data": str(tmp_path / "in"), "weights": "none", "epochs": 1}
    spec = build_spec(TrainSpec, change | {"out": str(tmp_path / "bundle")}, job)
    assert job.resources.workers == 2

    result = train(spec, job.resources, Recorder())

    untouched = build_backbone("EfficientNetB5", "none", 150, seed=spec.seed)
    # In order, since Keras numbers the layers that it names itself from one network to the next.
    trained = load_network(result.bundle).layers
    num_weights = 0
    for layer, after in zip(untouched.layers, trained, strict=False):
        pairs = zip(layer.get_weights(), after.get_weights(), strict=True)
        for before, ours in pairs:
            assert before.tobytes() == ours.tobytes(), layer.name
            num_weights += before.size
    assert num_weights == 29_597_560 - 1_084_033
    assert len(result.report["history"]) == 1
