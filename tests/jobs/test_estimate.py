import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.jobs.plan import Nodes, plan_job
from orchestrator.model import backbones
from orchestrator.model.backbones import Backbone
from tests.conftest import ROOT

ONE_CPU = Nodes("one", [{"CPU": 1.0}])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_line_in_the_registry_is_all_that_a_backbone_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Backbone("MobileNet", "inception", 3_228_864, 1024, training_bytes=1)
    monkeypatch.setitem(backbones.REGISTRY, "MobileNet", entry)
    model = backbones.build_backbone("mobilenet", "none", 64)
    assert (model.count_params(), model.output_shape[-1]) == (entry.num_params, entry.num_features)
    job = tmp_path / "job.yaml"
    (tmp_path / "x.csv").write_text("path,label\na.png,0\n")
    (tmp_path / "a.png").write_bytes(b"only its name and size are looked at")
    args = "{data: x.csv, backbone: mobilenet, weights: none, finetune: all}"
    job.write_text(f"name: a\nkind: train\nargs: {args}\n")
    shown = {size.what: size.basis for size in plan_job(job, ONE_CPU, look=True).predicted}
    assert shown["disk of the bundle, kept"].startswith("3,228,864 parameters")
    assert "4 views x 1,024 features" in shown["disk of features, while it runs"]
    assert shown["memory of a training process"].endswith("150 x 150 x 1 B")
    args = "{data: x.csv, backbones: [mobilenet], weights: none, seeds: 3}"
    job.write_text(f"name: a\nkind: compare\nargs: {args}\n")
    shown = {size.what: size.basis for size in plan_job(job, ONE_CPU, look=True).predicted}
    assert shown["disk of the bundle, kept"].startswith("9,686,592 parameters")


def test_a_backbone_of_ones_own_is_planned_as_the_largest() -> None:
    assert backbones.sizes_of("/models/own.keras").name == "EfficientNetB7"


def test_planning_imports_neither_keras_nor_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("path,label\na.png,0\n")
    (tmp_path / "a.png").write_bytes(b"only its name and size are looked at")
    (tmp_path / "job.yaml").write_text("name: a\nkind: train\nargs: {data: x.csv, weights: none}\n")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from orchestrator.jobs.plan import Nodes, plan_job\n"
        "plan = plan_job(Path('job.yaml'), Nodes('one', [{'CPU': 1.0}]), look=True)\n"
        "assert len(plan.predicted) == 5, plan\n"
        "heavy = {'keras', 'tensorflow', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(backbones.REGISTRY))
def test_sizes_of_a_backbone_are_those_of_its_network(name: str) -> None:
    entry = backbones.REGISTRY[name]
    model = backbones.build_backbone(name, "none", max(96, entry.min_px))
    assert (model.count_params(), model.output_shape[-1]) == (entry.num_params, entry.num_features)


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
