"""What a user may ask of the rule by which predictions are left to a person."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.config.fields import REVIEW, Form, flag

ReviewTarget = tuple[Literal["review_rate", "accept_error"], float]
_Share = Annotated[float, Field(gt=0, lt=1)]


class ReviewForm(Form):
    """The target of a review rule: how much a person reads, or how much may be wrong unread."""

    review_rate: Annotated[
        _Share | None,
        flag("Leave this share of images, the least certain, to a person.", REVIEW, default="off"),
    ] = None
    accept_error: Annotated[
        _Share | None,
        flag(
            "Leave enough images to a person that, with 95% confidence, at most this share of the "
            "patients with an accepted image have a wrong one among them.",
            REVIEW,
            default="off",
        ),
    ] = None

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if self.review_rate is not None and self.accept_error is not None:
            raise ValueError("review_rate and accept_error are two targets; give one of them")
        return self

    @property
    def review_target(self) -> ReviewTarget | None:
        """Name and value of the target, None where none is given."""
        if self.review_rate is not None:
            return "review_rate", self.review_rate
        return None if self.accept_error is None else ("accept_error", self.accept_error)
