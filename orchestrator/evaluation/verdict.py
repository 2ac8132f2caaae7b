"""Whether a candidate may take the place of the live model, by a rule that is stated beforehand.

The rule looks at four differences, candidate minus live, and at nothing else that is measured:

- `promote`: AUROC, sensitivity and specificity are each not worse by the margin, and AUROC or
  balanced accuracy is better by more than `superiority`. "Not worse" is a 95% interval above
  -margin. All three must hold, so none needs a correction (Berger). "Better" is said of the one or
  of the other, so each has an interval of 97.5% (Bonferroni). To ask both of one difference needs
  no correction either: what is better is not worse. A candidate that is no better than the live
  model in AUROC and in balanced accuracy is promoted with a chance of 2.5% at most.
- `keep`: one of the three is worse (its interval lies below 0), or neither AUROC nor balanced
  accuracy can be better by the margin.
- `undecided`: all else, and always where the images cannot judge. A candidate that would be
  promoted and serves a group of patients worse is left to a person, which makes promotions rarer.

Reference:
    Berger, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24, 1982.
    Committee for Proprietary Medicinal Products, Points to consider on switching between
    superiority and non-inferiority, CPMP/EWP/482/99, 2000.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.evaluation.wording import format_difference, lower_title

Word = Literal["promote", "keep", "undecided"]
GUARDED = ("auroc", "sensitivity", "specificity")
DECIDING = ("auroc", "balanced_accuracy")
# Of the report that a verdict stands in
PROOF_KIND, PROOF_SCHEMA_VERSION = "models-compare", 1
ENDPOINTS = (*GUARDED, "balanced_accuracy")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Endpoint(_Form):
    """A difference on which the verdict rests, candidate minus live.

    Attributes:
        value: the difference.
        low: of its 95% interval.
        high: likewise.
        gain_low: low end of its 97.5% interval.
    """

    value: float
    low: float
    high: float
    gain_low: float


class Grounds(_Form):
    """All that a verdict rests on.

    Attributes:
        is_same: both are one bundle.
        margin: by less than which a figure may be worse.
        superiority: by more than which AUROC or balanced accuracy must be better.
        endpoints: by `ENDPOINTS`; empty where the images cannot judge.
        unusable: why the images cannot judge, a sentence each.
        worse_groups: groups of patients that the candidate serves worse, in words.
    """

    is_same: bool
    margin: Annotated[float, Field(gt=0)]
    superiority: Annotated[float, Field(ge=0)]
    endpoints: dict[str, Endpoint]
    unusable: list[str]
    worse_groups: list[str]

    @model_validator(mode="after")
    def _has_all_endpoints(self) -> Self:
        if set(self.endpoints) != set(ENDPOINTS) and not (self.is_same or self.unusable):
            raise ValueError(f"expected the endpoints {', '.join(ENDPOINTS)}")
        return self


class PromotionVerdict(_Form):
    """What is to be done, and why.

    Attributes:
        word: promote, keep or undecided.
        reasons: a sentence each, without a full stop.
    """

    word: Word
    reasons: list[str]


def decide(grounds: Grounds) -> PromotionVerdict:
    """Returns the verdict that its grounds give."""
    if grounds.is_same:
        return PromotionVerdict(word="keep", reasons=["both are the same bundle"])
    if grounds.unusable:
        return PromotionVerdict(word="undecided", reasons=list(grounds.unusable))
    ends, margin = grounds.endpoints, grounds.margin
    unproven = [name for name in GUARDED if ends[name].low <= -margin]
    better = [name for name in DECIDING if ends[name].gain_low > grounds.superiority]
    if better and not unproven:
        if grounds.worse_groups:
            return PromotionVerdict(
                word="undecided",
                reasons=[
                    "better in all, and it serves groups of patients worse: "
                    + "; ".join(grounds.worse_groups)
                ],
            )
        return PromotionVerdict(
            word="promote",
            reasons=[_say(better, ends, "better"), f"no figure is worse by {margin:g} or more"],
        )
    if worse := [name for name in GUARDED if ends[name].high < 0]:
        return PromotionVerdict(word="keep", reasons=[_say(worse, ends, "worse")])
    if all(ends[name].high < margin for name in DECIDING):
        reason = f"neither AUROC nor balanced accuracy is better by {margin:g} or more"
        return PromotionVerdict(word="keep", reasons=[reason])
    reasons = [_say(unproven, ends, f"could be worse by {margin:g} or more")] if unproven else []
    if not better:
        by = f" by more than {grounds.superiority:g}" if grounds.superiority else ""
        reasons.append(_say(DECIDING, ends, f"not shown to be better{by}"))
    return PromotionVerdict(word="undecided", reasons=reasons)


def _say(names: Sequence[str], ends: Mapping[str, Endpoint], what: str) -> str:
    shown = [f"{lower_title(name)} {format_difference(ends[name].value)}" for name in names]
    return f"{what}: {', '.join(shown)}"
