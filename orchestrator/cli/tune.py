"""`orchestrator tune`: search the settings of a training.

A part of the command line, mounted by `cli.py`; its rules are the same.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import DataError, SpecError

if TYPE_CHECKING:
    from orchestrator.config.specs import Resources, TuneSpec

_RANGES = "What is searched: LOW:HIGH, values A,B,C, or one value to keep"
_SEARCH = "Search"
_CLUSTER = "Cluster"
_JOB = Path("jobs", "tune.yaml")
_RESOURCES = ("workers", "cpus_per_worker", "gpus_per_worker")


def _range(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=_RANGES)


def tune(
    data: Annotated[str | None, typer.Argument(help="Folder, CSV, Parquet or data set.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Job file; jobs/tune.yaml where DATA is not given."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an unfinished run's folder.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder of the result.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Feature extractor.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, imagenet, offline, none or a .h5 file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width, px.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="cached: the frozen backbone runs once; live: in every trial."),
    ] = None,
    feature_dtype: Annotated[
        str | None, typer.Option(help="float32, or float16 at half the space.")
    ] = None,
    augmentation: Annotated[
        str | None, typer.Option(help="none, paper (its Table II) or light.")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Views of a training image, the plain one included.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of a trial.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better objective before stopping.")
    ] = None,
    finetune: Annotated[
        str | None, typer.Option(help="none, top:N layers or all; needs --features live.")
    ] = None,
    finetune_epochs: Annotated[int | None, typer.Option(help="Epochs after the head's.")] = None,
    lr: Annotated[str | None, _range("Learning rate; of fine-tuning where on.")] = None,
    alpha: Annotated[str | None, _range("Focal weight of PNEUMONIA.")] = None,
    gamma: Annotated[str | None, _range("Focal exponent.")] = None,
    dropout: Annotated[str | None, _range("Of the head.")] = None,
    trials: Annotated[int | None, typer.Option(help="Most.", rich_help_panel=_SEARCH)] = None,
    search: Annotated[
        str | None, typer.Option(help="tpe, random or grid.", rich_help_panel=_SEARCH)
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="asha: stop the worse trials early; none.", rich_help_panel=_SEARCH),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="auroc, auprc or log_loss, on validation.", rich_help_panel=_SEARCH),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Patient-grouped folds of each trial.", rich_help_panel=_SEARCH),
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(help="Trials at a time; what fits otherwise.", rich_help_panel=_SEARCH),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Of the search, such as 30m.", rich_help_panel=_SEARCH)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of split, views, configurations, weights.")
    ] = None,
    merge_val: Annotated[
        bool | None, typer.Option("--merge-val", help="Use a given val folder for training.")
    ] = None,
    allow_leakage: Annotated[
        bool | None, typer.Option("--allow-leakage", help="Search though patients leak.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Workers of features, or of a live trial.", rich_help_panel=_CLUSTER),
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(help="CPUs of each worker.", rich_help_panel=_CLUSTER)
    ] = None,
    gpus_per_worker: Annotated[
        str | None, typer.Option(help="GPUs of each worker, or auto.", rich_help_panel=_CLUSTER)
    ] = None,
    patient_key_file: Annotated[
        str | None,
        typer.Option(help="Lasting key of the hash of DICOM patient ids, to link runs."),
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace an earlier result in --out.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Search learning rate, alpha, gamma and dropout; release the best as a bundle."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "resume", "as_json")}
    if resume is not None and (config is not None or data is not None):
        raise SpecError("--resume takes its spec from the run; leave out -c and the data")
    spec, resources = _resolve(config, resume, flags)
    from orchestrator.cli.output import tune_summary
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.tune.tune import tune as run

    with open_reporter() as reporter:
        result = run(spec, resources, reporter, run_folder=resume and resume.absolute())
    if as_json:
        found = result.report | {"bundle": str(result.bundle), "run": str(result.run)}
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write(tune_summary(result) + "\n")


def _resolve(
    config: Path | None, resume: Path | None, flags: dict[str, Any]
) -> "tuple[TuneSpec, Resources]":
    """The spec and the resources, from an unfinished run, a job file or the flags alone."""
    from orchestrator.config.load import build_resources, build_spec, load_job
    from orchestrator.config.specs import TuneSpec
    from orchestrator.runs.run_dir import RunDir

    if resume is not None:
        config = RunDir(resume.absolute()).unfinished_spec()
    elif config is None and flags["data"] is None:
        config = _JOB
        if not config.is_file():
            raise SpecError(
                "no data: expected `orchestrator tune FOLDER`, or a file jobs/tune.yaml here that "
                "names one"
            )
    job = load_job(config) if config else None
    if job is not None and job.kind != "tune":
        raise SpecError(f"{config} is a {job.kind} job; run it with `orchestrator {job.kind}`")
    cluster = {name: flags.pop(name) for name in _RESOURCES}
    spec = build_spec(TuneSpec, flags, job)
    if not Path(spec.data).exists():
        where = f"edit `data` in {config}" if config else "check the path"
        raise DataError(
            f"{spec.data} does not exist; name your folder of X-rays with `orchestrator tune "
            f"FOLDER`, or {where}"
        )
    return spec, build_resources(cluster, job)
