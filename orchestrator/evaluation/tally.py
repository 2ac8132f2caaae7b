"""What a report needs of a run's tables, gathered shard by shard.

Per image it keeps a label, a probability and a number for the patient, 13 bytes, five more with a
review rule, and where it has a label one more for each dimension of `groups.py`; of file names only
the few that the page shows. So a report of millions of images does not need their tables in memory.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.groups import GroupCodes
from orchestrator.evaluation.review_rule import ACCEPT

UNLABELLED = -1
MAX_IMAGES_SHOWN = 10
MAX_REJECTED_SHOWN = 100  # rows in the page; the table in the run folder holds all

IMAGE_LISTS = ("uncertain", "missed", "alarms")


@dataclass
class Tally:
    """Counts, columns of numbers and the rows worth showing, of all shards added so far.

    Args:
        threshold: PNEUMONIA is called where probability >= threshold.
        groups: of the labelled images; none yet.
    """

    threshold: float
    groups: GroupCodes = field(default_factory=GroupCodes)
    num_rejected: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    grey_rules: Counter[str] = field(default_factory=Counter)
    decode_notes: Counter[str] = field(default_factory=Counter)
    rejected_rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by code
    images: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in IMAGE_LISTS}
    )
    image_counts: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)  # none without a review rule
    review_reasons: Counter[str] = field(default_factory=Counter)
    _labels: list[npt.NDArray[np.int8]] = field(default_factory=list)
    _probabilities: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _patients: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _margins: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _accepted: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, predictions: pa.Table, rejected: pa.Table) -> None:
        """Adds one shard's rows; shards come in order.

        Args:
            predictions: columns of `schema.PREDICTIONS`, and what `GroupCodes.add` takes besides.
            rejected: columns row, path, code and message of `schema.REJECTED`.
        """
        labels = predictions.column("label").fill_null(UNLABELLED).to_numpy().astype(np.int8)
        probabilities = predictions.column("probability").to_numpy().astype(np.float32)
        self._labels.append(labels)
        self._probabilities.append(probabilities)
        self._patients.append(patient_numbers(predictions.column("patient_id")))
        if (labels != UNLABELLED).any():
            self.groups.add(predictions.filter(pa.array(labels != UNLABELLED)))
        self._add_images(predictions.column("path"), labels, probabilities)
        # Null where the pixels came from an ingested data set of an earlier version
        self.grey_rules.update(predictions.column("grey_rule").drop_null().to_pylist())
        for notes in predictions.column("decode_notes").drop_null().to_pylist():
            self.decode_notes.update(notes.split(","))
        self._add_decisions(predictions)
        self.num_rejected += rejected.num_rows
        for row in rejected.select(["row", "path", "code", "message"]).to_pylist():
            self.codes[row["code"]] += 1
            rows = self.rejected_rows.setdefault(row["code"], [])
            if len(rows) < MAX_REJECTED_SHOWN:
                rows.append(row)

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """int8 [scored], `UNLABELLED` where there is none."""
        return np.concatenate([np.empty(0, np.int8), *self._labels])

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """float32 [scored], calibrated, of PNEUMONIA."""
        return np.concatenate([np.empty(0, np.float32), *self._probabilities])

    @property
    def patients(self) -> npt.NDArray[np.object_]:
        """object [labelled], a number for each patient, None where unknown; labelled rows only."""
        numbers = np.concatenate([np.empty(0, np.int64), *self._patients])
        chosen: npt.NDArray[np.object_] = numbers[self.labels != UNLABELLED].astype(object)
        chosen[chosen == 0] = None
        return chosen

    @property
    def margins(self) -> npt.NDArray[np.float64]:
        """float64 [scored], as the review rule gives them; empty without one."""
        return np.concatenate([np.empty(0, np.float64), *self._margins])

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """bool [scored], whether the review rule accepts; empty without one."""
        return np.concatenate([np.empty(0, np.bool_), *self._accepted])

    def _add_decisions(self, predictions: pa.Table) -> None:
        decisions = predictions.column("decision")
        if decisions.null_count:  # no rule
            return
        self.decisions.update(decisions.to_pylist())
        self._margins.append(predictions.column("margin").to_numpy())
        self._accepted.append(pc.equal(decisions, ACCEPT).to_numpy())
        for reasons in predictions.column("review_reason").drop_null().to_pylist():
            self.review_reasons.update(reasons.split(","))

    def _add_images(
        self,
        paths: pa.ChunkedArray,
        labels: npt.NDArray[np.int8],
        probabilities: npt.NDArray[np.float32],
    ) -> None:
        """Keeps the images nearest to the threshold, and those most wrong of either kind."""
        distance = probabilities.astype(np.float64) - self.threshold
        called = call_labels(probabilities, self.threshold)
        chosen: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {
            "uncertain": (np.arange(labels.size), np.abs(distance)),
            "missed": (np.flatnonzero((labels == 1) & (called == 0)), distance),
            "alarms": (np.flatnonzero((labels == 0) & (called == 1)), -distance),
        }
        for name, (rows, badness) in chosen.items():
            self.image_counts[name] += rows.size
            best = rows[np.argsort(badness[rows], kind="stable")][:MAX_IMAGES_SHOWN]
            new = [
                {
                    "path": paths[int(row)].as_py(),
                    "label": int(labels[row]),
                    "called": int(called[row]),
                    "probability": float(probabilities[row]),
                    "badness": float(badness[row]),
                }
                for row in best
            ]
            # Sorting is stable: of equals the earlier shard's come first.
            merged = sorted([*self.images[name], *new], key=lambda image: image["badness"])
            self.images[name] = merged[:MAX_IMAGES_SHOWN]


def patient_numbers(patients: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Returns a 64-bit hash of each patient id, int64 [N], 0 where unknown.

    Among a million patients two share a number with a chance of 3 in 100 million.

    Args:
        patients: strings [N], null where unknown.
    """
    encoded = pa.concat_arrays([*patients.chunks, pa.array([], pa.string())]).dictionary_encode()
    hashes = np.array([_number(text) for text in encoded.dictionary.to_pylist()] + [0], np.int64)
    places: npt.NDArray[np.int32] = encoded.indices.fill_null(len(hashes) - 1).to_numpy()
    return hashes[places]


def _number(patient: str) -> int:
    if patient == "":
        return 0
    hashed = hashlib.blake2b(patient.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)
