"""The life cycle of a run: claimed, its spec stored, its work done, cleaned up, finished.

Every command that makes a run goes through `open_run`, so that a command killed at any moment can
be run again. What makes it safe is the order of the writes: a folder loses its mark of success
before its files, a finished run is cleaned up before it gets `_SUCCESS`, and a bundle's folder
keeps the note of its run until then. One process at a time works in a run (`lock.py`).

Over 300 lines, since the order of all these writes is what is promised.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.config.load import dump_yaml
from orchestrator.config.specs import Resources
from orchestrator.errors import ClusterError, LockedError, OrchestratorError, SpecError
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_errors, write_json, write_text
from orchestrator.runs.folders import sync_folder
from orchestrator.runs.identity import NOTHING, holds_unfinished, identify
from orchestrator.runs.lock import LOCK_NAME, hold
from orchestrator.runs.run_dir import SCHEMA_VERSION, RunDir, new_run_id
from orchestrator.runs.states import Status
from orchestrator.runs.wait import Wait

_NOTE = "_unfinished.json"  # in a bundle's folder: where its run is


@dataclass(frozen=True)
class BundleFolder:
    """Where a training releases its bundle.

    Args:
        path: the folder, absolute.
        released: name of the file that is there once the bundle is whole.
    """

    path: Path
    released: str

    @property
    def note(self) -> Path:
        """Which run works on the bundle, JSON; there until that run is finished."""
        return self.path / _NOTE

    def load_note(self) -> dict[str, Any]:
        """Returns the note, or an empty dict where there is none."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) and {"run", "spec_digest"} <= set(note) else {}


@dataclass(frozen=True)
class OpenRun:
    """A claimed run.

    Args:
        run: its folder.
        resumed: an unfinished run of the same spec is taken up again.
        completed: all its work was done when it was killed: only the end is missing.
    """

    run: RunDir
    resumed: bool
    completed: bool

    def load_report(self) -> dict[str, Any]:
        """Returns the report that the work has left."""
        report: dict[str, Any] = json.loads(self.run.report_json.read_text(encoding="utf-8"))
        return report


@contextlib.contextmanager
def open_run(
    kind: str,
    folder: Path | None,
    spec: BaseModel,
    resources: Resources,
    *,
    reporter: Reporter | None = None,
    others: Mapping[str, Any] = NOTHING,
    bundle: BundleFolder | None = None,
    address: str | None = None,
) -> Iterator[OpenRun]:
    """Claims a folder, stores the spec, and finishes the run where the block ends well.

    On an exception the run is FAILED, or STOPPED on Ctrl-C and SIGTERM, and the same command goes
    on with it later. Otherwise what starts with `_` or `.tmp-` is removed from the folder, and
    `_SUCCESS` is written last.

    Args:
        kind: of the run, such as `score`.
        folder: of the run; None for the one that the bundle's note names, or a new one.
        spec: the resolved spec, with `overwrite` where it has that field.
        resources: what the command was asked to use of the cluster, and whether it waits for
            another process that works in the folder.
        reporter: told of that wait.
        others: what decides the results beside the spec, JSON-able, such as the models' hashes. An
            unfinished run of the same spec and others is resumed.
        bundle: folder of the bundle where the run releases one outside its own folder.
        address: where the finished run is copied to, if anywhere.

    Yields:
        The run. Where it is `completed` the block has nothing to do.

    Raises:
        SpecError: a folder holds something else.
        LockedError: another process works in a folder.
        ClusterError: the file system refused a write.
    """
    overwrite = bool(getattr(spec, "overwrite", False))
    with contextlib.ExitStack() as held:
        wait = lock_wait(resources, reporter)
        if bundle is not None:
            _check_bundle_folder(bundle)
            held.enter_context(hold(bundle.path, wait))
            folder = _claim_bundle(bundle, folder, spec, others, overwrite=overwrite)
        run = RunDir((folder or Path("runs", new_run_id(kind))).absolute())
        _check_run_folder(run)
        held.enter_context(hold(run.path, wait))
        opened = _claim(run, kind, spec, others, overwrite=overwrite)
        # By `--out` where that is the run's folder; a bundle's or an address is another place.
        flag = "--out" if bundle is None and address is None else "--resume"
        held.enter_context(_recording_failure(run, flag))
        if bundle is not None:
            _write_note(bundle, run, identify(spec, others))
        # The folder is named relative to itself: a run that was moved goes on where it is.
        out = str(bundle.path) if bundle else address or "."
        stored = spec.model_copy(update={"out": out})
        lasting = resources.model_copy(update={"wait_for_lock": False})  # asked for anew each time
        write_text(run.spec, dump_yaml(kind, run.path.name[:60], stored, lasting))
        yield opened
        if bundle is not None:
            sweep(bundle.path)
        _finish(run)
        if bundle is not None:
            bundle.note.unlink(missing_ok=True)


def lock_wait(resources: Resources, reporter: Reporter | None) -> Wait | None:
    """Returns how to wait for another process's lock; None where that was not asked for."""
    if not resources.wait_for_lock:
        return None
    say = reporter.say if reporter else lambda line: None
    return Wait(resources.max_wait.total_seconds(), say)


def _check_run_folder(run: RunDir) -> None:
    """Raises SpecError where a folder is somebody else's: not even a lock is put there."""
    if run.path.exists() and not run.path.is_dir():
        raise SpecError(f"--out {run.path} is a file; name a folder")
    if _holds_anything(run.path, {run.job}) and not run.load_status():
        raise SpecError(
            f"--out {run.path} is not empty and holds no run; name a new or empty folder"
        )


def _claim(
    run: RunDir, kind: str, spec: BaseModel, others: Mapping[str, Any], *, overwrite: bool
) -> OpenRun:
    """Begins a run in a folder that is held, or takes up the unfinished run of its identity."""
    _check_run_folder(run)
    resumed = completed = False
    run_uuid = uuid.uuid4().hex
    if _holds_anything(run.path, {run.job}):
        status = run.load_status()
        resumed = holds_unfinished(run, spec, others) and status.get("kind", kind) == kind
        if not resumed and not overwrite:
            state = "a finished run" if run.success.exists() else "a run of another spec"
            raise SpecError(
                f"--out {run.path} holds {state}; name another folder or add --overwrite"
            )
        if resumed:
            completed = bool(status.get("completed"))
            run_uuid = status.get("run_uuid", "")  # its shards name it
        else:
            # A status without an identity says that what is here is on its way out.
            run.write_status(Status.RUNNING, spec_digest=None, completed=False)
            _clear(run.path, run.success, {run.job, run.status})
            run.status.unlink()
    fields = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "spec_digest": identify(spec, others),
        "pid": os.getpid(),
        "run_uuid": run_uuid,
    }
    run.write_status(Status.RUNNING, **fields, error=None, exit_code=None)
    return OpenRun(run, resumed, completed)


def _check_bundle_folder(bundle: BundleFolder) -> None:
    """Raises SpecError where a folder is somebody else's: it has neither a note nor a bundle."""
    path = bundle.path
    if path.exists() and not path.is_dir():
        raise SpecError(f"--out {path} is a file; name a folder")
    known = bundle.load_note() or (path / bundle.released).exists()
    if _holds_anything(path, set()) and not known:
        raise SpecError(
            f"--out {path} is not empty and holds no bundle; name a new or empty folder"
        )


def _claim_bundle(
    bundle: BundleFolder,
    folder: Path | None,
    spec: BaseModel,
    others: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Path | None:
    """Takes a bundle's folder, which is held, and returns that of its run, None for a new one.

    While a run lasts, the bundle's folder holds a note of where the run is.
    """
    _check_bundle_folder(bundle)
    path = bundle.path
    if not _holds_anything(path, set()):
        return folder
    note = bundle.load_note()
    released = (path / bundle.released).exists()
    finished = released and (not note or RunDir(Path(note["run"])).success.exists())
    if note.get("spec_digest") is not None and not finished:
        own = folder or Path(note["run"])
        same = note["spec_digest"] == identify(spec, others)
        if same or holds_unfinished(RunDir(own), spec, others):
            return own
    if not overwrite:
        state = "a bundle" if finished else "an unfinished run of another spec"
        raise SpecError(f"--out {path} holds {state}; name another or add --overwrite")
    write_json(bundle.note, {"run": str(folder or ""), "spec_digest": None})
    _clear(path, path / bundle.released, {bundle.note})
    return folder


def _write_note(bundle: BundleFolder, run: RunDir, identity: str) -> None:
    write_json(bundle.note, {"run": str(run.path), "spec_digest": identity})


def _holds_anything(path: Path, ignored: set[Path]) -> bool:
    """Whether a folder holds more than what a writer that was killed has left."""
    found = path.iterdir() if path.is_dir() else iter(())
    left = (".tmp-", LOCK_NAME)
    return any(item not in ignored and not item.name.startswith(left) for item in found)


@contextlib.contextmanager
def _recording_failure(run: RunDir, flag: str) -> Iterator[None]:
    """Stores FAILED, or STOPPED on Ctrl-C and SIGTERM, where the block ends by an exception."""
    try:
        yield
    except BaseException as error:
        # Ray's own handler of SIGTERM, by which a job is stopped, raises SystemExit.
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        code = error.exit_code if isinstance(error, OrchestratorError) else None
        text = repr(error) if code is None else str(error)
        # A full or read-only disk must not hide the error that is on its way.
        with contextlib.suppress(OrchestratorError):
            run.write_status(
                Status.STOPPED if stopped else Status.FAILED,
                error="stopped by a signal" if stopped else text,
                exit_code=code,
            )
        # A run that another process holds is not to be resumed.
        if stopped or (isinstance(error, ClusterError) and not isinstance(error, LockedError)):
            # In place of a note of a run within this one: the user asked for this one.
            error.__notes__ = [f"what is done is kept in {run.path}: {flag} {run.path} goes on"]
        raise


def _finish(run: RunDir) -> None:
    """Removes what the work alone needed and what killed writers left; `_SUCCESS` comes last."""
    began = run.load_status().get("running_at")  # not now: what a run took is told from it
    run.write_status(Status.RUNNING, completed=True, running_at=began)
    # `_` marks what is of no use after the end, in every run's folder; the lock goes last.
    useless = (path for path in run.path.iterdir() if path.name.startswith("_"))
    _remove_all(path for path in useless if path.name != LOCK_NAME)
    sweep(run.path)
    run.write_status(Status.SUCCEEDED)
    write_text(run.success, "")


def sweep(folder: Path) -> None:
    """Removes what writers that were killed have left."""
    _remove_all(folder.rglob(".tmp-*"))


def _remove_all(paths: Iterable[Path]) -> None:
    for path in list(paths):
        with contextlib.suppress(OSError):  # it is in nobody's way
            _remove(path)


def _clear(folder: Path, first: Path, kept: set[Path]) -> None:
    """Empties a folder but for some files, its mark of success first."""
    try:
        first.unlink(missing_ok=True)
        with write_errors(folder):
            sync_folder(folder)  # or a power cut could bring the mark back, and not what it marks
        for found in list(folder.iterdir()):
            if found not in kept and found.name != LOCK_NAME:
                _remove(found)
        with write_errors(folder):
            sync_folder(folder)
    except OSError as error:
        raise ClusterError(
            f"cannot remove {error.filename}: {error.strerror}; remove {folder} yourself or name "
            "another output folder"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
