"""The command line: parse, call one function, print, exit code.

Nothing heavy is imported before a command runs. Errors are caught here and nowhere else; what is
not an `OrchestratorError` is a fault of the program and keeps its traceback.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import __version__
from orchestrator.cli.cluster import app as cluster_app
from orchestrator.cli.jobs import app as jobs_app
from orchestrator.cli.jobs import submit
from orchestrator.cli.plan import plan, validate
from orchestrator.cli.schedule import app as schedule_app
from orchestrator.cli.tune import tune
from orchestrator.errors import OrchestratorError, SpecError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Batch cluster jobs for chest X-ray pneumonia classification. Research use only.",
)
app.add_typer(schedule_app, name="schedule")
jobs_app.command()(validate)
jobs_app.command()(plan)
app.add_typer(jobs_app, name="jobs")
app.add_typer(cluster_app, name="cluster")
app.command()(submit)
app.command()(tune)

_LIMITS = "Limits on one input file"
_CLUSTER = "Cluster"
_FINETUNE = "Fine-tuning"
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Job file; flags win over it.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Resume = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Go on with an unfinished run's folder.")
]
Out = Annotated[str | None, typer.Option("--out", help="Folder of the result.")]
Overwrite = Annotated[
    bool | None, typer.Option("--overwrite", help="Replace an earlier result in --out.")
]
Workers = Annotated[int | None, typer.Option(help="Worker processes.", rich_help_panel=_CLUSTER)]
CpusPerWorker = Annotated[
    float | None, typer.Option(help="CPUs of each worker.", rich_help_panel=_CLUSTER)
]
GpusPerWorker = Annotated[
    str | None,
    typer.Option(help="GPUs of each worker, or auto.", rich_help_panel=_CLUSTER),
]
MaxBytes = Annotated[int | None, typer.Option(help="Size, bytes.", rich_help_panel=_LIMITS)]
MaxPixels = Annotated[int | None, typer.Option(help="Width x height.", rich_help_panel=_LIMITS)]
MaxFrames = Annotated[int | None, typer.Option(help="Frames.", rich_help_panel=_LIMITS)]
MaxSeconds = Annotated[
    float | None, typer.Option(help="Decoding time, s.", rich_help_panel=_LIMITS)
]
PatientKeyFile = Annotated[
    str | None,
    typer.Option(help="Lasting key of the hash of DICOM patient ids, to link runs."),
]
_RESOURCES = ("workers", "cpus_per_worker", "gpus_per_worker")


def main() -> None:
    """Runs the command line; the entry point of `orchestrator`."""
    signals: list[int] = []

    def stop(number: int, _: Any) -> None:
        signals.append(number)
        # Ray passes on no other exception out of its calls, and of this one only the kind.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except OrchestratorError as error:
        sys.stderr.write("\n".join([f"error: {error}", *_notes(error)]) + "\n")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code != 128 + signal.SIGINT:  # what a KeyboardInterrupt becomes
            raise
        said = _notes(end) or ["run the same command again to continue"]
        sys.stderr.write("stopped; " + "\n".join(said) + "\n")
        sys.exit(128 + (signals or [signal.SIGINT])[0])


def _notes(error: BaseException | None) -> list[str]:
    """Returns what was noted on an exception and on those that it was made from."""
    notes: list[str] = []
    while error is not None:
        notes += getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(notes))


def _print(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def _resolve(kind: str, config: Path | None, flags: dict[str, Any]) -> tuple[Any, Any]:
    """Splits flags into the spec's and the cluster's, on top of the job file."""
    from orchestrator.config.load import build_resources, build_spec, load_job
    from orchestrator.config.specs import SPECS

    job = load_job(config) if config else None
    if job is not None and job.kind != kind:
        raise SpecError(f"{config} is a {job.kind} job; run it with `orchestrator {job.kind}`")
    cluster = {name: flags.pop(name) for name in _RESOURCES}
    return build_spec(SPECS[kind], flags, job), build_resources(cluster, job)


def _resumed_spec(resume: Path | None, config: Path | None, data: Any) -> Path | None:
    """Returns the job file to use: with --resume the one that the run stored."""
    if resume is None:
        return config
    from orchestrator.runs.run_dir import RunDir

    if config is not None or data:
        raise SpecError("--resume takes its spec from the run; leave out -c and the data")
    return RunDir(resume.absolute()).unfinished_spec()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _print(__version__)
        raise typer.Exit


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help="Folder, CSV, Parquet or data set.")] = None,
    config: ConfigFile = None,
    resume: Resume = None,
    out: Out = None,
    backbone: Annotated[str | None, typer.Option(help="Feature extractor.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, imagenet, offline, none or a .h5 file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width, px.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="cached: the frozen backbone runs once; live: in every step."),
    ] = None,
    augmentation: Annotated[
        str | None, typer.Option(help="none, paper (its Table II) or light.")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Views of a training image, the plain one included.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[
        str | None, typer.Option(help="Adam's learning rate; auto: searched, as find-lr does.")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option(help="Focal weight of PNEUMONIA; auto: share of NORMAL.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Focal exponent.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the head.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better AUROC before stopping.")
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(help="youden, or youden-shifted: on changed copies of the images too."),
    ] = None,
    test_time_views: Annotated[
        int | None, typer.Option(help="1, or 3: mean logit of plain, closer and farther view.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="f32, or mixed_bfloat16 for GPUs; of live training.")
    ] = None,
    finetune: Annotated[
        str | None,
        typer.Option(help="none, top:N layers or all.", rich_help_panel=_FINETUNE),
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Epochs after the head's.", rich_help_panel=_FINETUNE)
    ] = None,
    finetune_lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; it falls to 0.", rich_help_panel=_FINETUNE),
    ] = None,
    finetune_warmup: Annotated[
        float | None,
        typer.Option(help="Share of the steps in which it rises.", rich_help_panel=_FINETUNE),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="AdamW's.", rich_help_panel=_FINETUNE)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Kept a step by an average of the weights.", rich_help_panel=_FINETUNE),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, views, order, weights.")] = None,
    merge_val: Annotated[
        bool | None, typer.Option("--merge-val", help="Use a given val folder for training.")
    ] = None,
    allow_leakage: Annotated[
        bool | None, typer.Option("--allow-leakage", help="Train though patients leak.")
    ] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    max_bytes: MaxBytes = None,
    max_pixels: MaxPixels = None,
    max_frames: MaxFrames = None,
    max_seconds: MaxSeconds = None,
    patient_key_file: PatientKeyFile = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="Log to this MLflow store too, such as sqlite:///mlflow.db."),
    ] = None,
    overwrite: Overwrite = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a classifier and release it as a bundle."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "resume", "as_json")}
    config = _resumed_spec(resume, config, data)
    spec, resources = _resolve("train", config, flags)
    from orchestrator.cli.output import train_summary
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.train.train import train as run

    with open_reporter() as reporter:
        result = run(spec, resources, reporter, run_folder=resume and resume.absolute())
    if as_json:
        _print_json(result.report | {"bundle": str(result.bundle), "run": str(result.run)})
    else:
        _print(train_summary(result))


@app.command()
def score(
    input: Annotated[
        list[str] | None,
        typer.Argument(metavar="FOLDER...", help="Folders, or one CSV, Parquet or data set."),
    ] = None,
    config: ConfigFile = None,
    resume: Resume = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundle; the newest under models/ otherwise. Several: their mean."),
    ] = None,
    out: Out = None,
    out_root: Annotated[
        str | None, typer.Option(help="Folder of runs; this one gets a new folder in it.")
    ] = None,
    only_new: Annotated[
        bool | None,
        typer.Option("--only-new", help="Leave out what earlier runs in --out-root have done."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a model call.")] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Images a shard.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, openvino or keras.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="f32, bf16 or f16: of the network's arithmetic.")
    ] = None,
    max_rejected_fraction: Annotated[
        float | None, typer.Option(help="Exit 3 where more of the files are rejected.")
    ] = None,
    hash_paths: Annotated[
        bool | None,
        typer.Option(
            "--hash-paths", help="Keep only keyed hashes of paths: they are patient data."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the intervals' resamples.")] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    max_bytes: MaxBytes = None,
    max_pixels: MaxPixels = None,
    max_frames: MaxFrames = None,
    max_seconds: MaxSeconds = None,
    patient_key_file: PatientKeyFile = None,
    overwrite: Overwrite = None,
    as_json: JsonFlag = False,
) -> None:
    """Score X-rays: one row per image, a report, every file accounted for."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "resume", "as_json")}
    # An option that may be repeated comes as an empty list where it is not given.
    flags |= {"input": input or None, "model": model or None}
    config = _resumed_spec(resume, config, input)
    spec, resources = _resolve("score", config, flags)
    from orchestrator.cli.output import score_summary
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.score.score import score as run

    with open_reporter() as reporter:
        result = run(spec, resources, reporter, run_folder=resume and resume.absolute())
    if as_json:
        _print_json(result.report | {"out": result.published or str(result.run)})
    else:
        _print(score_summary(result))


@app.command()
def ingest(
    input: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder, CSV or Parquet.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the data set.")],
    image_size: Annotated[
        int | None,
        typer.Option(help="Height and width, px; that of the newest model otherwise, or 150."),
    ] = None,
    shard_rows: Annotated[int | None, typer.Option(help="Images a shard.")] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    max_bytes: MaxBytes = None,
    max_pixels: MaxPixels = None,
    max_frames: MaxFrames = None,
    max_seconds: MaxSeconds = None,
    patient_key_file: PatientKeyFile = None,
    overwrite: Overwrite = None,
    as_json: JsonFlag = False,
) -> None:
    """Decode a folder once into an Arrow data set that train and score read."""
    flags = {k: v for k, v in locals().items() if k != "as_json"}
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.config.load import build_resources, build_spec
    from orchestrator.config.specs import IngestSpec
    from orchestrator.pipelines.prepare.ingest import default_image_size
    from orchestrator.pipelines.prepare.ingest import ingest as run

    resources = build_resources(
        {"workers": flags.pop("workers"), "cpus_per_worker": flags.pop("cpus_per_worker")}
        | {"gpus_per_worker": 0}
    )
    if image_size is None:
        flags["image_size"] = default_image_size(Path("models"))
    spec = build_spec(IngestSpec, flags)
    with open_reporter() as reporter:
        described = run(spec, resources, reporter)
    if as_json:
        _print_json(described)
    else:
        _print(
            f"{described['num_decoded']:,} of {described['num_found']:,} files decoded to "
            f"{described['size_px']} px, {described['num_rejected']:,} rejected: {spec.out}"
        )


@app.command("find-lr")
def find_lr(
    data: Annotated[str | None, typer.Argument(help="Folder, CSV, Parquet or data set.")] = None,
    config: ConfigFile = None,
    out: Out = None,
    backbone: Annotated[str | None, typer.Option(help="Feature extractor.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, imagenet, offline, none or a .h5 file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width, px.")] = None,
    views: Annotated[int | None, typer.Option(help="Views of a training image.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Focal weight of PNEUMONIA, or auto.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Focal exponent.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the head.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, views, order, weights.")] = None,
    merge_val: Annotated[
        bool | None, typer.Option("--merge-val", help="Use a given val folder for training.")
    ] = None,
    allow_leakage: Annotated[
        bool | None, typer.Option("--allow-leakage", help="Search though patients leak.")
    ] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    patient_key_file: PatientKeyFile = None,
    overwrite: Overwrite = None,
    as_json: JsonFlag = False,
) -> None:
    """Find a learning rate for a training, by range test and short trials; takes its job file."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "as_json")}
    spec, resources = _resolve("train", config, flags)
    from orchestrator.cli.output import rate_summary
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.train.find_lr import find_lr as run

    with open_reporter() as reporter:
        result = run(spec, resources, reporter)
    if as_json:
        _print_json(result.report | {"out": str(result.run)})
    else:
        _print(rate_summary(result))


@app.command()
def compare(
    data: Annotated[str | None, typer.Argument(help="Folder, CSV, Parquet or data set.")] = None,
    config: ConfigFile = None,
    out: Out = None,
    backbones: Annotated[
        str | None, typer.Option(help="Names separated by commas; the paper's four otherwise.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto (each one's first choice), imagenet, offline, none.")
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="focal; bce: binary cross-entropy too, and what focal loss is worth."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="About so many images: whole patients, classes in share.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width, px.")] = None,
    views: Annotated[
        int | None, typer.Option(help="Views of a training image, the plain one included.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[
        str | None, typer.Option(help="Adam's learning rate; auto: searched for each model.")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option(help="Focal weight of PNEUMONIA; auto: share of NORMAL.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Focal exponent.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the head.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better AUROC before stopping.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, views, order, weights.")] = None,
    merge_val: Annotated[
        bool | None, typer.Option("--merge-val", help="Use a given val folder for training.")
    ] = None,
    allow_leakage: Annotated[
        bool | None, typer.Option("--allow-leakage", help="Train though patients leak.")
    ] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    patient_key_file: PatientKeyFile = None,
    overwrite: Overwrite = None,
    as_json: JsonFlag = False,
) -> None:
    """Train several backbones by one recipe; one table beside the paper's Table IV."""
    flags = {k: v for k, v in locals().items() if k not in ("config", "as_json")}
    spec, resources = _resolve("compare", config, flags)
    from orchestrator.cli.output import compare_summary
    from orchestrator.cli.terminal import open_reporter
    from orchestrator.pipelines.train.compare import compare as run

    with open_reporter() as reporter:
        result = run(spec, resources, reporter)
    if as_json:
        _print_json(result.report | {"out": str(result.run)})
    else:
        _print(compare_summary(result))


@app.command()
def inspect(
    bundle: Annotated[str, typer.Argument(help="Bundle folder.")], as_json: JsonFlag = False
) -> None:
    """Verify a bundle's hashes and show what it is, without loading the network."""
    from orchestrator.cli.output import bundle_summary
    from orchestrator.model.bundle import load_info

    info = load_info(Path(bundle))
    if as_json:
        _print_json(info.model_dump(mode="json"))
    else:
        _print(bundle_summary(Path(bundle), info))


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the demo.")] = "demo",
    images: Annotated[int, typer.Option(help="Phantoms to train on.", min=60)] = 400,
    as_json: JsonFlag = False,
) -> None:
    """Make synthetic phantoms, train on them, score them, name the report."""
    from orchestrator.cli.demo import run_demo
    from orchestrator.cli.output import score_summary
    from orchestrator.cli.terminal import open_reporter

    with open_reporter() as reporter:
        result = run_demo(Path(out), images, reporter)
    if as_json:
        _print_json(result.report | {"out": str(result.run)})
    else:
        _print(score_summary(result))


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Check Python, packages, devices, memory, disk and the cluster."""
    from orchestrator.cli.doctor import diagnose
    from orchestrator.cli.output import doctor_table

    checks = diagnose()
    if as_json:
        _print_json({"checks": [vars(check) for check in checks]})
    else:
        _print(doctor_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(5)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, allow_nan=False))
