"""The rule by which a prediction is accepted or left to a person, as a bundle keeps it.

Choosing and applying it is in `selective.py`. Read without NumPy, as all that a bundle says.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from orchestrator.config.review import ReviewTarget

ACCEPT, REVIEW = "accept", "review"
CONFIDENCE = 0.95  # of a bound on errors
# Why an image is left to a person: one word, or several joined by commas.
REVIEW_REASONS: dict[str, str] = {
    "near_threshold": "the calibrated log-odds are nearer to the threshold than the rule allows",
    "models_disagree": "the models of the ensemble call it differently",
    "out_of_scope": "the image is unlike those that the model was trained on",
    "no_bound": "the rule's target could not be shown on so few patients: nothing is accepted",
}
_STORED = ConfigDict(extra="forbid", allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=_STORED)
class ReviewPoint:
    """What accepting from one margin on gave on the images that the rule was chosen on.

    Args:
        margin: log-odds, as `selective.find_margins` gives them.
        accepted: images of that margin or a larger one.
        wrong: accepted images whose call is not their label.
        patients: patients with an accepted image.
        failed: those of them with a wrong one.
    """

    margin: Annotated[float, Field(ge=0)]
    accepted: _Count
    wrong: _Count
    patients: _Count
    failed: _Count


@dataclass(frozen=True, config=_STORED)
class ReviewRule:
    """An image is accepted where its margin is at least that of the rule.

    Args:
        target: what the margin was chosen for.
        margin: log-odds; None where the target cannot be shown, so that nothing is accepted.
        num_images: images that it was chosen on.
        num_patients: patients of these.
        curve: the margins it was chosen from, the largest first, for choosing by another target.
    """

    target: ReviewTarget
    margin: float | None
    num_images: _Count
    num_patients: _Count
    curve: tuple[ReviewPoint, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the rule in JSON form, without the curve."""
        return {
            "target": list(self.target),
            "margin": self.margin,
            "num_images": self.num_images,
            "num_patients": self.num_patients,
        }


def count_patients(share: float) -> int:
    """Returns how many patients without a wrong image bound the share of those with one.

    Args:
        share: the bound, between 0 and 1.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def describe_review(rule: ReviewRule | Mapping[str, Any]) -> str:
    """Returns what a rule promises, in a sentence.

    Args:
        rule: the rule, or its `as_dict`.
    """
    stored = rule.as_dict() if isinstance(rule, ReviewRule) else rule
    name, value = stored["target"]
    chosen = f"{stored['num_images']:,} images of {stored['num_patients']:,} patients"
    if name == "review_rate":
        return (
            f"Of new images like the {chosen} it was chosen on, on average at most {value:.1%} are "
            "left to a person (split conformal prediction)."
        )
    if stored["margin"] is None:
        return (
            f"Nothing is accepted: on {chosen} no rule could be shown to keep the share of "
            f"patients with a wrong accepted image at or below {value:.1%}. That takes at least "
            f"{count_patients(value):,} patients with accepted images and none of them wrong."
        )
    return (
        f"With 95% confidence, of new patients like those of the {chosen} it was chosen on, at "
        f"most {value:.1%} of those with an accepted image have a wrong one among them "
        "(fixed-sequence testing with Clopper and Pearson’s bound)."
    )
