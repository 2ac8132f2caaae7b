"""The intended-use gate of scoring: which images are unlike those that a model was trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.evaluation.scope import (
    IN_SCOPE,
    SCOPE_CODES,
    ScopeImages,
    ScopeReference,
    make_thumbnails,
)

Marks = list[str] | None


def mark_images(
    scopes: Sequence[ScopeReference | None],
    rows: Sequence[dict[str, Any]],
    images: Any,
    outputs: Sequence[Any],
) -> list[Marks]:
    """Returns the codes of each image of a batch.

    Args:
        scopes: what each model says of its training images; None where it does not.
        rows: one a image, with its size in px.
        images: uint8 [N, S, S].
        outputs: of each model, float32 [N, 1 + D], the logit and then the pooled features.

    Returns:
        Codes of `SCOPE_CODES` by which any model would not have the image, in their order; None
        where no model says what it is for.
    """
    if not any(scopes):
        return [None] * len(rows)
    seen = ScopeImages(
        make_thumbnails(images),
        np.array([row["width_px"] for row in rows]),
        np.array([row["height_px"] for row in rows]),
    )
    found: list[set[str]] = [set() for _ in rows]
    for scope, output in zip(scopes, outputs, strict=True):
        if scope is not None:
            for codes, more in zip(found, scope.mark(seen, output[:, 1:], rows), strict=True):
                codes.update(more)
    return [[code for code in SCOPE_CODES if code in codes] for codes in found]


def describe_marks(marks: Marks) -> str | None:
    """Returns the value of the column `scope`."""
    return None if marks is None else ",".join(marks) or IN_SCOPE


def reject_marked(marks: Sequence[str]) -> dict[str, str]:
    """Returns code and message of a rejected row, by the first of an image's codes."""
    found = " ".join(SCOPE_CODES[code] for code in marks)
    todo = "Look at the image; with --out-of-scope mark it is scored all the same."
    return {"code": marks[0], "message": f"{found} {todo}"}
