"""What a user may ask for: pydantic models built from a YAML job file and command-line flags.

A job file and the flags of a command are one form: `args` in the file holds what the flags hold,
and a flag wins. Relative paths in a file resolve against the file's folder, flags against the
working directory. A field is also a flag: what `flag` is given here is what `--help` shows. Over
300 lines, one declaration a field.
"""

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from orchestrator.config.addresses import NoSecret
from orchestrator.config.dicom import DicomForm
from orchestrator.config.fields import (
    CLUSTER,
    DATA,
    MODEL,
    SCORING,
    SEARCH,
    SPACE,
    TRAINING,
    Augmentation,
    BackboneName,
    Calibrated,
    Duration,
    Features,
    Finetune,
    FinetuneEpochs,
    Form,
    MaxRejected,
    Objective,
    Overwrite,
    Paths,
    PathText,
    PatientKeyFile,
    Positive,
    RunFolder,
    Searched,
    Seed,
    ShardRows,
    Span,
    TrainingObjective,
    Weights,
    flag,
)
from orchestrator.config.forms import (
    DecodeLimits,
    GateForm,
    Heatmaps,
    InferencePrecision,
    LabelledForm,
    RecipeForm,
    ShadowModel,
    TrainingForm,
)
from orchestrator.config.listing import OnNewModel
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.review import ReviewForm
from orchestrator.config.threshold import COHORTS, SHIFTED, GivenThreshold, PlainThresholdRule
from orchestrator.config.worker_counts import WorkerCount


class Resources(Form):
    """What a job asks of the cluster, per worker."""

    workers: WorkerCount = None
    cpus_per_worker: Annotated[
        Positive | None, flag("CPUs per worker.", CLUSTER, default="an even share of a node")
    ] = None
    gpus_per_worker: Annotated[
        Annotated[float, Field(ge=0)] | Literal["auto"],
        flag("GPUs per worker; auto: 1 if the cluster has GPUs, otherwise 0.", CLUSTER),
    ] = "auto"
    shard_timeout: Annotated[
        Duration | None,
        flag("Time limit of one shard, such as 2h.", CLUSTER, default="by its images, 30m or more"),
    ] = None
    max_wait: Annotated[
        Duration,
        flag("Longest wait for room in the cluster, or for a lock.", CLUSTER, default="2h"),
    ] = timedelta(hours=2)
    wait_for_lock: Annotated[
        bool, flag("Wait while another process works in the output folder.", CLUSTER)
    ] = False


class TrainSpec(RecipeForm, ReviewForm):
    """Train a classifier and release it as a bundle."""

    out: Annotated[
        PathText | None,
        flag("Folder for the model bundle.", default="a new folder in models/", decides=False),
    ] = None
    backbone: BackboneName = "EfficientNetB5"
    weights: Weights = "auto"
    features: Features = "cached"
    objective: Annotated[
        TrainingObjective,
        flag(
            "Validation metric that selects the best epoch and ends training: auroc, auprc, "
            "log_loss or val_loss.",
            TRAINING,
            metavar="<metric>",
        ),
    ] = "auroc"
    test_time_views: Annotated[
        Literal[1, 3],
        flag("Views averaged per scored image; 3: plain, zoomed in, zoomed out.", MODEL),
    ] = 1
    precision: Annotated[
        Literal["f32", "mixed_bfloat16"],
        flag("Precision of live training; mixed_bfloat16 is for GPUs.", TRAINING),
    ] = "f32"
    mlflow: Annotated[
        Annotated[str, NoSecret] | None,
        flag(
            "Also log to this MLflow store, such as sqlite:///mlflow.db.",
            default="off",
            metavar="<uri>",
            decides=False,
        ),
    ] = None


class FindLrSpec(TrainSpec):
    """Find a learning rate for a training, by range test and short trials."""

    # What the learning rate of a head does not depend on.
    UNUSED: ClassVar[frozenset[str]] = frozenset(
        {
            *("epochs", "patience", "features", "objective", "lr", "threshold", "calibration"),
            *("test_time_views", "precision", "mlflow", "weight_decay", "ema", "population"),
            *("finetune", "finetune_epochs", "finetune_lr", "finetune_warmup"),
            *ReviewForm.model_fields,
        }
    )

    out: RunFolder = None


class CompareSpec(RecipeForm):
    """Train several backbones by one recipe on one split and set them side by side."""

    backbones: Annotated[
        tuple[str, ...],
        flag(
            "Backbones, separated by commas; all: every one there is.",
            MODEL,
            metavar="<name,name,...>",
            min_length=1,
            max_length=40,
        ),
    ] = ("VGG19", "ResNet50", "DenseNet121", "EfficientNetB5")
    weights: Annotated[
        Literal["auto", "imagenet", "offline", "none"],
        flag(
            "imagenet, offline or none; auto: each backbone's first choice.",
            MODEL,
            metavar="<kind>",
        ),
    ] = "auto"
    loss: Annotated[
        Literal["focal", "bce"],
        flag("bce: also train with binary cross-entropy, and compare the losses.", TRAINING),
    ] = "focal"
    seeds: Annotated[
        int, flag("Trainings of each backbone, each with another seed.", TRAINING, ge=1, le=20)
    ] = 1
    limit: Annotated[
        Annotated[int, Field(ge=20)] | None,
        flag(
            "Number of images to sample, keeping each patient together.", DATA, default="all images"
        ),
    ] = None
    ensemble: Annotated[
        Literal["none", "mean", "vote"],
        flag("Also judge all models as one, by mean probability or majority vote.", MODEL),
    ] = "none"

    @field_validator("backbones", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """A command line gives the names in one text, separated by commas."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_an_ensemble(self) -> Self:
        if self.ensemble != "none" and len(self.backbones) == 1 and self.backbones != ("all",):
            raise ValueError(
                f"an ensemble is of two backbones or more, received {self.backbones[0]} alone; "
                "name more with --backbones, or leave --ensemble out"
            )
        if self.ensemble == "mean" and self.threshold.endswith((SHIFTED, COHORTS)):
            raise ValueError(
                f"--ensemble mean cannot choose its threshold by {self.threshold}; give a rule "
                f"without {SHIFTED} and {COHORTS}, or --ensemble vote"
            )
        return self


class ScoreSpec(GateForm, DicomForm, ReviewForm):
    """Score a folder of X-rays: one row per image and a report."""

    input: Annotated[
        Paths,
        flag(
            "Folders, addresses or files, or one CSV table, Parquet table or ingested data set.",
            metavar="FOLDER",
            positional=True,
        ),
    ]
    model: Annotated[
        Paths | None,
        flag(
            "Model bundle, or models:production; repeat the option to average several.",
            SCORING,
            default="the newest bundle in models/",
        ),
    ] = None
    out: Annotated[
        PathText | None,
        flag(
            "Folder for the run, or an address to copy the run to.",
            default="a new folder in --out-root",
            decides=False,
        ),
    ] = None
    out_root: Annotated[PathText | None, flag("Parent folder of the runs.", default="runs/")] = None
    only_new: Annotated[
        bool, flag("Leave out files that earlier runs in --out-root processed.", DATA)
    ] = False
    on_new_model: OnNewModel = "rescore"
    batch_size: Annotated[
        Annotated[int, Field(ge=1, le=8192)] | None,
        flag("Images per model call.", SCORING, default="what suits the engine"),
    ] = None
    shard_rows: ShardRows = 256
    engine: Annotated[
        Literal["auto", "openvino", "keras"],
        flag("Inference engine; auto: OpenVINO on CPUs, Keras on GPUs.", SCORING),
    ] = "auto"
    precision: InferencePrecision = "f32"
    threshold: GivenThreshold = None
    heatmaps: Heatmaps = 0
    shadow: ShadowModel = None
    max_rejected_fraction: MaxRejected = 1.0
    allow_empty: Annotated[
        bool, flag("Accept an input that holds no files.", DATA, decides=False)
    ] = False
    hash_paths: Annotated[
        bool, flag("Store keyed hashes instead of paths, which may identify patients.", DATA)
    ] = False
    patient_key_file: PatientKeyFile = None
    seed: Annotated[Seed, flag("Random seed for the confidence intervals.", SCORING)] = 0
    limits: DecodeLimits = DecodeLimits()
    overwrite: Overwrite = False

    @model_validator(mode="after")
    def _new_since_when(self) -> Self:
        if self.only_new and self.out_root is None:
            raise ValueError(
                "only_new needs out_root, the folder of the earlier runs; give --out-root"
            )
        return self


class RecalibrateSpec(LabelledForm, ReviewForm):
    """Choose calibration and threshold of a bundle anew, on labelled images of one site."""

    model: Annotated[
        PathText, flag("Model bundle, or models:production.", metavar="BUNDLE", positional=True)
    ]
    data: Annotated[
        PathText,
        flag(
            "Labelled images: folder, CSV or Parquet table, or ingested data set.",
            metavar="LABELLED",
            positional=True,
        ),
    ]
    out: Annotated[
        PathText | None,
        flag("Folder for the new bundle.", default="a new folder in models/", decides=False),
    ] = None
    threshold: PlainThresholdRule = "youden"
    calibration: Annotated[
        Calibrated,
        flag("Probability calibration on the images; none: the bundle's own stays.", MODEL),
    ] = "platt"


def scoring_of(spec: RecalibrateSpec | ModelsCompareSpec, model: str) -> ScoreSpec:
    """Returns the scoring of labelled images, on which a recalibration or a comparison rests."""
    own = {"model", "out", "threshold", *ReviewForm.model_fields}
    shared = set(ScoreSpec.model_fields) & set(type(spec).model_fields) - own
    given = {name: getattr(spec, name) for name in shared}
    return ScoreSpec(input=(spec.data,), model=(model,), **given)


class IngestSpec(DicomForm):
    """Decode a folder once into an Arrow data set of uint8 images."""

    input: Annotated[
        PathText,
        flag("Folder or address of X-rays, or a table.", metavar="FOLDER", positional=True),
    ]
    out: Annotated[
        PathText, flag("Folder for the data set.", metavar="OUT", positional=True, decides=False)
    ]
    image_size: Annotated[
        Annotated[int, Field(ge=32, le=2048)] | None,
        flag(
            "Height and width of the images, in pixels.",
            DATA,
            default="that of the newest bundle in models/, or 150",
        ),
    ] = None
    shard_rows: ShardRows = 256
    max_rejected_fraction: MaxRejected = 0.05
    patient_key_file: PatientKeyFile = None
    limits: DecodeLimits = DecodeLimits()
    overwrite: Overwrite = False


SEARCHED = ("lr", "alpha", "gamma", "dropout")


class TuneSpec(TrainingForm):
    """Search the settings of a training, refit the best, and release it as a bundle."""

    backbone: BackboneName = "EfficientNetB5"
    weights: Weights = "auto"
    features: Features = "cached"
    feature_dtype: Annotated[
        Literal["float16", "float32"],
        flag("Type of the cached features; float16 halves the space.", TRAINING),
    ] = "float32"
    augmentation: Augmentation = "paper"
    epochs: Annotated[
        int, flag("Maximum number of epochs per trial.", TRAINING, ge=1, le=10_000)
    ] = 20
    lr: Annotated[Searched, flag("Learning rate; with --finetune, that of fine-tuning.", SPACE)] = (
        Span(low=0.0001, high=0.01)
    )
    alpha: Annotated[Searched, flag("Focal-loss weight of PNEUMONIA.", SPACE)] = Span(
        low=0.1, high=0.9
    )
    gamma: Annotated[Searched, flag("Focal-loss exponent.", SPACE)] = Span(low=0.0, high=4.0)
    dropout: Annotated[Searched, flag("Dropout rate of the classifier head.", SPACE)] = Span(
        low=0.0, high=0.6
    )
    trials: Annotated[int, flag("Maximum number of trials.", SEARCH, ge=1, le=10_000)] = 32
    search: Annotated[Literal["tpe", "random", "grid"], flag("Search algorithm.", SEARCH)] = "tpe"
    scheduler: Annotated[Literal["asha", "none"], flag("asha: stop weak trials early.", SEARCH)] = (
        "asha"
    )
    objective: Annotated[Objective, flag("Validation metric to optimise.", SEARCH)] = "auroc"
    folds: Annotated[
        int,
        flag("Patient-grouped folds per trial; 1: the validation split only.", SEARCH, ge=1, le=20),
    ] = 1
    max_concurrent: Annotated[
        Annotated[int, Field(ge=1, le=4096)] | None,
        flag("Maximum number of concurrent trials.", SEARCH, default="as many as fit"),
    ] = None
    time_budget: Annotated[
        Duration | None,
        flag("Time limit for the trials, such as 30m or 2h.", SEARCH, default="no limit"),
    ] = None
    finetune: Finetune = "none"
    finetune_epochs: FinetuneEpochs = 15

    @field_validator(*SEARCHED)
    @classmethod
    def _fits_training(cls, value: Any, info: ValidationInfo) -> Any:
        """Every value that may be tried must be one that `train` takes."""
        ends = (value.low, value.high) if isinstance(value, Span) else value
        for end in ends:
            try:
                TrainSpec.model_validate({"data": "", str(info.field_name): end})
            except ValidationError as error:
                raise ValueError(f"{end:g}: {error.errors()[0]['msg']}") from error
        return value


# What a job file may ask for.
SPECS: dict[str, type[Form]] = {
    "train": TrainSpec,
    "tune": TuneSpec,
    "compare": CompareSpec,
    "find-lr": FindLrSpec,
    "score": ScoreSpec,
    "recalibrate": RecalibrateSpec,
    "quantize": QuantizeSpec,
    "models-compare": ModelsCompareSpec,
}
