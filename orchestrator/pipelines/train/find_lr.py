"""`orchestrator find-lr`: a learning rate for a training, before the training."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.config.load import dump_yaml
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.evaluation.report.rate_report import render_rate_html
from orchestrator.pipelines.prepare.features import Backbone, compute_features
from orchestrator.pipelines.prepare.images import open_images, split_images
from orchestrator.pipelines.train.check import check_spec
from orchestrator.pipelines.train.lr_search import RateTask, search_rate
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, write_json, write_text
from orchestrator.runs.run_dir import RunDir, new_run_id


@dataclass(frozen=True)
class RateResult:
    """What a search found.

    Args:
        run: folder of the run, with `report.html` and `report.json`.
        report: `RateSearch.as_dict()` with the spec and the run.
    """

    run: Path
    report: dict[str, Any]


def find_lr(spec: TrainSpec, resources: Resources, reporter: Reporter) -> RateResult:
    """Finds a learning rate for the head that a training would start with.

    Args:
        spec: the training; its own learning rate is not looked at.
        resources: what to use of the cluster.
        reporter: told of every step.

    Returns:
        Where the run is, and the search.

    Raises:
        SpecError: the spec cannot be met.
        DataError: the images cannot be trained on, or the loss is not finite at any rate.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    spec = check_spec(spec.model_copy(update={"lr": "auto"}))
    run = RunDir(Path(spec.out or Path("runs", new_run_id("find-lr"))).absolute())
    identity = digest(spec.model_dump(exclude={"out", "overwrite"}))
    run.start(identity, overwrite=spec.overwrite)
    write_text(run.spec, dump_yaml("train", run.path.name, spec, resources))
    reads = [Path(spec.data), Path(spec.weights), Path(spec.backbone)]
    with (
        run.recording_failure(),
        open_session(resources, reads=reads, writes=[run.path]) as session,
    ):
        dataset = open_images(spec, session, run, reporter)
        rows = dataset.load_rows()
        names, _, _ = split_images(spec, rows, run, reporter)
        backbone = Backbone(spec.backbone, spec.weights, spec.image_size, spec.seed)
        compute_features(
            dataset,
            names.to_pylist(),
            backbone,
            spec.views,
            run.features,
            session,
            reporter,
            spec.augmentation,
        )
        found = search_rate(RateTask(spec, run.path, dataset.num_shards), session, reporter)
    report = {
        "kind": "find-lr",
        **found,
        "recipe": spec.model_dump(mode="json", exclude={"out", "overwrite", "mlflow", "lr"}),
        "run": {"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
    }
    write_json(run.report_json, report)
    write_text(run.report_html, render_rate_html(report))
    for folder in (run.ingested, run.features):
        shutil.rmtree(folder, ignore_errors=True)
    run.finish()
    return RateResult(run.path, report)
