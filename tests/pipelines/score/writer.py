"""A scoring command in a process of its own, without Ray, decoders or a network.

Listing, claim, lock, manifest, shard files and tables are the product's. Each change of the
file system comes after a short pause of random length, so that two such processes meet anywhere.
"""

import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas  # noqa: F401 - loaded once, by the server that forks
import pyarrow as pa

import orchestrator.pipelines.score.drift as drift
import orchestrator.pipelines.score.score as scoring
import orchestrator.pipelines.score.tables as tables
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.manifest import load_shard
from orchestrator.data.schema import DECODED
from orchestrator.data.shard_files import has_part, part_path, write_part
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.figures import Threshold
from orchestrator.pipelines.score.stage import shard_schema
from tests.conftest import Recorder
from tests.runs.dying import CHANGES

LONG_AGO = time.time_ns() - 3600 * 10**9
_MODEL = SimpleNamespace(
    size_px=64,
    names=("model",),
    bundles=(Path("model"),),
    hashes=["0" * 64],
    infos=(),
    populations=[],
    calibrations=(),
    reviewers=(),
    given=None,
    target=None,
    threshold=Threshold(0.5, "half"),
    facts=lambda: {"backbone": "tiny", "sha256": "0" * 64, "image_size": 64, "weights": "none"},
    at=lambda precision: _MODEL,
)


class Stage:
    """One row a file, whose probability is a function of its bytes."""

    def __init__(self, source: Any, *_: Any) -> None:
        self._source = source

    def __call__(self, shard: int) -> pa.Table:
        rows = []
        for row in load_shard(self._source.manifest, shard).to_pylist():
            path = Path(os.fsdecode(self._source.roots[0]), row["path"])
            found: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            found |= {"logit": 1.0, "probability": 0.75, "predicted": 1}
            rows.append(row | dict.fromkeys(DECODED.names) | found)
        return pa.Table.from_pylist(rows, shard_schema(1))


def run_shards(
    make_stage: Callable[[], Stage], shards: Iterable[int], out: Path, owner: str, *_: Any
) -> None:
    """The pool of workers, in this process."""
    for shard in shards:
        if not has_part(part_path(out, shard), owner):
            write_part(part_path(out, shard), make_stage()(shard), owner)


def add_file(inbox: Path, name: str) -> None:
    """A file that has lain there for long."""
    inbox.mkdir(exist_ok=True)
    path = inbox / name
    path.write_bytes(name.encode())
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def write(seed: int, name: str, inbox: Path, fields: dict[str, Any], waits: bool) -> None:
    """Adds a file to the inbox, scores the inbox, and leaves what came of it in `NAME.json`."""
    chance = random.Random(f"{seed} {name}")
    time.sleep(chance.choice([0.0, 0.02, 0.2]) * chance.random())
    for change in CHANGES:
        setattr(os, change, _paused(getattr(os, change), chance))
    add_file(inbox, f"{name}.png")
    scoring.load_members = lambda *_: _MODEL  # type: ignore[assignment, return-value]
    scoring.ScoreStage = Stage  # type: ignore[assignment, misc]
    scoring.run_shards = run_shards  # type: ignore[assignment]
    session = SimpleNamespace(threads_per_worker=1)
    scoring.open_session = lambda *_, **__: contextlib.nullcontext(session)  # type: ignore
    tables.render_html = lambda *_: "a page"  # type: ignore[assignment]
    drift.load_scope = lambda _: None  # type: ignore[assignment, misc]
    sys.modules["orchestrator.runs.lock"]._LOOK_S = 0.01  # type: ignore[attr-defined]
    spec = ScoreSpec(input=str(inbox), engine="openvino", shard_rows=2, **fields)
    found: dict[str, Any] = {"pid": os.getpid(), "error": None}
    try:
        result = scoring.score(spec, Resources(wait_for_lock=waits), Recorder())
        found["run"] = str(result.run)
    except OrchestratorError as error:
        found |= {"error": type(error).__name__, "said": str(error)}
    (inbox.parent / f"{name}.json").write_text(json.dumps(found))


def _paused(change: Callable[..., Any], chance: random.Random) -> Callable[..., Any]:
    def paused(*args: Any, **kwargs: Any) -> Any:
        time.sleep(chance.choice([0.0, 0.0, 0.01]) * chance.random())
        return change(*args, **kwargs)

    return paused
