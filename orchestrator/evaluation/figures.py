"""The figures that a bundle keeps: its calibration, its threshold, metrics with their intervals.

Fitting, choosing and measuring them is in `calibration.py` and `metrics.py`. NumPy and SciPy are
imported where a calibration is applied: what a bundle says of itself is read without them.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ABOVE_ALL = 1 + 2**-23  # the float32 after 1, a threshold that calls no image
# A stored bundle may come from elsewhere.
_STORED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STORED)
class Calibration:
    """probability = sigmoid(slope * logit + intercept), slope > 0."""

    slope: Annotated[float, Field(gt=0)] = 1.0
    intercept: float = 0.0

    def apply(self, logits: "npt.ArrayLike") -> "npt.NDArray[np.float32]":
        """Returns calibrated probabilities of PNEUMONIA.

        Args:
            logits: float [N], the network's outputs before the sigmoid.

        Returns:
            float32 [N], 0..1, in the order of the logits.
        """
        import numpy as np
        from scipy.special import expit

        wide = np.asarray(logits, np.float64)
        probabilities: npt.NDArray[np.float64] = expit(self.slope * wide + self.intercept)
        return probabilities.astype(np.float32)


@dataclass(frozen=True, config=_STORED)
class Threshold:
    """PNEUMONIA is called where probability >= value; `rule` says how the value was chosen.

    The probability is the calibrated one.
    """

    value: Annotated[float, Field(ge=0, le=_ABOVE_ALL)]
    rule: str


@dataclass(frozen=True, config=_STORED)
class Interval:
    """A figure with the bounds of its 95% interval; None where undefined, `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns value, low, high, and note where there is one."""
        out: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        return out if self.note is None else {**out, "note": self.note}
