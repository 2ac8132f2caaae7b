"""What a command was asked to do: its flags, on top of a job file or of a run to be continued."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.config.job import Job
    from orchestrator.config.specs import Resources
    from orchestrator.runs.run_dir import RunDir


@dataclass(frozen=True)
class Request:
    """What a command was asked to do.

    Args:
        kind: of the run, a key of `KINDS`.
        spec: checked, of the kind's class.
        resources: what to use of the cluster.
        job_file: that the spec was completed from, if any.
        run_folder: of the run to be continued, if one is.
        as_json: whether to print one JSON object and nothing else.
    """

    kind: str
    spec: Any
    resources: "Resources"
    job_file: Path | None
    run_folder: Path | None
    as_json: bool

    def run(self) -> Any:
        """Runs it, progress on standard error; returns what its pipeline returns."""
        from orchestrator.cli.kinds import KINDS
        from orchestrator.cli.terminal import open_reporter

        with open_reporter() as reporter:
            return KINDS[self.kind].run(self.spec, self.resources, reporter, self.run_folder)


def resolve(
    kind: str,
    given: Mapping[str, Any],
    *,
    config: Path | None = None,
    resume: Path | None = None,
    default_job: Path | None = None,
    as_json: bool = False,
) -> Request:
    """Returns what is to be run: the flags on top of a job file, or of the run to be resumed.

    Args:
        kind: a key of `KINDS`.
        given: field of the spec or of the resources -> value, for the flags that were given.
        config: job file.
        resume: folder of an unfinished run.
        default_job: job file that is read where neither data nor a file is named.
        as_json: as in `Request`.

    Raises:
        SpecError: a wrong value, a job file of another kind, or no run that could be resumed.
    """
    from orchestrator.cli.kinds import KINDS, command_of
    from orchestrator.config.load import build_resources, build_spec
    from orchestrator.config.specs import Resources
    from orchestrator.runs.run_dir import RunDir

    row = KINDS[kind]
    has_input = any(name in given and f.is_required() for name, f in row.spec.model_fields.items())
    if resume is not None:
        if config is not None or has_input:
            raise SpecError("--resume takes its spec from the run; leave out -c and the data")
        config = _find_spec(kind, RunDir(resume.absolute()))
    elif config is None and not has_input and default_job is not None:
        config = default_job
        if not config.is_file():
            how = f"`orchestrator {command_of(kind)} FOLDER`"
            raise SpecError(f"no data: expected {how}, or a file {config} here that names one")
    job = _load_job(kind, config) if config else None
    flags = dict(given)
    on_cluster = {name: flags.pop(name) for name in Resources.model_fields if name in flags}
    if not row.on_gpus:
        on_cluster["gpus_per_worker"] = 0
    spec = build_spec(row.spec, flags, job, stored=resume is not None)
    folder = resume.absolute() if resume else None
    return Request(kind, spec, build_resources(on_cluster, job), config, folder, as_json)


def _find_spec(kind: str, run: "RunDir") -> Path:
    """Returns the stored spec of an unfinished run of the kind."""
    from orchestrator.cli.kinds import command_of
    from orchestrator.config.load import load_job
    from orchestrator.config.specs import SPECS

    file = run.unfinished_spec()
    stored = run.load_status().get("kind") or load_job(file).kind
    if stored != kind:
        how = f"`orchestrator {command_of(stored)} --resume {run.path}`"
        if stored not in SPECS:
            how = f"the same `orchestrator {command_of(stored)}` command"
        raise SpecError(f"{run.path} is a run of {stored}; continue it with {how}")
    return file


def _load_job(kind: str, file: Path) -> "Job":
    """Reads a job file of the kind; for `find-lr` also that of the training it is for."""
    from orchestrator.cli.kinds import command_of
    from orchestrator.config.load import load_job
    from orchestrator.config.specs import SPECS

    job = load_job(file)
    if job.kind == kind:
        return job
    if (kind, job.kind) != ("find-lr", "train"):
        how = f"run it with `orchestrator {command_of(job.kind)}`"
        raise SpecError(f"{file} is a {job.kind} job; {how}")
    left_out = {*SPECS[kind].UNUSED, "out", "overwrite"}  # its bundle is not the search's
    args = {name: value for name, value in job.args.items() if name not in left_out}
    return job.model_copy(update={"kind": kind, "args": args})
