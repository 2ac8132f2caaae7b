"""What the forms of several commands share: limits on input files, a training's data and recipe."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from orchestrator.config.fields import (
    DATA,
    FINETUNING,
    LIMITS,
    MODEL,
    SCORING,
    STORED,
    TRAINING,
    Alpha,
    Augmentation,
    Calibrated,
    Count,
    Dropout,
    Finetune,
    FinetuneEpochs,
    Form,
    Gamma,
    HeadRate,
    ImageSize,
    MaxRejected,
    Overwrite,
    PathText,
    PatientKeyFile,
    Positive,
    RunFolder,
    Seed,
    Views,
    flag,
)
from orchestrator.config.listing import ListingForm
from orchestrator.config.threshold import ThresholdRule

Heatmaps = Annotated[
    int,
    flag(
        "Images to draw heat maps of: wrong ones, the least certain, a random few.",
        SCORING,
        decides=False,
        ge=0,
        le=1000,
    ),
]
ShadowModel = Annotated[
    PathText | None,
    flag(
        "Also score with this model, such as models:staging, release none of its calls, and report "
        "where they differ.",
        SCORING,
        default="none",
        decides=False,
    ),
]


InferencePrecision = Annotated[
    Literal["f32", "bf16", "f16", "int8", "auto"],
    flag(
        "Inference precision; int8: a quantised model, auto: int8 if the model passed on such a "
        "CPU, otherwise f32.",
        SCORING,
    ),
]


class DecodeLimits(Form):
    """Limits on one input file, None for the decoder's own (`orchestrator.data.limits.Limits`).

    A file over a limit is rejected before its pixels are decoded.
    """

    max_bytes: Annotated[Count | None, flag("File size, in bytes.", LIMITS)] = None
    max_pixels: Annotated[Count | None, flag("Width x height, in pixels.", LIMITS)] = None
    max_frames: Annotated[Count | None, flag("Frames or pages.", LIMITS)] = None
    max_seconds: Annotated[Positive | None, flag("CPU time of decoding, in seconds.", LIMITS)] = (
        None
    )
    max_memory: Annotated[Count | None, flag("Memory of decoding, in bytes.", LIMITS)] = None


class LabelledForm(ListingForm):
    """What every command takes that scores labelled images to judge or adjust a model by them."""

    seed: Annotated[Seed, flag("Random seed for folds and confidence intervals.", SCORING)] = 0
    max_rejected_fraction: MaxRejected = 0.05
    patient_key_file: PatientKeyFile = None
    limits: DecodeLimits = DecodeLimits()
    overwrite: Overwrite = False


class TrainingForm(ListingForm):
    """What every command that trains takes: the data, what is done with it, for how long."""

    data: Annotated[
        PathText,
        flag(
            "Folder or address of X-rays, CSV or Parquet table, or ingested data set.",
            metavar="DATA",
            positional=True,
        ),
    ]
    out: RunFolder = None
    image_size: ImageSize = 150
    views: Views = 4
    epochs: Annotated[int, flag("Maximum number of epochs.", TRAINING, ge=1, le=10_000)] = 100
    batch_size: Annotated[
        int, flag("Images per training step, over all workers.", TRAINING, ge=1, le=8192)
    ] = 32
    patience: Annotated[
        int, flag("Epochs without improvement before training stops.", TRAINING, ge=1)
    ] = 8
    threshold: ThresholdRule = "youden"
    calibration: Annotated[
        Calibrated,
        flag("Probability calibration on validation images; none: the network's own.", MODEL),
    ] = "platt"
    seed: Annotated[Seed, flag("Random seed for splits, views, order and weights.", TRAINING)] = 0
    merge_val: Annotated[
        bool, flag("Add the images of a val folder to the training images.", DATA)
    ] = False
    allow_leakage: Annotated[
        bool,
        flag("Continue even if patients or images occur in several splits.", DATA, decides=False),
    ] = False
    max_rejected_fraction: MaxRejected = 0.05
    patient_key_file: PatientKeyFile = None
    limits: DecodeLimits = DecodeLimits()
    overwrite: Overwrite = False

    @model_validator(mode="after")
    def _something_to_augment(self, info: ValidationInfo) -> Self:
        if info.context == STORED:
            return self
        asked = "augmentation" in self.model_fields_set
        recipe = getattr(self, "augmentation", "none") if asked else "none"
        chosen = (getattr(self, "features", "cached"), getattr(self, "finetune", "none"))
        if recipe != "none" and self.views == 1 and chosen == ("cached", "none"):
            raise ValueError(
                f"augmentation {recipe} has no view to augment: the only one is the plain image; "
                "give --views 2 or more, --features live, or --augmentation none"
            )
        return self


class GateForm(ListingForm):
    """What scoring does with images that the model was not made for."""

    out_of_scope: Annotated[
        Literal["mark", "reject"],
        flag("Images unlike those that the model was trained on: mark or reject them.", SCORING),
    ] = "mark"
    fail_on_drift: Annotated[
        bool,
        flag(
            "Exit with code 6 if images or probabilities drift from those of the training.",
            SCORING,
            decides=False,
        ),
    ] = False


class RecipeForm(TrainingForm):
    """What `train` and `compare` take besides: augmentation, loss and head, and fine-tuning."""

    population: Annotated[
        Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None,
        flag(
            "Patient population of the training images, such as 'children, 1 to 5 years, one "
            "site'; stated in the model card and in scoring reports.",
            DATA,
            default="not stated",
            metavar="<text>",
        ),
    ] = None
    augmentation: Augmentation = "paper"
    lr: HeadRate = 0.001
    alpha: Alpha = "auto"
    gamma: Gamma = 2.0
    dropout: Dropout = 0.2
    finetune: Finetune = "none"
    finetune_epochs: FinetuneEpochs = 15
    finetune_lr: Annotated[
        float, flag("Peak learning rate; it decays to 0 by a cosine.", FINETUNING, gt=0, le=1)
    ] = 0.0003
    finetune_warmup: Annotated[
        float, flag("Fraction of the steps used for learning-rate warm-up.", FINETUNING, ge=0, lt=1)
    ] = 0.1
    weight_decay: Annotated[float, flag("AdamW weight decay.", FINETUNING, ge=0, le=1)] = 0.01
    ema: Annotated[
        float, flag("EMA decay of the weights; 0 disables it.", FINETUNING, ge=0, lt=1)
    ] = 0.0
