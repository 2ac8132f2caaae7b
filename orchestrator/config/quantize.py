"""What a user may ask of `quantize`."""

from typing import Annotated

from orchestrator.config.fields import (
    MODEL,
    SCORING,
    Form,
    Overwrite,
    PathText,
    PatientKeyFile,
    Seed,
    flag,
)


class QuantizeSpec(Form):
    """Add an int8 network to a bundle, provided that its calls hardly change."""

    model: Annotated[
        PathText, flag("Model bundle, or models:production.", metavar="BUNDLE", positional=True)
    ]
    data: Annotated[
        PathText,
        flag(
            "Images that the model was trained on, or recalibrated on: folder, table or ingested "
            "data set.",
            metavar="DATA",
            positional=True,
        ),
    ]
    out: Annotated[
        PathText | None,
        flag("Folder for the new bundle.", default="a new folder in models/", decides=False),
    ] = None
    images: Annotated[
        int, flag("Images to find the ranges of values by.", MODEL, ge=10, le=100_000)
    ] = 300
    seed: Annotated[
        Seed, flag("Random seed for these images and the confidence intervals.", SCORING)
    ] = 0
    patient_key_file: PatientKeyFile = None
    overwrite: Overwrite = False
