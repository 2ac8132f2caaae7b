"""Where the run of a job goes."""

from pathlib import Path

from orchestrator.config.addresses import is_address
from orchestrator.config.job import Job
from orchestrator.config.specs import SPECS
from orchestrator.errors import SpecError
from orchestrator.runs.run_dir import work_folder


def place_run(job: Job, key: str) -> tuple[Job, Path]:
    """Returns the job as one run of it, in a folder of its own, and that run folder.

    All tries of a tick share the folder, so a retry goes on where the last one stopped, and no
    `_SUCCESS` of another night can be taken for this one's.

    Args:
        job: as declared; `args.out_root` is where its runs go, `runs` otherwise.
        key: name of the run, `orchestrator.schedule.ledger.run_key`.

    Raises:
        SpecError: a job that fixes its `out`, which the second tick would find taken.
    """
    if job.args.get("out") is not None:
        instead = "give out_root in place of out" if job.kind == "score" else "remove its out"
        raise SpecError(f"{job.name}: a scheduled job makes a folder for every tick; {instead}")
    return place_out(job, key)


def place_out(job: Job, key: str) -> tuple[Job, Path]:
    """Returns the job with an absolute `out`, its own or a new one named `key`, and the run folder.

    The `out` of what makes a bundle is the bundle and its run folder lies elsewhere; for all others
    they are the same.
    """
    root = Path(job.args.get("out_root") or "runs").absolute()
    given = job.args.get("out")
    out: str | Path
    if job.kind in ("train", "recalibrate", "quantize"):
        out, run = Path(given or Path("models", key)).absolute(), root / key
    elif given is not None and is_address(given):
        out, run = given, work_folder(given, root)  # a store gets the tables of a finished run
    else:
        out = run = Path(given or root / key).absolute()
    known = SPECS[job.kind].model_fields
    args = {name: value for name, value in job.args.items() if name in known}
    return job.model_copy(update={"args": {**args, "out": str(out)}}), run
