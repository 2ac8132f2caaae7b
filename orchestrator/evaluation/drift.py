"""Whether a run's images, and what a model says of them, are spread as those of its training were.

A bundle keeps how each figure of the held-out images was spread over bins. The images of a run are
counted into the same bins, shard by shard, so that the memory it takes does not grow with a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported as they are used
from pydantic import BaseModel, ConfigDict

Counts = npt.NDArray[np.int64]

# Both must hold. The index says how large a change is, whatever the number of images; below 0.1 it
# is usually called small, from 0.25 on large. The test says that it is no chance.
LARGE_INDEX = 0.25
LEVEL = 0.01  # of the tests, after correction for their number
# Images that the network was trained on lie nearer to themselves than held-out ones do.
_NEARER_IS_WELL = frozenset({"distance"})
_SHARES = np.arange(1, 10) / 10
_GROUP_IMAGES = 50  # a root or device with fewer is not compared by itself


class Spread(BaseModel):
    """How a figure was spread: `counts` images in the bins that `edges` part.

    Attributes:
        edges: rising, [B - 1]; an edge belongs to the bin above it.
        counts: images, [B].
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Returns how values are spread over their tenths.

        Where many are equal, each value that is a tenth has a bin of its own.
        """
        known = np.asarray(values, np.float32).astype(np.float64)
        edges = np.unique(np.quantile(known, _SHARES).astype(np.float32))
        if len(edges) < len(_SHARES):
            edges = np.unique(np.concatenate([edges, np.nextafter(edges, np.float32(np.inf))]))
        spread = cls(edges=[float(edge) for edge in edges], counts=[])
        return spread.model_copy(update={"counts": spread.count(known).tolist()})

    def count(self, values: npt.ArrayLike) -> Counts:
        """Returns how many values lie in each bin, int64 [B]."""
        places = np.searchsorted(self.edges, np.asarray(values, np.float64), side="right")
        return np.bincount(places, minlength=len(self.edges) + 1)


@dataclass
class DriftCounts:
    """Counts a run's figures, shard by shard, in all and by group.

    Attributes:
        spreads: those of the training, by figure.
        groups: (kind, name) -> figure -> images by bin.
    """

    spreads: Mapping[str, Spread]
    groups: dict[tuple[str, str], dict[str, Counts]] = field(default_factory=dict)

    def add(self, group: tuple[str, str], figures: Mapping[str, npt.ArrayLike]) -> None:
        """Adds images of a group.

        Args:
            group: kind and name, such as ("root", "0").
            figures: values of these images, by names of `spreads`; others are left out.
        """
        counts = self.groups.setdefault(group, {})
        for name, values in figures.items():
            if name in self.spreads:
                counts[name] = counts.get(name, 0) + self.spreads[name].count(values)

    def add_shares(self, group: tuple[str, str], name: str, counts: Sequence[int]) -> None:
        """Adds images of a group that are counted already, by bins of the training's spread."""
        known = self.groups.setdefault(group, {})
        known[name] = known.get(name, 0) + np.asarray(counts, np.int64)


def compare(counts: DriftCounts, others: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns what a report says of drift, JSON-able.

    Args:
        counts: of the run.
        others: the training's counts of what `add_shares` was given, by name.

    Returns:
        drifted: whether any figure of any group did.
        groups: the run as a whole first, then roots and devices of at least 50 images; each with
            kind, name, images and figures. A figure has a name, index (population stability index),
            p (adjusted), below and above (shares of the images in the training's lowest and highest
            bin, that of the training beside each) and drifted.
    """
    reference = {name: np.array(of.counts) for name, of in counts.spreads.items()}
    reference |= {name: np.array(of) for name, of in others.items()}
    groups: list[dict[str, Any]] = [
        {
            "kind": kind,
            "name": name,
            "images": max((int(of.sum()) for of in figures.values()), default=0),
            "figures": [_figure(after, reference[of], of) for of, after in figures.items()],
        }
        for (kind, name), figures in sorted(counts.groups.items())
    ]
    groups = [g for g in groups if g["kind"] == "all" or g["images"] >= _GROUP_IMAGES]
    tested = [figure for group in groups for figure in group["figures"]]
    for figure, p in zip(tested, holm([figure["p"] for figure in tested]), strict=True):
        figure["p"] = p
        nearer = figure["name"] in _NEARER_IS_WELL and figure["above"][1] <= figure["above"][0]
        figure["drifted"] = bool(p < LEVEL and figure["index"] >= LARGE_INDEX and not nearer)
    return {"drifted": any(figure["drifted"] for figure in tested), "groups": groups}


def stability_index(before: Counts, after: Counts) -> float:
    """Returns the population stability index of two counts over the same bins, >= 0.

    The sum over bins of (a - b) ln(a / b), where a and b are the shares; half an image is added to
    each bin, since a share may be 0.

    Reference:
        Lewis, An Introduction to Credit Scoring, 1994; it is the symmetrised Kullback-Leibler
        divergence.
    """
    shares = [(of + 0.5) / (of.sum() + 0.5 * len(of)) for of in (before, after)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def two_sample_p(before: Counts, after: Counts) -> float:
    """Returns the chance that two samples of one population differ as much over their bins.

    By Pearson's chi-squared test of homogeneity; 1 where one sample is empty.

    Args:
        before: counts by bin, [B].
        after: likewise.
    """
    table = np.stack([before, after]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    totals = table.sum(axis=1, keepdims=True)
    if table.shape[1] < 2 or not totals.all():
        return 1.0
    expected = totals * table.sum(axis=0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return float(scipy.special.chdtrc(table.shape[1] - 1, statistic))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for their number, in their order.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6, 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _figure(after: Counts, before: Counts, name: str) -> dict[str, Any]:
    shares = {
        side: [float(of[place] / max(of.sum(), 1)) for of in (before, after)]
        for side, place in (("below", 0), ("above", -1))
    }
    index, p = stability_index(before, after), two_sample_p(before, after)
    return {"name": name, "index": index, "p": p, **shares}
