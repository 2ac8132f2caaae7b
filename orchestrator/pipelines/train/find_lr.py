"""`orchestrator find-lr`: a learning rate for a training, before the training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.evaluation.report.rate_report import render_rate_html
from orchestrator.pipelines.prepare.features import compute_features
from orchestrator.pipelines.prepare.images import prepare_images
from orchestrator.pipelines.train.check import check_spec
from orchestrator.pipelines.train.lr_search import search_rate
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.run_dir import RunDir


@dataclass(frozen=True)
class RateResult:
    """What a search found.

    Args:
        run: folder of the run, with `report.html` and `report.json`.
        report: `RateSearch.as_dict()` with the spec and the run.
    """

    run: Path
    report: dict[str, Any]


def find_lr(
    spec: TrainSpec, resources: Resources, reporter: Reporter, *, run_folder: Path | None = None
) -> RateResult:
    """Finds a learning rate for the head that a training would start with.

    Args:
        spec: the training; its own learning rate is not looked at.
        resources: what to use of the cluster.
        reporter: receives every step.
        run_folder: folder of the run; `out` of the spec, or a new one under `runs/` otherwise.

    Returns:
        Where the run is, and the search.

    Raises:
        SpecError: the spec cannot be met.
        DataError: the images cannot be trained on, or the loss is not finite at any rate.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    spec = check_spec(spec.model_copy(update={"lr": "auto"}))
    check_inputs([spec.data])
    folder = run_folder or (Path(spec.out) if spec.out else None)
    with open_run("find-lr", folder, spec, resources, reporter=reporter) as opened:
        if not opened.completed:
            _find(spec, resources, opened.run, reporter)
    return RateResult(opened.run.path, opened.load_report())


def _find(spec: TrainSpec, resources: Resources, run: RunDir, reporter: Reporter) -> None:
    """Searches in a claimed run and leaves the report there."""
    reads = [Path(spec.data), Path(spec.weights), Path(spec.backbone)]
    with open_session(resources, reads=reads, writes=[run.path]) as session:
        prepared = prepare_images(spec, session, run, reporter)
        splits = prepared.split.to_pylist()
        compute_features(
            spec, prepared.dataset, splits, run.features, run.load_uuid(), session, reporter
        )
        found = search_rate(spec, run, session, reporter)
    report = {
        "kind": "find-lr",
        **found,
        "recipe": spec.model_dump(mode="json", exclude={"out", "overwrite", "mlflow", "lr"}),
        "run": {"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
    }
    write_json(run.report_json, report)
    write_text(run.report_html, render_rate_html(report))
