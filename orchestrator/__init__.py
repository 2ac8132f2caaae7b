"""Batch cluster jobs for chest X-ray pneumonia classification: train, tune, score, schedule."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.data.predictions import read_predictions

__version__ = "0.1.0"
__all__ = ["__version__", "read_predictions"]


def __getattr__(name: str) -> Any:
    """Imports what is public at its first use: the package itself must load at once."""
    if name == "read_predictions":
        from orchestrator.data.predictions import read_predictions

        return read_predictions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
