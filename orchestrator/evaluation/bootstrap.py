"""Clustered bootstrap: which rows belong together, how often each is drawn, metrics under weights.

Rows are sorted by probability once; a resample is a vector of weights on the sorted rows, so that
no resample sorts again. Checks of the input, undefined figures and intervals are in `metrics.py`,
differences between models in `paired.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpecError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Elements of one [resamples, rows] block, 1 MB of float64: the few blocks in work at a time fit a
# core's cache. With blocks of 8 MB, 2,000 rows take three times as long.
BLOCK_ELEMENTS = 1 << 17


@dataclass(frozen=True)
class Scored:
    """Labels and probabilities of N rows in G clusters, prepared for reweighting by cluster."""

    sums: FloatArray  # [G, 6]: tn, fp, fn, tp, log loss, squared error summed by cluster
    positive: FloatArray  # [N] by falling probability
    clusters: IntArray  # [N] by falling probability
    ends: IntArray  # [T] last row of each distinct probability


def cluster_rows(groups: Sequence[Any] | npt.NDArray[Any] | None, num_rows: int) -> IntArray:
    """Numbers the clusters that the bootstrap draws whole.

    A row whose group is unknown is a cluster of its own.

    Args:
        groups: [num_rows] patient ids; None, NaN or "" is unknown. None: no patient is known.
        num_rows: number of rows.

    Returns:
        int64 [num_rows], cluster of each row, 0..num_clusters-1 without gaps.
    """
    if groups is None:
        return np.arange(num_rows)
    seen: dict[Any, int] = {}
    clusters = np.empty(num_rows, np.int64)
    for row, group in enumerate(groups):
        key = group if is_known(group) else (row,)  # a tuple never equals a patient id
        clusters[row] = seen.setdefault(key, len(seen))
    return clusters


def is_known(group: object) -> bool:
    """Returns whether a patient id is one: not None, not NaN, not empty.

    Args:
        group: one entry of a column of patient ids.
    """
    return group is not None and group != "" and group == group  # NaN differs from itself


def draw_counts(
    num_clusters: int, num_resamples: int, block_rows: int, seed: int
) -> Iterator[FloatArray]:
    """Yields how often each cluster is drawn in each resample, block by block.

    The draws do not depend on the size of a block.

    Args:
        num_clusters: clusters to draw from, as many as there are, with replacement.
        num_resamples: resamples in all.
        block_rows: rows of the data, which bound how many resamples a block may hold.
        seed: seed of the draws.

    Yields:
        float64 [block, num_clusters], each row summing to num_clusters.
    """
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // max(1, block_rows))
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(0, num_clusters, size=(size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=size * num_clusters)
        yield counts.reshape(size, num_clusters).astype(np.float64)


def rank_areas(
    weights: FloatArray, positive: FloatArray, ends: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Returns AUROC and AUPRC of many weightings of rows already sorted by probability.

    AUROC counts a tie as half. AUPRC is average precision, without interpolation.

    Args:
        weights: float64 [B, N], weight of each row, rows by falling probability.
        positive: float64 [N], 1 for PNEUMONIA and 0 for NORMAL, in the same order.
        ends: int64 [T], index of the last row of each distinct probability.

    Returns:
        AUROC and AUPRC, float64 [B] each; NaN where a weighting has one class only.

    Reference:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
        Boyd, Eng and Page, Area under the precision-recall curve, ECML PKDD 2013.
    """
    called = np.cumsum(weights, axis=1)[:, ends]
    true = np.cumsum(weights * positive, axis=1)[:, ends]
    false = called - true
    rise = np.diff(true, axis=1, prepend=0.0)
    run = np.diff(false, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = np.sum(run * (true - rise / 2), axis=1) / (true[:, -1] * false[:, -1])
        precision = np.where(called > 0, true / called, 0.0)
        auprc = np.sum(rise * precision, axis=1) / true[:, -1]
    auprc[false[:, -1] == 0] = np.nan  # one class only: 1 by definition, and says nothing
    return auroc, auprc


def prepare_rows(
    label: npt.NDArray[np.int8],
    probability: npt.NDArray[np.floating[Any]],
    threshold: float,
    clusters: IntArray,
) -> Scored:
    """Sorts the rows once, and sums by cluster what needs no order.

    Args:
        label: int8 [N], 0 or 1.
        probability: float32 or float64 [N], 0..1; log loss clips at the epsilon of its dtype.
        threshold: PNEUMONIA is called where probability >= threshold.
        clusters: int64 [N], from `cluster_rows`.

    Returns:
        What `reweigh` takes.
    """
    wide = probability.astype(np.float64)
    epsilon = float(np.finfo(probability.dtype).eps)
    positive = label == 1
    called = wide >= threshold
    of_label = np.where(positive, wide, 1 - wide)
    columns: tuple[npt.NDArray[Any], ...] = (
        ~positive & ~called,
        ~positive & called,
        positive & ~called,
        positive & called,
        -np.log(np.clip(of_label, epsilon, 1 - epsilon)),
        (1 - of_label) ** 2,
    )
    sums = np.stack([np.bincount(clusters, column) for column in columns], axis=1, dtype=np.float64)
    order = np.argsort(-wide, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(wide[order]) != 0, True))
    return Scored(sums, positive[order].astype(np.float64), clusters[order], ends)


def reweigh(scored: Scored, counts: FloatArray) -> dict[str, FloatArray]:
    """Returns the metrics under each of B weightings of the clusters.

    Args:
        scored: rows from `prepare_rows`, in G clusters.
        counts: float64 [B, G], how often each cluster counts.

    Returns:
        float64 [B] by metric name; NaN where undefined.
    """
    tn, fp, fn, tp, log_loss, squared = (counts @ scored.sums).T
    total = tn + fp + fn + tp
    auroc, auprc = rank_areas(counts[:, scored.clusters], scored.positive, scored.ends)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, ppv = tp / (tp + fn), tp / (tp + fp)
        return {
            "accuracy": (tp + tn) / total,
            "precision": ppv,
            "recall": sensitivity,
            "sensitivity": sensitivity,
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "ppv": ppv,
            "npv": tn / (tn + fn),
            "auroc": auroc,
            "auprc": auprc,
            "log_loss": log_loss / total,
            "brier": squared / total,
        }


def resample(
    models: Sequence[Scored], num_resamples: int, seed: int
) -> list[dict[str, FloatArray]]:
    """Returns the metrics of several models on the same resamples of the same clusters.

    Args:
        models: prepared from the same rows and clusters.
        num_resamples: at least 1.
        seed: seed of the draws.

    Returns:
        Of each model float64 [num_resamples] by metric name; NaN where undefined.

    Raises:
        SpecError: no resample is asked for.
    """
    if num_resamples < 1:
        raise SpecError(f"received {num_resamples} resamples; expected at least 1, usually 1000")
    num_clusters, num_rows = len(models[0].sums), models[0].positive.size
    blocks: list[list[dict[str, FloatArray]]] = [[] for _ in models]
    for counts in draw_counts(num_clusters, num_resamples, num_rows, seed):
        for scored, found in zip(models, blocks, strict=True):
            found.append(reweigh(scored, counts))
    return [
        {name: np.concatenate([block[name] for block in found]) for name in found[0]}
        for found in blocks
    ]


def percentile_bounds(replicates: FloatArray, level: float) -> tuple[float, float] | None:
    """Returns the percentile interval over the resamples in which the figure is defined.

    Args:
        replicates: float64 [num_resamples], NaN where undefined.
        level: coverage, 0..1.

    Returns:
        Low and high bound; None where no resample defines the figure.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    defined = replicates[~np.isnan(replicates)]
    if defined.size == 0:
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
