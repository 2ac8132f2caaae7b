"""The parts of a scoring report on images out of scope, and on drift from the training images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orchestrator.evaluation.scope import IN_SCOPE, SCOPE_CODES
from orchestrator.evaluation.wording import FIGURE_TITLES, name_drifted


@dataclass
class ScopeCounts:
    """Counts images in scope and out of it, shard by shard.

    Attributes:
        by_root: images by number of the root, then by code; an image of two codes counts for both.
    """

    by_root: dict[int, Counter[str]] = field(default_factory=dict)
    num_out: int = 0
    num_judged: int = 0

    def add(self, *tables: pa.Table) -> None:
        """Adds tables with columns root and scope; null is an image that was not judged."""
        for table in tables:
            roots, scopes = table.column("root").to_pylist(), table.column("scope").to_pylist()
            for root, scope in zip(roots, scopes, strict=True):
                if scope is not None:
                    self.num_judged += 1
                    self.num_out += scope != IN_SCOPE
                    self.by_root.setdefault(root, Counter()).update(scope.split(","))

    def as_report(self, populations: Sequence[str], roots: Sequence[str]) -> dict[str, Any]:
        """Returns what report.json says, JSON-able.

        Args:
            populations: whom the models' training images are of, as far as they say.
            roots: names of the inputs, by number; none where they are not to be named.

        Returns:
            populations, judged (images), out_of_scope (images), by_code (images by code), and
            by_root: one item a root, with `root`, `name` (None where not to be named) and `counts`
            by `in_scope` and code.
        """
        counts: Counter[str] = sum(self.by_root.values(), Counter())
        return {
            "populations": list(populations),
            "judged": self.num_judged,
            "out_of_scope": self.num_out,
            "by_code": {code: counts[code] for code in SCOPE_CODES if counts[code]},
            "by_root": [
                {
                    "root": root,
                    "name": roots[root] if roots else None,
                    "counts": {c: of[c] for c in (IN_SCOPE, *SCOPE_CODES) if of[c]},
                }
                for root, of in sorted(self.by_root.items())
            ],
        }


def scope_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the page shows, None where there is nothing to say.

    Args:
        report: of a scoring run.
    """
    scope = report.get("scope")
    if not scope or not (scope["judged"] or scope["populations"]):
        return None
    rows = [
        {"code": code, "count": count, "meaning": SCOPE_CODES[code]}
        for code, count in scope["by_code"].items()
    ]
    return {**scope, "rows": rows}


def drift_view(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the page shows of drift, None where nothing was compared.

    Args:
        report: of a scoring run.
    """
    drift = report.get("drift")
    if not drift:
        return None
    (whole,) = [group for group in drift["groups"] if group["kind"] == "all"]
    rest = [group for group in drift["groups"] if group["kind"] != "all"]
    return {
        **drift,
        "titles": FIGURE_TITLES,
        "figures": sorted(whole["figures"], key=lambda of: -of["index"]),
        "named": name_drifted(drift),
        "parts": [
            {**group, "drifted": name_drifted({"groups": [{**group, "kind": "all"}]})}
            for group in rest
        ],
    }
