"""Threshold rules: by what the operating point is chosen, as a user may write it.

`evaluation.calibration` applies them.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from orchestrator.config.fields import MODEL, SCORING, flag

SHIFTED = "-shifted"  # ends a rule that altered copies of the validation images count for
COHORTS = "-cohorts"  # ends a rule that has to hold in each cohort of the validation images
_NUMBER = r"(?:0|1|0?\.\d+|1\.0+|0\.\d+)"
_RULE = (
    rf"(?:youden|youden-smoothed|accuracy|f1|(?:sensitivity|specificity)@{_NUMBER})"
    rf"(?:{SHIFTED}|{COHORTS})?"
    rf"|{_NUMBER}"
)


def _check_rule(value: Any, *, also: str = ", each also with -shifted or -cohorts") -> Any:
    """Accepts a rule by name or a number as text, as YAML gives numbers."""
    text = str(value)
    matched = re.fullmatch(_RULE, text)
    if matched is None:
        raise ValueError(
            "expected youden, youden-smoothed, accuracy, f1, sensitivity@0.95 or specificity@0.9 "
            f"(any floor from 0 to 1){also}, or a number from 0 to 1"
        )
    return text


def _check_plain_rule(value: Any) -> Any:
    """Accepts a rule that needs neither altered copies of the images nor cohorts of them."""
    text = str(value)
    plain = text.removesuffix(SHIFTED).removesuffix(COHORTS)
    if plain != text:
        raise ValueError(f"altered copies and cohorts count in training alone; give {plain}")
    return _check_rule(text, also="")


_RULE_HELP = (
    "Threshold rule: youden, youden-smoothed, accuracy, f1, sensitivity@0.95, specificity@0.9, "
    "or a number"
)
ThresholdRule = Annotated[
    str,
    BeforeValidator(_check_rule),
    flag(
        f"{_RULE_HELP}. youden-shifted counts altered images too, youden-cohorts the worst site.",
        MODEL,
        metavar="<rule>",
    ),
]
PlainThresholdRule = Annotated[
    str,
    BeforeValidator(_check_plain_rule),
    flag(f"{_RULE_HELP}.", MODEL, metavar="<rule>"),
]


def _refuse_rule(value: Any) -> Any:
    """Refuses a rule where a number alone makes sense, and says what takes one."""
    if isinstance(value, str) and re.match("[a-z]", value):
        raise ValueError(
            "expected a number from 0 to 1; a rule needs labelled images: `orchestrator "
            f"recalibrate BUNDLE LABELLED --threshold {value}` makes a bundle with that threshold"
        )
    return value


GivenThreshold = Annotated[
    Annotated[float, Field(ge=0, le=1)] | None,
    BeforeValidator(_refuse_rule),
    flag(
        "Probability from which on PNEUMONIA is called, in place of the model's own threshold.",
        SCORING,
        default="the model's own",
    ),
]
