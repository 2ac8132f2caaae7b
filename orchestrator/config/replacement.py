"""What a user may ask of `orchestrator models compare`: two models, images, and by what rule."""

from typing import Annotated

from orchestrator.config.dicom import DicomForm
from orchestrator.config.fields import MODEL, PathText, RunFolder, flag
from orchestrator.config.forms import LabelledForm


class ModelsCompareSpec(LabelledForm, DicomForm):
    """Judge whether a candidate may take the place of the live model, on the same images."""

    live: Annotated[
        PathText,
        flag(
            "Bundle that is live now, such as models:production.", metavar="LIVE", positional=True
        ),
    ]
    candidate: Annotated[
        PathText,
        flag(
            "Bundle that is to take its place, such as models:lite0@2.",
            metavar="CANDIDATE",
            positional=True,
        ),
    ]
    data: Annotated[
        PathText,
        flag(
            "Labelled images that neither was trained on: folder, CSV or Parquet table, or "
            "ingested data set.",
            metavar="LABELLED",
            positional=True,
        ),
    ]
    out: RunFolder = None
    margin: Annotated[
        float,
        flag(
            "AUROC, sensitivity and specificity may each be worse by less than this.",
            MODEL,
            gt=0,
            le=0.1,
        ),
    ] = 0.02
    superiority: Annotated[
        float,
        flag(
            "AUROC or balanced accuracy must be better by more than this.",
            MODEL,
            ge=0,
            le=0.5,
        ),
    ] = 0.0
