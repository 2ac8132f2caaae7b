from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.jobs.estimate import BACKBONES
from orchestrator.jobs.plan import Nodes, plan_job
from orchestrator.model.backbones import REGISTRY

ONE_CPU = Nodes("one", [{"CPU": 1.0}])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_every_backbone_of_the_registry_has_its_sizes() -> None:
    assert BACKBONES.keys() == REGISTRY.keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_sizes_of_a_backbone_are_those_of_its_network(name: str) -> None:
    from orchestrator.model.backbones import build_backbone

    model = build_backbone(name, "none", max(96, REGISTRY[name].min_px))
    assert (model.count_params(), model.output_shape[-1]) == BACKBONES[name]


@pytest.mark.ray
def test_predicted_disk_of_scoring_holds_for_a_run(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    from orchestrator.config.specs import Resources, ScoreSpec
    from orchestrator.pipelines.score.score import score
    from tests.conftest import Recorder

    spec = ScoreSpec(input=str(phantoms), model=str(trained.bundle), out=str(tmp_path / "run"))
    job = tmp_path / "job.yaml"
    job.write_text(f"name: a\nkind: score\nargs: {{input: {phantoms}, model: {trained.bundle}}}\n")
    plan = plan_job(job, ONE_CPU, look=True)
    assert plan.problems == plan.notes == []
    kept, working, memory = plan.predicted
    run = score(spec, Resources(workers=1), Recorder()).run
    tables = size_of(run / "predictions") + (run / "manifest.parquet").stat().st_size
    assert 0.5 * tables < kept.num_bytes < 2.5 * tables
    assert working.num_bytes > 160 * 200
    assert memory.num_bytes > 300 * 2**20
