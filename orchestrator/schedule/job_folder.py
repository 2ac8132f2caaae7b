"""The folder of job files that a scheduler follows, and where each tick's run goes."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from orchestrator.config.fields import Duration
from orchestrator.config.job import Job, OnFailure
from orchestrator.config.load import load_job
from orchestrator.errors import SpecError
from orchestrator.runs.placement import place_run

_Stamp = tuple[int, int, int]


class _Window(BaseModel):
    window: Duration = timedelta()


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
    """Returns the terms of a job stored in the ledger, JSON."""
    return Terms.model_validate_json(spec or "{}")


def load_stored(spec: str | None) -> Job:
    """Returns a job stored in the ledger; raises `SpecError` where this version refuses it."""
    try:
        return Job.model_validate_json(spec or "{}")
    except ValidationError as error:
        raise SpecError(
            "the job was stored by another version of the program, and this one refuses it; "
            "correct its file, the next tick takes that"
        ) from error


class JobFolder:
    """The scheduled jobs of a folder of YAML files, read again where a file has changed.

    A file that cannot be read does not stop the others, and while it is wrong its last good
    version stays in force.

    Args:
        folder: holds `*.yaml` and `*.yml`; files without a schedule are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._seen: dict[Path, tuple[_Stamp, Job | None, str | None]] = {}

    def load(self) -> tuple[dict[str, Job], list[str]]:
        """Returns the scheduled jobs by name, and a line for each file that is wrong."""
        try:
            paths = sorted(
                p
                for p in self._folder.iterdir()
                if p.suffix in (".yaml", ".yml") and p.name[0] != "."
            )
        except OSError as error:
            kept = {job.name: job for _, job, _ in self._seen.values() if job}
            return kept, [f"cannot list {self._folder}: {error.strerror}; name a folder of jobs"]
        self._seen = {path: self._read(path) for path in paths}
        jobs: dict[str, Job] = {}
        errors = []
        owner: dict[str, Path] = {}
        for path, (_, job, problem) in self._seen.items():
            if problem is not None:
                errors.append(problem)
            if job is None:
                continue
            if job.name in jobs:
                errors.append(
                    f"{path}: the name {job.name} is {owner[job.name].name}'s; give each its own"
                )
                continue
            jobs[job.name], owner[job.name] = job, path
        return jobs, errors

    def _read(self, path: Path) -> tuple[_Stamp, Job | None, str | None]:
        known = self._seen.get(path)
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if known is not None and known[0] == stamp:
                return known
            job = load_job(path)
            if job.schedule is None:
                return stamp, None, None
            place_run(job, "checked")
        except OSError as error:
            kept = known[1] if known else None
            return (0, 0, 0), kept, f"cannot read {path}: {error.strerror}; name a YAML file"
        except SpecError as error:
            return stamp, known[1] if known else None, str(error)
        return stamp, job, None
