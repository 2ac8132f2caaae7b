"""The intended-use gate of scoring: which images are unlike those that a model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.scope import IN_SCOPE, SCOPE_CODES, ScopeReference
from orchestrator.evaluation.scope_images import ScopeImages, make_thumbnails

Marks = list[str] | None


@dataclass(frozen=True)
class Seen:
    """What the gate found in a batch of N images.

    Attributes:
        marks: codes of `SCOPE_CODES` by which any model would not have the image, in their order;
            None where no model says what it is for.
        figures: float32 [N, F], the values of `FIGURES` by the only model; None where there are
            several, or it has no reference.
    """

    marks: list[Marks]
    figures: npt.NDArray[np.float32] | None


def look_at(
    scopes: Sequence[ScopeReference | None],
    rows: Sequence[dict[str, Any]],
    images: Any,
    outputs: Sequence[Any],
) -> Seen:
    """Returns what the gate finds in a batch of images.

    Args:
        scopes: what each model says of its training images; None where it does not.
        rows: one a image, with its size in px, and what its header says.
        images: uint8 [N, S, S].
        outputs: of each model, float32 [N, 1 + D], the logit and then the pooled features.
    """
    if not any(scopes):
        return Seen([None] * len(rows), None)
    shown = ScopeImages(
        make_thumbnails(images),
        np.array([row["width_px"] for row in rows]),
        np.array([row["height_px"] for row in rows]),
    )
    found: list[set[str]] = [set() for _ in rows]
    figures = None
    for scope, output in zip(scopes, outputs, strict=True):
        if scope is not None:
            seen = scope.describe(shown, output[:, 1:])
            figures = np.stack(list(seen.values()), axis=1).astype(np.float32)
            for codes, more in zip(found, scope.mark(seen, rows), strict=True):
                codes.update(more)
    marks: list[Marks] = [[code for code in SCOPE_CODES if code in codes] for codes in found]
    return Seen(marks, figures if len(scopes) == 1 else None)


def describe_marks(marks: Marks) -> str | None:
    """Returns the value of the column `scope`."""
    return None if marks is None else ",".join(marks) or IN_SCOPE


def name_device(row: dict[str, Any]) -> str | None:
    """Returns maker and model of the device that made an image, None where no header says."""
    said = (row.get("manufacturer"), row.get("device_model"))
    return " ".join(filter(None, said)) or None


def reject_marked(marks: Sequence[str]) -> dict[str, str]:
    """Returns code and message of a rejected row, by the first of an image's codes."""
    found = " ".join(SCOPE_CODES[code] for code in marks)
    todo = "Look at the image; with --out-of-scope mark it is scored all the same."
    return {"code": marks[0], "message": f"{found} {todo}"}
