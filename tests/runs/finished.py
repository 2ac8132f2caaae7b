"""A run that has ended well, without the command that would have made it."""

from orchestrator.runs.atomic import write_text
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


def finish(run: RunDir) -> None:
    """Marks a run as finished, as its life cycle would."""
    run.write_status(Status.SUCCEEDED)
    write_text(run.success, "")


def cut_short(run: RunDir) -> None:
    """Makes a finished run one that was killed while it wrote its report."""
    run.success.unlink()
    run.write_status(Status.RUNNING, completed=False)
