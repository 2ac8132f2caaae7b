"""What a user may ask for: pydantic models built from a YAML job file and command-line flags.

A job file and the flags of a command are one form: `args` in the file holds what the flags hold,
and a flag wins. Relative paths in a file resolve against the file's folder, flags against the
working directory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)


@dataclass(frozen=True)
class _PathMarker:
    """Marks a text field as a file-system path, for resolution and for messages."""


PathText = Annotated[str, _PathMarker()]
# One path or several; a single one is written back as plain text.
Paths = Annotated[
    tuple[PathText, ...],
    Field(min_length=1, max_length=1000),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    PlainSerializer(lambda value: value[0] if len(value) == 1 else list(value)),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0, le=10)]
Objective = Literal["auroc", "auprc", "log_loss"]


class _Form(BaseModel):
    """Base of every form: unknown keys are errors, values are frozen once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Resources(_Form):
    """What a job asks of the cluster, per worker."""

    workers: Annotated[int, Field(ge=1, le=4096)] | None = None  # None: what fits the cluster
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"


class DecodeLimits(_Form):
    """Limits on one input file, None for the decoder's own (`orchestrator.data.limits.Limits`).

    A file over a limit is rejected before its pixels are decoded.
    """

    max_bytes: Annotated[int, Field(ge=1)] | None = None
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    max_frames: Annotated[int, Field(ge=1)] | None = None
    max_seconds: Annotated[float, Field(gt=0)] | None = None


class _TrainingForm(_Form):
    """What every command that trains takes: the data, what is done with it, for how long."""

    data: PathText
    out: PathText | None = None
    image_size: Annotated[int, Field(ge=32, le=2048)] = 150
    views: Annotated[int, Field(ge=1, le=100)] = 1  # the plain image alone
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 100
    batch_size: Annotated[int, Field(ge=1, le=8192)] = 32
    patience: Annotated[int, Field(ge=1)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    merge_val: bool = False
    allow_leakage: bool = False
    patient_key_file: PathText | None = None
    limits: DecodeLimits = DecodeLimits()
    overwrite: bool = False


class TrainSpec(_TrainingForm):
    """Train a classifier and release it as a bundle."""

    backbone: str = "EfficientNetB5"
    weights: str = "auto"  # the backbone's first choice
    features: Literal["cached", "live"] = "cached"
    augmentation: Literal["none", "paper", "light"] = "paper"
    objective: Objective = "auroc"  # validation figure that chooses the epoch of a head
    lr: Rate | Literal["auto"] = 0.001
    alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    gamma: Annotated[float, Field(ge=0, le=20)] = 2.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    threshold: Literal["youden", "youden-shifted"] = "youden"
    test_time_views: Literal[1, 3] = 1  # 3: mean logit of three zooms
    precision: Literal["f32", "mixed_bfloat16"] = "f32"
    finetune: Annotated[str, Field(pattern=r"^(none|all|top:[1-9][0-9]{0,5})$")] = "none"
    finetune_epochs: Annotated[int, Field(ge=1, le=10_000)] = 15
    finetune_lr: Annotated[float, Field(gt=0, le=1)] = 0.0003
    finetune_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the steps
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01  # in fine-tuning
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # kept a step by the average of the weights
    mlflow: str | None = None  # address of a tracking store


class CompareSpec(_TrainingForm):
    """Train several backbones by one recipe on one split and set them side by side."""

    backbones: Annotated[tuple[str, ...], Field(min_length=1, max_length=40)] = (
        "VGG19",
        "ResNet50",
        "DenseNet121",
        "EfficientNetB5",
    )
    weights: Literal["auto", "imagenet", "offline", "none"] = "auto"  # each one's first choice
    loss: Literal["focal", "bce"] = "focal"  # bce: with both, and the difference
    limit: Annotated[int, Field(ge=20)] | None = None  # images
    lr: Rate | Literal["auto"] = 0.001
    alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    gamma: Annotated[float, Field(ge=0, le=20)] = 2.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @field_validator("backbones", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """A command line gives the names in one text, separated by commas."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class ScoreSpec(_Form):
    """Score a folder of X-rays: one row per image and a report."""

    input: Paths
    model: Paths | None = None  # several: the mean of their probabilities
    out: PathText | None = None
    out_root: PathText | None = None  # folder of runs; `out` is a new one in it otherwise
    only_new: bool = False  # leaves out what finished runs under out_root have dealt with
    batch_size: Annotated[int, Field(ge=1, le=8192)] | None = None  # None: the engine's own
    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    engine: Literal["auto", "openvino", "keras"] = "auto"
    precision: Literal["f32", "bf16", "f16"] = "f32"
    max_rejected_fraction: Fraction = 1.0
    hash_paths: bool = False
    patient_key_file: PathText | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    limits: DecodeLimits = DecodeLimits()
    overwrite: bool = False

    @model_validator(mode="after")
    def _new_since_when(self) -> Self:
        if self.only_new and self.out_root is None:
            raise ValueError(
                "only_new needs out_root, the folder of the earlier runs; give --out-root"
            )
        return self


class IngestSpec(_Form):
    """Decode a folder once into an Arrow data set of uint8 images."""

    input: PathText
    out: PathText
    image_size: Annotated[int, Field(ge=32, le=2048)]
    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    patient_key_file: PathText | None = None
    limits: DecodeLimits = DecodeLimits()
    overwrite: bool = False


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _load_duration(value: Any) -> Any:
    """Reads `90s`, `30m`, `6h` or `2d`; a bare number is refused, since YAML reads 6:00 as 360."""
    if isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected a whole number and a unit, such as 90s, 30m, 6h or 2d")
    length = timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])
    if length > timedelta(days=31):
        raise ValueError("expected at most 31d")
    return length


Duration = Annotated[
    timedelta,
    BeforeValidator(_load_duration),
    PlainSerializer(lambda value: f"{int(value.total_seconds())}s", return_type=str),
]


class Span(_Form):
    """The values from `low` to `high`."""

    low: float
    high: float

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected low < high, received {self.low:g} and {self.high:g}")
        return self


def _load_searched(value: Any) -> Any:
    """Reads `LOW:HIGH`, `A,B,C` or one number, the forms of a command line."""
    if isinstance(value, str):
        low, colon, high = value.partition(":")
        return {"low": low, "high": high} if colon else value.split(",")
    return [value] if isinstance(value, int | float) else value


def _kind_of_searched(value: Any) -> str:
    return "range" if isinstance(value, Span | Mapping) else "values"


# What may be tried of one setting: a range, or some values; one value alone is not searched.
Searched = Annotated[
    Annotated[Span, Tag("range")]
    | Annotated[tuple[float, ...], Field(min_length=1, max_length=1000), Tag("values")],
    Discriminator(_kind_of_searched),
    BeforeValidator(_load_searched),
]
SEARCHED = ("lr", "alpha", "gamma", "dropout")


class TuneSpec(_TrainingForm):
    """Search the settings of a training, refit the best, and release it as a bundle."""

    backbone: str = "EfficientNetB5"
    weights: str = "auto"
    features: Literal["cached", "live"] = "cached"
    feature_dtype: Literal["float16", "float32"] = "float32"
    augmentation: Literal["none", "paper", "light"] = "paper"
    views: Annotated[int, Field(ge=1, le=100)] = 4
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    lr: Searched = Span(low=0.0001, high=0.01)  # with finetune: of the fine-tuning
    alpha: Searched = Span(low=0.1, high=0.9)
    gamma: Searched = Span(low=0.0, high=4.0)
    dropout: Searched = Span(low=0.0, high=0.6)
    trials: Annotated[int, Field(ge=1, le=10_000)] = 32
    search: Literal["tpe", "random", "grid"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    objective: Objective = "auroc"
    folds: Annotated[int, Field(ge=1, le=20)] = 1  # 1: the training's own validation images
    max_concurrent: Annotated[int, Field(ge=1, le=4096)] | None = None
    time_budget: Duration | None = None  # of the search, without features and refit
    finetune: Annotated[str, Field(pattern=r"^(none|all|top:[1-9][0-9]{0,5})$")] = "none"
    finetune_epochs: Annotated[int, Field(ge=1, le=10_000)] = 15

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


SPECS: dict[str, type[_Form]] = {
    "train": TrainSpec,
    "tune": TuneSpec,
    "compare": CompareSpec,
    "score": ScoreSpec,
    "find-lr": TrainSpec,  # it searches the rate of a training
}
