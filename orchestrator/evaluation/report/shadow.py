"""The part of a scoring report on a shadow: where its calls differ from those that were released.

Per image it keeps a label, two probabilities and a number for the patient, 17 bytes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.agreement import rate_difference
from orchestrator.evaluation.bootstrap import (
    cluster_rows,
    percentile_bounds,
    prepare_rows,
    resample,
    reweigh,
)
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.figures import Interval
from orchestrator.evaluation.metrics import LEVEL, UNDEFINED, bounded
from orchestrator.evaluation.tally import UNLABELLED, patient_numbers
from orchestrator.evaluation.wording import (
    METRIC_TITLES,
    NO_FIGURE,
    describe_rule,
    excludes_zero,
    format_difference,
    format_difference_range,
    name_shadow,
)

MAX_IMAGES_SHOWN = 50
# By the live model's call and the shadow's, 0 NORMAL and 1 PNEUMONIA.
_CALLS = {"both_normal": (0, 0), "shadow_only": (0, 1), "live_only": (1, 0), "both": (1, 1)}
_RESAMPLES = 1000


@dataclass
class ShadowCounts:
    """What the report needs of the scored rows, gathered shard by shard.

    Args:
        threshold: of the live model.
        shadow_threshold: of the shadow.
    """

    threshold: float
    shadow_threshold: float
    not_scored: Counter[str] = field(default_factory=Counter)  # by reason
    images: list[dict[str, Any]] = field(default_factory=list)  # called differently, some
    _columns: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)

    def add(self, scored: pa.Table, fault: str) -> None:
        """Adds the rows of a shard that the live model has scored.

        Args:
            scored: columns of `schema.PREDICTIONS`, shadow_probability and shadow_fault.
            fault: why rows without a reason of their own have no probability of the shadow.
        """
        missing = scored.filter(pc.is_null(scored["shadow_probability"]))
        self.not_scored.update(reason or fault for reason in missing["shadow_fault"].to_pylist())
        both = scored.filter(pc.is_valid(scored["shadow_probability"]))
        labels = both["label"].fill_null(UNLABELLED).to_numpy().astype(np.int8)
        live, shadow = (both[name].to_numpy() for name in ("probability", "shadow_probability"))
        patients = patient_numbers(both["patient_id"])
        self._columns.append((labels, live, shadow, patients))
        differ = call_labels(live, self.threshold) != call_labels(shadow, self.shadow_threshold)
        chosen = both.filter(pa.array(differ)).select(
            ["row", "path", "label", "probability", "shadow_probability"]
        )
        new = [row | {"apart": _apart(row)} for row in chosen.to_pylist()]
        merged = sorted([*self.images, *new], key=lambda row: -row["apart"])
        self.images = merged[:MAX_IMAGES_SHOWN]

    def as_report(self, seed: int) -> dict[str, Any]:
        """Returns what report.json says of the images, JSON-able.

        Args:
            seed: of the resamples.

        Returns:
            num_images (scored by both), not_scored (images by reason), calls (images by whose call
            is PNEUMONIA), positive_rate (`live`, `shadow`, `difference` with its interval; None
            without images), images (the most different of those called differently, with `label`
            None where unknown), num_labelled, and metrics (by name `live`, `shadow` and
            `difference`, the shadow's minus the live model's; empty without labels).
        """
        none = tuple(np.empty(0, kind) for kind in (np.int8, np.float32, np.float32, np.int64))
        labels, live, shadow, patients = map(np.concatenate, zip(none, *self._columns, strict=True))
        calls = call_labels(live, self.threshold), call_labels(shadow, self.shadow_threshold)
        counts = {
            name: int(np.sum((calls[0] == one) & (calls[1] == other)))
            for name, (one, other) in _CALLS.items()
        }
        groups = patients.astype(object)
        groups[patients == 0] = None
        rate: dict[str, Any] | None = None
        if labels.size:
            clusters = cluster_rows(groups, labels.size)
            difference = rate_difference(*calls, clusters, num_resamples=_RESAMPLES, seed=seed)
            shares = {name: float(of.mean()) for name, of in zip(_MODELS, calls, strict=True)}
            rate = {**shares, "difference": difference.as_dict()}
        known = labels != UNLABELLED
        return {
            "num_images": int(labels.size),
            "not_scored": dict(self.not_scored.most_common()),
            "calls": counts,
            "positive_rate": rate,
            "images": self.images,
            "num_labelled": int(known.sum()),
            "metrics": self._compare(labels[known], live[known], shadow[known], groups[known], seed)
            if known.any()
            else {},
        }

    def _compare(
        self,
        labels: npt.NDArray[np.int8],
        live: npt.NDArray[np.float32],
        shadow: npt.NDArray[np.float32],
        groups: npt.NDArray[np.object_],
        seed: int,
    ) -> dict[str, Any]:
        """Each metric of both models and its difference, on the same resamples of patients."""
        clusters = cluster_rows(groups, labels.size)
        both = [
            prepare_rows(labels, probabilities, threshold, clusters)
            for probabilities, threshold in (
                (live, self.threshold),
                (shadow, self.shadow_threshold),
            )
        ]
        points = [reweigh(rows, np.ones((1, len(rows.sums)))) for rows in both]
        drawn = resample(both, _RESAMPLES, seed)
        found: dict[str, Any] = {}
        for name in METRIC_TITLES:
            values = [None if np.isnan(of[name][0]) else float(of[name][0]) for of in points]
            difference = Interval(None, note=UNDEFINED.get(name))
            if None not in values:
                bounds = percentile_bounds(drawn[1][name] - drawn[0][name], LEVEL)
                difference = bounded(float(points[1][name][0] - points[0][name][0]), bounds)
            each = dict(zip(_MODELS, values, strict=True))
            found[name] = {**each, "difference": difference.as_dict()}
        return found


_MODELS = ("live", "shadow")


def view_shadow(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what `shadow.html.j2` shows beside the report's own figures; None without a shadow.

    Args:
        report: as in report.json.
    """
    shadow = report.get("shadow")
    if shadow is None:
        return None
    rate, calls = shadow["positive_rate"], shadow["calls"]
    return {
        **shadow,
        "title": name_shadow(shadow),
        "differ": calls["shadow_only"] + calls["live_only"],
        "rule": shadow["threshold_rule"] and describe_rule(shadow["threshold_rule"]),
        "rate_change": format_difference(rate["difference"]["value"]) if rate else "",
        "rate_note": rate["difference"].get("note") if rate else None,
        "rate_range": format_difference_range(rate["difference"]) if rate else "",
        "rows": [
            {
                "title": METRIC_TITLES[name],
                "live": figures["live"],
                "shadow": figures["shadow"],
                "change": format_difference(figures["difference"]["value"]),
                "range": format_difference_range(figures["difference"]),
                "note": figures["difference"].get("note"),
                "is_apart": excludes_zero(figures["difference"]),
            }
            for name, figures in shadow["metrics"].items()
        ],
        "images": [
            {
                **image,
                "label": NO_FIGURE if image["label"] is None else CLASS_NAMES[image["label"]],
                "called": CLASS_NAMES[int(image["shadow_probability"] >= shadow["threshold"])],
            }
            for image in shadow["images"]
        ],
    }


def _apart(row: Mapping[str, Any]) -> float:
    return abs(float(row["shadow_probability"]) - float(row["probability"]))
