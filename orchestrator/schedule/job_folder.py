"""The folder of job files that a scheduler follows, and jobs as the ledger stores them."""

import os
import stat
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from orchestrator.config.fields import Duration
from orchestrator.config.job import Job, OnFailure, check_scheduled, find_broken_chains
from orchestrator.config.load import build_spec, load_job
from orchestrator.config.specs import SPECS
from orchestrator.errors import SpecError, printable
from orchestrator.runs.placement import place_run
from orchestrator.schedule.looks import Looks

_LINK_LIMIT_S = 1.0


class _Window(BaseModel):
    window: Duration = timedelta()
    pause_on_failure: bool = False


class Terms(BaseModel):
    """What the scheduler itself needs of a stored job.

    Reads nothing else of it, so that a run which is open during an upgrade is followed to its end
    even where the new version takes other `args`.
    """

    retries: int = 0
    timeout: Duration | None = None
    schedule: _Window = _Window()
    on_failure: OnFailure | None = None


def load_terms(spec: str | None) -> Terms:
    """Returns the terms of a job stored in the ledger, JSON; none where they are not understood."""
    try:
        return Terms.model_validate_json(spec or "{}")
    except ValidationError:
        return Terms()


def load_stored(spec: str | None) -> Job:
    """Returns a job stored in the ledger; raises `SpecError` where this version refuses it."""
    try:
        return Job.model_validate_json(spec or "{}")
    except ValidationError as error:
        raise SpecError(
            "the job was stored by another version of the program, and this one refuses it; "
            "correct its file, the next tick takes that"
        ) from error


@dataclass(frozen=True)
class LoadedJobs:
    """What the job files say.

    Args:
        jobs: the scheduled jobs by name, each with the name of its file.
        faults: what is wrong with a file, by its name.
        files: names of all job files.
        problem: why the folder itself cannot be read; None where it can.
    """

    jobs: dict[str, tuple[Job, str]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    problem: str | None = None


@dataclass(frozen=True)
class _File:
    """One job file.

    Args:
        stamp: of its content; None to read it again.
        job: that it declares, None without a schedule.
        problem: what is wrong with it.
    """

    stamp: tuple[int, int, int] | None
    job: Job | None = None
    problem: str | None = None


class JobFolder:
    """The scheduled jobs of a folder of YAML files, read again where a file has changed.

    Whatever is wrong with a file, the others are read.

    Args:
        folder: holds `*.yaml` and `*.yml`; files without a schedule are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._seen: dict[str, _File] = {}
        self._looks = Looks(_LINK_LIMIT_S)

    def load(self) -> LoadedJobs:
        """Returns what the files say now; one that is written meanwhile may count as absent."""
        try:
            with os.scandir(self._folder) as entries:
                listed = sorted((e.name, e.is_symlink()) for e in entries if _is_job_file(e.name))
        except OSError as error:
            problem = f"cannot list {self._folder}: {error.strerror}; name a folder of jobs"
            return LoadedJobs(problem=printable(problem))
        # A link may lead to a share that hangs, which the other files must not wait for.
        linked = self._looks.ask_all(
            {name: (name, partial(self._read, name)) for name, is_link in listed if is_link}
        )
        seen: dict[str, _File] = {}
        for name, is_link in listed:
            try:
                answer = linked[name] if is_link else self._read(name)
            except FileNotFoundError:
                continue
            if isinstance(answer, Exception):
                answer = _File(None, problem=f"cannot read {self._folder / name}: {answer}")
            seen[name] = answer
        self._seen = seen
        return self._collect()

    def _collect(self) -> LoadedJobs:
        jobs: dict[str, tuple[Job, str]] = {}
        faults: dict[str, str] = {}
        for found, file in self._seen.items():
            name, problem = printable(found), file.problem
            if file.job is not None and file.job.name in jobs:
                other = jobs[file.job.name][1]
                problem = f"the name {file.job.name} is {other}'s; give each its own"
            elif file.job is not None:
                jobs[file.job.name] = (file.job, name)
            if problem is not None:
                faults[name] = printable(problem)
        declared = {name: job for name, (job, _) in jobs.items()}
        for name, problem in find_broken_chains(declared, are_all=not faults).items():
            faults[jobs.pop(name)[1]] = problem
        return LoadedJobs(jobs, faults, frozenset(map(printable, self._seen)))

    def _read(self, name: str) -> _File:
        """Returns a file as it is; raises FileNotFoundError where it has gone."""
        path, known = self._folder / name, self._seen.get(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            raise
        except OSError as error:
            return _File(None, problem=f"cannot read {path}: {error.strerror}; name a YAML file")
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if known is not None and known.stamp == stamp:
            return known
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return _File(stamp, problem=f"{path} is not a regular file; name a YAML file")
        try:
            job = load_job(path)
            if job.schedule is None:
                return _File(stamp)
            build_spec(SPECS[job.kind], {}, job)
            place_run(job, "checked")
            check_scheduled(job)
            job.model_dump_json()
        except SpecError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from error
            is_lasting = not isinstance(error.__cause__, OSError)
            return _File(stamp if is_lasting else None, problem=str(error))
        except Exception as error:  # whatever a file holds, it is this file's fault alone
            return _File(stamp, problem=f"{path}: {type(error).__name__}: {error}")
        return _File(stamp, job)


def _is_job_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and not name.startswith(".")
