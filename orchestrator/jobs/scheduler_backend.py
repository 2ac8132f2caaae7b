"""A cluster as the scheduler takes it: three functions, and a local head where none is named."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.errors import SpecError
from orchestrator.jobs.client import Connection
from orchestrator.jobs.submit import Entrypoint, fix_model, submit_job
from orchestrator.runs.placement import place_run
from orchestrator.runs.reconcile import look_at
from orchestrator.runs.states import Status
from orchestrator.schedule.leadership import SchedulerBackend


def place(job: Job, key: str) -> tuple[Job, Path]:
    """Returns a scheduled job as one run of it, its model named, and its run folder."""
    placed, folder = place_run(job, key)
    return fix_model(placed), folder


class RayJobsBackend:
    """Ray Jobs behind the scheduler's three functions.

    Args:
        cluster: its address, or `local`.
        say: told where a local head is started.
        entrypoint: from id and stored file to the driver's command, in place of this program's.
    """

    def __init__(
        self, cluster: str, say: Callable[[str], None], entrypoint: Entrypoint | None = None
    ) -> None:
        self._connection, self._entrypoint = Connection(cluster, say), entrypoint

    def as_backend(self) -> SchedulerBackend:
        """Returns the functions."""
        return SchedulerBackend(self.submit, self.look_up, self.stop)

    def submit(self, submission_id: str, job: Job, folder: Path | None) -> None:
        """Starts a run."""
        if folder is None:
            raise SpecError(f"{submission_id} was stored without a run folder; the next tick has")
        jobs = self._connection.get(start=True)
        if jobs is not None:
            cluster, mark = self._connection.cluster, look_at(folder).mark
            submit_job(jobs, cluster, submission_id, job, folder, mark, self._entrypoint)

    def look_up(self, submission_id: str) -> Status | None:
        """Returns the state of an id; a local head that has ended knows none."""
        jobs = self._connection.get(start=False)
        info = jobs.look_up(submission_id) if jobs else None
        return info.status if info else None

    def stop(self, submission_id: str) -> None:
        """Ends a run."""
        jobs = self._connection.get(start=False)
        if jobs is not None:
            jobs.stop(submission_id)
