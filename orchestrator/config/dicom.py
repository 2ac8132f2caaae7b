"""What a user asks to be kept of DICOM headers: `--dicom-columns` and `--keep-uids`."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from orchestrator.config.fields import DATA, flag
from orchestrator.config.listing import ListingForm

# The facts of `orchestrator.data.decode.dicom_facts`, in the order of their columns.
DicomColumn = Literal[
    "study_uid",
    "series_uid",
    "sop_uid",
    "age_years",
    "sex",
    "view_position",
    "modality",
    "photometric_interpretation",
    "presentation_intent",
    "body_part",
    "manufacturer",
    "device_model",
    "burned_in_annotation",
]


class DicomForm(ListingForm):
    """What every command that keeps a table of decoded files takes besides."""

    dicom_columns: Annotated[
        bool | Annotated[tuple[DicomColumn, ...], Field(min_length=1)],
        flag("Keep what DICOM headers say: hashed UIDs, age, sex, view, device and so on.", DATA),
    ] = False
    keep_uids: Annotated[
        bool, flag("Keep the UIDs of --dicom-columns as they are, not hashed.", DATA)
    ] = False

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The columns of DICOM headers that the tables have, in their order."""
        asked = self.dicom_columns
        every: tuple[str, ...] = get_args(DicomColumn)
        return tuple(name for name in every if asked is True or (asked and name in asked))

    @model_validator(mode="after")
    def _has_uids_to_keep(self) -> Self:
        if self.keep_uids and not any(name.endswith("_uid") for name in self.kept_columns):
            raise ValueError(
                "keep_uids is given and no column of UIDs; give --dicom-columns, or name study_uid,"
                " series_uid or sop_uid among dicom_columns"
            )
        return self
