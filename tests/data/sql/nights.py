"""Simulated nights over a changing folder, as runs on disk, and what one table of them must say."""

import hashlib
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.manifest import Manifest, write_manifest
from orchestrator.data.schema import KNOWN, MANIFEST, REJECTED, predictions_schema
from orchestrator.runs.run_dir import RunDir

ROOT = "/data/xrays"


def sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class Nights:
    """A folder of runs that grows by a night, and plain books of what happened.

    Args:
        root: folder of runs.
    """

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # path -> content, as it is now
    bad: set[str] = field(default_factory=set)  # contents that cannot be decoded
    num_runs: int = 0
    scored: list[dict[str, Any]] = field(default_factory=list)  # every prediction, in order
    rejected: list[tuple[str, str]] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # path -> content last scored or known there

    def night(self, model: str, *, lost_index: bool = False) -> None:
        """Scores what no earlier night has scored with this model, as `--only-new` does."""
        self.num_runs += 1
        name = f"night-{self.num_runs:02d}"
        own = [] if lost_index else [row for row in self.scored if row["model"] == model]
        by_content = {row["content"]: row for row in own}
        states = {(row["path"], row["content"]) for row in own}
        told: dict[str, str] = {row["path"]: row["content"] for row in own}
        scored, rejected, known = [], [], []
        for path, content in sorted(self.files.items()):
            if content in self.bad:
                rejected.append(path)
            elif (path, content) in states:
                if told[path] != content:
                    known.append((path, content, "restored", by_content[content]))
            elif content in by_content:
                known.append((path, content, "content", by_content[content]))
            else:
                scored.append((path, content))
        self._write(name, model, scored, rejected, known)
        for path, content, *_ in [*scored, *known]:
            self.seen[path] = content
        self.rejected += [(name, path) for path in rejected]

    def latest(self) -> dict[str, tuple[str, int | None, float]]:
        """The oracle: run, label and probability of each content that some file still has."""
        newest = {row["content"]: row for row in self.scored}
        return {
            content: (newest[content]["run"], newest[content]["label"], newest[content]["p"])
            for content in set(self.seen.values())
        }

    def _write(
        self,
        name: str,
        model: str,
        scored: list[tuple[str, str]],
        rejected: list[str],
        known: list[tuple[str, str, str, dict[str, Any]]],
    ) -> None:
        run = RunDir(self.root / name)
        run.predictions.mkdir(parents=True)
        paths = [*(path for path, _ in scored), *rejected]
        rows = [{"row": n, "shard": 0, "root": 0, "path": path} for n, path in enumerate(paths)]
        table = pa.Table.from_pylist(rows, MANIFEST)
        write_manifest(Manifest(table, (ROOT.encode(),)), run.manifest)
        found = []
        for row, (path, content) in enumerate(scored):
            label = (None, 0, 1)[int(sha(content), 16) % 3]
            p = round(random.Random(f"{model}{content}").random(), 3)
            entry = {"run": name, "path": path, "content": content, "label": label, "p": p}
            self.scored.append(entry | {"model": model, "row": row})
            found.append(
                {
                    "row": row,
                    "root": 0,
                    "path": path,
                    "label": label,
                    "sha256": sha(content),
                    "probability": p,
                    "predicted": int(p > 0.5),
                    "sex": "F",
                }
            )
        # Columns come with the years, and with options
        schema = predictions_schema(1, ("sex",) if self.num_runs % 2 else ())
        old = {"scope", "margin", "decision", "review_reason"} if self.num_runs < 5 else set()
        schema = pa.schema([column for column in schema if column.name not in old])
        for part in range(2):
            table = pa.Table.from_pylist(found[part::2], schema)
            pq.write_table(table, run.predictions / f"part-{part:05d}.parquet")
        bad = [{"row": n + len(scored), "root": 0, "path": p} for n, p in enumerate(rejected)]
        bad = [row | {"code": "damaged", "message": "cut short"} for row in bad]
        pq.write_table(pa.Table.from_pylist(bad, REJECTED), run.rejected)
        knew = [
            {"root": 0, "path": path, "sha256": sha(content), "matched": how}
            | {"run": origin["run"], "run_row": origin["row"]}
            for path, content, how, origin in known
        ]
        pq.write_table(pa.Table.from_pylist(knew, KNOWN), run.known)
        counts = {"found": len(paths) + len(known), "scored": len(scored)}
        counts |= {"rejected": len(rejected), "scored_before": len(known), "rejected_before": 0}
        report = {"counts": counts, "threshold": 0.5, "model": {"sha256": model}}
        run.report_json.write_text(json.dumps(report))
        ended = (datetime(2026, 2, 28, 2, tzinfo=UTC) + timedelta(self.num_runs)).isoformat()
        run.status.write_text(json.dumps({"kind": "score", "succeeded_at": ended}))
        run.success.touch()


def simulate(root: Path, count: int, new_a_night: int, seed: int = 0) -> Nights:
    """Nights with new, changed, moved, copied, restored and bad files, and other models."""
    nights, dice, former = Nights(root), random.Random(seed), {}
    for number in range(1, count + 1):
        for n in range(dice.randint(0, 2 * new_a_night)):
            path = f"study{number}/{n}.dcm"
            nights.files[path] = f"{number}-{n}"
            if dice.random() < 0.1:
                nights.bad.add(nights.files[path])
        for path in dice.sample(sorted(nights.files), len(nights.files) // 10):
            content = nights.files[path]
            match dice.choice(["change", "change", "move", "copy", "restore", "spoil", "swap"]):
                case "change":
                    former[path] = content
                    nights.files[path] = f"{content}'"
                case "move":
                    nights.files[f"moved/{number}/{path}"] = nights.files.pop(path)
                case "copy":
                    nights.files[f"copy/{number}/{path}"] = content
                case "restore":
                    nights.files[path] = former.get(path, content)
                case "spoil":
                    nights.files[path] = f"bad {number} {path}"
                    nights.bad.add(nights.files[path])
                case "swap":
                    other = dice.choice(sorted(nights.files))
                    nights.files[path], nights.files[other] = nights.files[other], content
        model = "first" if number < count // 2 else "second"
        nights.night("first" if number == count - 3 else model, lost_index=number == count // 3)
    return nights
