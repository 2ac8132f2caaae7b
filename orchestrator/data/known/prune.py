"""Removes old scoring runs; what they have processed stays in the index, so that it stays known.

The order of the writes makes it safe: the index takes in every run and marks those that are to go,
a second file notes that the index alone knows them, and each folder leaves its name whole before it
is emptied. Whoever is killed leaves runs that the next call removes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import IndexState
from orchestrator.data.known.index_build import (
    EarlierRun,
    digest_limits,
    terms_served,
    update_index,
)
from orchestrator.data.known.segments import open_segment
from orchestrator.errors import ClusterError, DataError, OrchestratorError
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, write_json
from orchestrator.runs.folders import sync_folder
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import FORGOTTEN, IndexFiles, RunsRoot


@dataclass(frozen=True)
class _Finished:
    """A finished scoring run; `terms` is None in one that no later run leaves a file out for."""

    run: EarlierRun
    terms: dict[str, Any] | None


def prune_runs(
    root: Path, keep: int, reporter: Reporter, announce: Callable[[list[Path], int], None]
) -> list[Path]:
    """Removes the oldest finished scoring runs directly under a folder.

    Other kinds of run, unfinished runs and runs that cannot be read stay.

    Args:
        root: folder of run folders.
        keep: finished scoring runs that stay, the newest; at least 1.
        reporter: receives a line for each run that cannot be read, and where an index is made.
        announce: receives the folders that go, the oldest first, and the number of finished
            scoring runs that stay, before any is removed.

    Returns:
        The folders that are gone.

    Raises:
        DataError: no such folder, or an index is lost that alone knew of removed runs.
        LockedError: a night is at work in the folder.
        ClusterError: the file system refused a write.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name a folder of runs")
    with hold(root.absolute()):
        return _prune(root, keep, reporter, announce)


def _prune(
    root: Path, keep: int, reporter: Reporter, announce: Callable[[list[Path], int], None]
) -> list[Path]:
    """Removes runs in a folder that is held."""
    place = RunsRoot(root)
    for folder in place.half_removed():
        _remove(folder, folder)
    finished = _find_finished(root)
    old = finished[:-keep]
    indexes: list[tuple[IndexFiles, IndexState]] = []
    served = [terms for found in old if found.terms for terms in terms_served(found.terms)]
    for terms in {digest(terms): terms for terms in served}.values():
        files, state, _ = update_index(root, terms, reporter)
        indexes.append((files, state))
    indexed = {run.key for _, state in indexes for run in state.runs}
    going = [found.run for found in old if not found.terms or found.run.key in indexed]
    announce([run.folder for run in going], len(finished) - len(going))
    for files, state in indexes:
        _mark(files, state, {run.key for run in going})
    for run in going:
        _remove(run.folder, place.removed(run.folder.name))
    return [run.folder for run in going]


def _find_finished(root: Path) -> list[_Finished]:
    """Returns the finished scoring runs, the oldest first."""
    found = []
    for folder in root.iterdir():
        run = RunDir(folder)
        try:
            status = run.load_status()
        except (OrchestratorError, OSError):
            continue  # no run's folder
        if status.get("kind") == "score" and run.success.exists():
            ended, limits = str(status.get("succeeded_at")), digest_limits(status.get("limits"))
            found.append(_Finished(EarlierRun(folder, ended, limits), status.get("terms")))
    return sorted(found, key=lambda each: (each.run.ended, each.run.folder))


def _mark(files: IndexFiles, state: IndexState, keys: set[str]) -> None:
    """Marks runs that are about to go, and forgets those that the index has nothing of."""
    for run in state.runs:
        run.pruned |= run.key in keys
    used: set[int] = set()
    for segment in state.segments:
        used |= set(np.unique(open_segment(files.segment(segment.name))[seg.RUN]).tolist())
    state.runs = [run for run in state.runs if not run.pruned or run.number in used]
    state.commit(files)
    lost = [run.name for run in state.runs if run.pruned and run.name != FORGOTTEN]
    write_json(files.pruned, {"runs": lost})


def _remove(folder: Path, on_its_way: Path) -> None:
    try:
        folder.rename(on_its_way)
        sync_folder(on_its_way.parent)  # or a power cut could leave a part of it under its name
        if on_its_way.is_symlink():
            on_its_way.unlink()
        else:
            shutil.rmtree(on_its_way)
    except OSError as error:
        raise ClusterError(
            f"cannot remove {folder}: {error.strerror or error}; its images stay known: see to its "
            "permissions and run the same command again"
        ) from error
