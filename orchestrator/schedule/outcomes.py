"""What the failure of a run sets off: its notice, and the pause that its schedule asks for."""

from datetime import datetime

from orchestrator.config.job import Job
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import Terms
from orchestrator.schedule.rows import Notice
from orchestrator.schedule.writes import Writes


def fail(
    write: Writes,
    terms: Job | Terms,
    job: str,
    tick: datetime,
    reason: str,
    attempt: int = 0,
    submission_id: str = "",
) -> str:
    """Records a run that has failed for good, all that follows from it in the same transaction.

    Args:
        write: the transaction.
        terms: of the run.
        job: its name.
        tick: of the run.
        reason: one line.
        attempt: the last try, 0 where none was made.
        submission_id: of the last try.

    Returns:
        The reason as recorded; it says where the schedule is paused now.
    """
    if terms.schedule is not None and terms.schedule.pause_on_failure:
        write.pause(job)
        reason += f"; the schedule is paused until `orchestrator schedule resume {job}`"
    write.end(job, tick, attempt, TickState.FAILED, reason)
    if terms.on_failure is not None:
        target = terms.on_failure.model_dump_json()
        notice = Notice(
            job, tick, "failure", TickState.FAILED, reason, attempt, submission_id, target
        )
        write.notify(notice)
    return reason
