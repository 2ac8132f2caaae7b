"""What a scoring run holds against its model's training: the figures of its images, by group."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.drift import DriftCounts, compare
from orchestrator.evaluation.scope import FIGURES, SCOPE_CODES, ScopeReference
from orchestrator.model.bundle import load_scope
from orchestrator.pipelines.score.ensemble import Members

ALL = ("all", "")


class RunDrift:
    """Counts a run of one model, shard by shard.

    Args:
        members: the models.
    """

    def __init__(self, members: Members) -> None:
        scope = load_scope(members.bundles[0]) if len(members.bundles) == 1 else None
        self._scope: ScopeReference | None = scope if scope and scope.spreads else None
        self._members = members
        self._counts = DriftCounts(scope.spreads if scope else {})
        self._files: dict[tuple[str, str], Counter[str]] = {}

    def add(self, table: pa.Table) -> None:
        """Adds the rows of a shard, scored or rejected, as the shard's file has them."""
        if self._scope is None:
            return
        self._add_group(ALL, table)
        for root in pc.unique(table["root"]).to_pylist():
            self._add_group(("root", str(root)), table.filter(pc.equal(table["root"], root)))
        for device in pc.unique(table["device"]).drop_null().to_pylist():
            self._add_group(("device", device), table.filter(pc.equal(table["device"], device)))

    def _add_group(self, group: tuple[str, str], table: pa.Table) -> None:
        seen = table.filter(pc.is_valid(table["figures"]))
        if seen.num_rows:  # none where the listing rejected all that was found
            values = np.array(seen["figures"].to_pylist(), np.float32)
            self._counts.add(group, dict(zip(FIGURES, values.T, strict=False)))
        scored = table.filter(pc.is_valid(table["logit"]))
        self._counts.add(group, {"logit": scored["logit"].to_numpy()})
        called = np.bincount(scored["predicted"].to_numpy(), minlength=2)
        self._counts.add_shares(group, "called PNEUMONIA", called.tolist())
        codes = ["" if c is None or c in SCOPE_CODES else c for c in table["code"].to_pylist()]
        self._files.setdefault(group, Counter()).update(codes)

    def as_report(self, roots: Sequence[str]) -> dict[str, Any] | None:
        """Returns what report.json says, as `compare` does, None where nothing is compared.

        Args:
            roots: names of the inputs, by number; none where they are not to be named.
        """
        scope = self._scope
        if scope is None or not self._counts.groups:
            return None
        found = sum(scope.spreads["logit"].counts)
        calibration, threshold = self._members.calibrations[0], self._members.threshold.value
        called = call_labels(calibration.apply(scope.logits), threshold)
        positive = round(found * float(np.mean(called)))
        others = {"called PNEUMONIA": [found - positive, positive]}
        if scope.files:
            others["rejected"] = self._add_rejected(scope.files)
        report = compare(self._counts, others)
        for group in report["groups"]:
            if group["kind"] == "root":
                number = int(group["name"])
                group["name"] = roots[number] if roots else str(number)
        return {"held_out": scope.num_held_out, **report}

    def _add_rejected(self, files: dict[str, int]) -> list[int]:
        """Adds the files by code, and returns the training's likewise: the usable ones first."""
        codes = sorted({*files, *(code for of in self._files.values() for code in of)})
        codes = [code for code in codes if code not in ("", "found")]
        for group, of in self._files.items():
            if group[0] != "device":  # a rejected file names none
                self._counts.add_shares(group, "rejected", [of[""], *(of[c] for c in codes)])
        bad = [files.get(code, 0) for code in codes]
        return [files["found"] - sum(bad), *bad]
