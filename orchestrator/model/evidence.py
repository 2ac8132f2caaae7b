"""What a bundle keeps of how its figures came about, and of the bundles that it comes from."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.evaluation.figures import Interval, Threshold


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingEvidence(_Form):
    """What a training measured besides the metrics of its splits.

    Attributes:
        layout: where the splits come from, as `data.splits.Split` names it.
        audit: the leakage audit in numbers, and under `files` those found and those rejected.
        judged_on: `test`, or `validation` where there is no test set.
        subgroups: of these images, as `measure_subgroups` gives it; folders are numbered, since
            their names may say who lies in them.
        num_shifted: of these images, those of which shifted copies were measured; 0 where the
            training saw features in place of images.
        shifts: by shift, `none` first, the metrics of that copy of them.
    """

    layout: str
    audit: dict[str, Any]
    judged_on: str
    subgroups: dict[str, Any]
    num_shifted: Annotated[int, Field(ge=0)] = 0
    shifts: dict[str, dict[str, Interval]] = {}


class Ancestor(_Form):
    """A bundle whose network another one has.

    Attributes:
        sha256: of the bundle.
        date: of its training, recalibration or quantisation, ISO 8601, UTC.
        num_images: labelled images of its recalibration; None where it was trained or quantised.
        threshold: its own.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    date: str
    num_images: int | None = None
    threshold: Threshold
