"""By which validation figure an epoch or a configuration is chosen.

A configuration is never chosen by the focal loss: its scale moves with alpha and gamma. The best
epoch of one training may be, as in the paper.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from sklearn.metrics import average_precision_score, log_loss

from orchestrator.evaluation.calibration import fit_calibration

Array = npt.NDArray[Any]

# What a search may choose by -> its name in the history of a training, and which way is better.
OBJECTIVES = {
    "auroc": ("val_auroc", "max"),
    "auprc": ("val_auprc", "max"),
    # After calibration: alpha and gamma shift the probabilities themselves.
    "log_loss": ("val_calibrated_log_loss", "min"),
}
# What one training may choose its best epoch by.
TRAINING_OBJECTIVES = OBJECTIVES | {"val_loss": ("val_loss", "min")}
_CLOSEST = 1e-7  # to 0 and 1, which float32 reaches: a logit must be finite


def higher_is_better(objective: str) -> bool:
    """Returns which way an objective goes."""
    return OBJECTIVES[objective][1] == "max"


def average_precision(labels: Array, probabilities: Array) -> float:
    """Returns AUPRC of labels int [n] and probabilities float [n]."""
    return float(average_precision_score(labels, probabilities))


def calibrated_log_loss(labels: Array, probabilities: Array) -> float:
    """Returns the log loss after the calibration fitted on these very rows.

    Args:
        labels: int [n], both classes present.
        probabilities: float [n], 0..1, before calibration.
    """
    logits = logit(np.clip(np.asarray(probabilities, np.float64), _CLOSEST, 1 - _CLOSEST))
    calibrated = fit_calibration(logits, labels).apply(logits)
    return float(log_loss(labels, calibrated.astype(np.float64), labels=[0, 1]))
