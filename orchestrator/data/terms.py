"""The terms on which a run scores: where they are equal, an earlier run's predictions hold."""

from collections.abc import Sequence
from typing import Any

from orchestrator.config.specs import ScoreSpec
from orchestrator.data.decode.images import DECODER_VERSION


def scoring_terms(spec: ScoreSpec, models: Sequence[str]) -> dict[str, Any]:
    """Returns what decides a prediction, as JSON gives it back.

    Args:
        spec: with the engine that scores.
        models: SHA-256 of each bundle.
    """
    return {
        "models": list(models),
        "engine": spec.engine,
        "precision": spec.precision,
        "decoder": DECODER_VERSION,
        # Runs of earlier versions have no such key, and none was given there.
        **({} if spec.threshold is None else {"threshold": spec.threshold}),
        **({} if spec.out_of_scope == "mark" else {"out_of_scope": spec.out_of_scope}),
        **({} if spec.review_target is None else {"review": list(spec.review_target)}),
    }
