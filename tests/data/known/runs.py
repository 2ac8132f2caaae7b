"""Runs written by hand, and the index of what they have processed."""

import hashlib
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.known.index import (
    IndexState,
    KnownIndex,
    OpenIndex,
    Origin,
    load_state,
    whole_path,
)
from orchestrator.data.known.index_build import digest_limits, update_index
from orchestrator.data.known.known_files import KnownFiles
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import LISTED_KEY, load_manifest, write_listed
from orchestrator.data.schema import KNOWN, PREDICTIONS, REJECTED
from orchestrator.runs.atomic import digest
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import RunsRoot
from orchestrator.runs.states import Status
from tests.conftest import Recorder
from tests.runs.finished import finish

TERMS = {"models": ["ab"], "engine": "openvino", "precision": "f32", "decoder": 1}
LIMITS = {"max_bytes": None}
LONG_AGO = time.time_ns() - 3600 * 10**9


def touch(folder: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def raw_sha(text: str) -> bytes:
    return bytes.fromhex(sha(text))


def make_run(
    folder: Path,
    source: Path,
    *,
    rejected: dict[str, str] | None = None,
    known: list[dict[str, Any]] | None = None,
    terms: dict[str, Any] = TERMS,
    limits: dict[str, Any] = LIMITS,
    finished: bool = True,
) -> RunDir:
    """Writes what a finished run leaves: every file scored but those rejected with a code."""
    run, rejected = RunDir(folder), rejected or {}
    listed = list_inputs([source])
    metadata = {LISTED_KEY: str(time.time_ns()).encode()}
    write_listed(listed.rows(), listed.roots, metadata, run.manifest, 2)
    scored: dict[int, list[dict[str, Any]]] = {}
    bad = []
    for row in load_manifest(run.manifest).table.to_pylist():
        scored.setdefault(row["shard"], [])
        code = row["code"] or rejected.get(row["path"])
        if code:
            bad.append({"row": row["row"], "path": row["path"], "code": code})
        else:
            content = (source / row["path"]).read_text()
            scored[row["shard"]].append({"row": row["row"], "sha256": sha(content)})
    run.predictions.mkdir()
    for shard, rows in scored.items():
        path = run.predictions / f"part-{shard:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), path)
    pq.write_table(pa.Table.from_pylist(bad, REJECTED), run.rejected)
    if known is not None:
        pq.write_table(pa.Table.from_pylist(known, KNOWN), run.known)
    run.write_status(Status.RUNNING, kind="score", terms=terms, limits=limits)
    if finished:
        finish(run)
    return run


def index_of(
    root: Path, limits: dict[str, Any] = LIMITS, said: list[str] | None = None
) -> OpenIndex:
    """The index as a night of today would see it."""
    reporter = Recorder()
    files, state, _ = update_index(root, TERMS, reporter)
    if said is not None:
        said += reporter.lines
    keys = [run.key for run in state.runs]
    index = OpenIndex(files, state, frozenset(keys), digest_limits(limits))
    workers = pickle.loads(pickle.dumps(KnownIndex(files.folder, tuple(keys))))
    index.find_content = lambda sha: workers.find_content(sha.hex())  # type: ignore[method-assign]
    return index


def look_up(index: OpenIndex, source: Path | str) -> dict[str, Origin | None]:
    listed = list_inputs([source])
    rows = list(listed.rows())
    found = index.find_files(
        [whole_path(listed.roots[row.root], row.raw) for row in rows],
        [row.size_bytes for row in rows],
        [row.mtime_ns for row in rows],
    )
    new = list(KnownFiles(index).leave_out(rows, listed.roots, lambda _: None))
    return {
        row.path: None if row in new else index.origin(segment, place)
        for row, segment, place in zip(rows, found.segments, found.places, strict=True)
    }


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the indexes under a folder of runs."""
    return {path.name: path.read_bytes() for path in (root / "_known").rglob("*") if path.is_file()}


def state_of(root: Path) -> IndexState:
    return load_state(RunsRoot(root).index(digest(TERMS)))


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def make_nights(root: Path, source: Path, count: int, first: int = 1) -> None:
    """Runs that each score one more file, and know nothing of the others."""
    for number in range(first, first + count):
        touch(source.parent / f"{source.name}{number}", **{f"f{number}": f"text {number}"})
        run = make_run(root / f"r{number}", source.parent / f"{source.name}{number}")
        ended = {"succeeded_at": f"2026-01-{number:02d}T02:00:00+00:00"}
        run.status.write_text(json.dumps(run.load_status() | ended))
