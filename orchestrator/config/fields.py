"""What specs are made of: the base of every form, its types, and the fields that several share.

A field is a flag of a command: its description, range and default stand on the field, and
`orchestrator.cli.options` makes the flag from them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    Tag,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from orchestrator.config.addresses import NoSecret

# Boxes of the help pages, in the order in which they are shown.
DATA = "Data"
MODEL = "Model"
TRAINING = "Training"
FINETUNING = "Fine-tuning"
SPACE = "Search space (a range LOW:HIGH, a list A,B,C, or one fixed value)"
SEARCH = "Search"
SCORING = "Scoring"
REVIEW = "Review by a person"
CLUSTER = "Cluster"
LIMITS = "Limits per input file (a file over a limit is rejected)"
PANELS = (DATA, MODEL, TRAINING, FINETUNING, SPACE, SEARCH, SCORING, REVIEW, CLUSTER, LIMITS)


def flag(
    description: str,
    panel: str | None = None,
    *,
    default: str | None = None,
    metavar: str | None = None,
    positional: bool = False,
    decides: bool = True,
    **limits: Any,
) -> Any:
    """Returns what a field carries for the command line, and its limits.

    Args:
        description: its line of help.
        panel: box of the help page that it stands in; the first one otherwise.
        default: in words, what holds where the field is None.
        metavar: what stands for the value, where type, choices and range do not say it.
        positional: given by its place, not by a name.
        decides: whether results depend on it; a run goes on with another value of it otherwise.
        **limits: of pydantic's `Field`, such as `ge`.
    """
    shown: dict[str, Any] = {
        "panel": panel,
        "words": default,
        "metavar": metavar,
        "positional": positional,
    }
    extra = {name: value for name, value in shown.items() if value}
    if not decides:
        extra["decides"] = False
    return Field(description=description, json_schema_extra=extra, **limits)


def decides_results(field: FieldInfo) -> bool:
    """Whether results depend on a field, as `flag` was told."""
    extra = field.json_schema_extra
    return not isinstance(extra, dict) or bool(extra.get("decides", True))


@dataclass(frozen=True)
class PathMarker:
    """Marks a text field as a file-system path, for resolution and for messages."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Returns the JSON schema, which says that the text is a path."""
        return {**handler(schema), "format": "path"}


class Form(BaseModel):
    """Base of every form: unknown keys are errors, values are frozen once checked.

    Attributes:
        UNUSED: fields that a form takes over from another and has no use for; no flags.
    """

    UNUSED: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PathText = Annotated[str, PathMarker(), NoSecret]
# One path or several; a single one is written back as plain text.
Paths = Annotated[
    tuple[PathText, ...],
    Field(min_length=1, max_length=1_000_000),  # a shell puts every file of `*.jpeg` there
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    PlainSerializer(lambda value: value[0] if len(value) == 1 else list(value)),
]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Objective = Literal["auroc", "auprc", "log_loss"]
TrainingObjective = Literal["auroc", "auprc", "log_loss", "val_loss"]


# Context in which the spec that a run has stored is read: what it asks for was accepted once.
STORED = "stored"

Calibrated = Literal["platt", "none"]

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


class Span(Form):
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


# --- fields of several specs ----------------------------------------------------------------------

Seed = Annotated[int, Field(ge=0, lt=2**31)]
ImageSize = Annotated[int, flag("Height and width of the images, in pixels.", DATA, ge=32, le=2048)]
Views = Annotated[
    int, flag("Cached views per training image, including the original.", DATA, ge=1, le=100)
]
Augmentation = Annotated[
    Literal["none", "paper", "light"],
    flag("Augmentation recipe; paper: Table II of the paper; light: a milder one.", DATA),
]
PatientKeyFile = Annotated[
    PathText | None,
    flag(
        "Key file for hashing DICOM patient IDs; the same key links runs.",
        DATA,
        default="a random key per run",
    ),
]
ShardRows = Annotated[
    int, flag("Images per shard, the unit of retry.", CLUSTER, ge=1, le=1_000_000)
]
MaxRejected = Annotated[
    float,
    flag(
        "Exit with code 3 if more than this fraction is rejected.", DATA, decides=False, ge=0, le=1
    ),
]
Overwrite = Annotated[bool, flag("Replace an earlier result in the output folder.", decides=False)]
RunFolder = Annotated[
    PathText | None,
    flag("Folder for the run.", default="a new folder in runs/", decides=False),
]
BackboneName = Annotated[
    str,
    flag("Feature extractor: a name or a .keras file.", MODEL, metavar="<name|file>"),
]
Weights = Annotated[
    str,
    NoSecret,
    flag(
        "imagenet, offline, none or a .h5 file; auto: the backbone's first choice.",
        MODEL,
        metavar="<kind|file>",
    ),
]
Features = Annotated[
    Literal["cached", "live"],
    flag("cached: run the frozen backbone once; live: run it in every step.", TRAINING),
]
HeadRate = Annotated[
    Annotated[float, Field(gt=0, le=10)] | Literal["auto"],
    flag("Adam learning rate; auto: search for it first, as find-lr does.", TRAINING),
]
Alpha = Annotated[
    Annotated[float, Field(gt=0, lt=1)] | Literal["auto"],
    flag("Focal-loss weight of PNEUMONIA; auto: the share of NORMAL images.", TRAINING),
]
Gamma = Annotated[float, flag("Focal-loss exponent.", TRAINING, ge=0, le=20)]
Dropout = Annotated[float, flag("Dropout rate of the classifier head.", TRAINING, ge=0, lt=1)]
Finetune = Annotated[
    str,
    flag(
        "Backbone layers to fine-tune: none, the top N, or all.",
        FINETUNING,
        metavar="<none|top:N|all>",
        pattern=r"^(none|all|top:[1-9][0-9]{0,5})$",
    ),
]
FinetuneEpochs = Annotated[int, flag("Number of fine-tuning epochs.", FINETUNING, ge=1, le=10_000)]
