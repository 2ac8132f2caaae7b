"""A cluster as the scheduler takes it: three functions, and a local head where none is named."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.client import Connection
from orchestrator.jobs.submit import Entrypoint, fix_model, start_job, store_job
from orchestrator.runs.placement import place_run
from orchestrator.runs.reconcile import ClusterAnswer, look_at
from orchestrator.schedule.leadership import SchedulerBackend, Submit


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
        return SchedulerBackend(self.prepare, self.look_up, self.stop)

    def prepare(self, submission_id: str, job: Job, folder: Path | None) -> Submit:
        """Stores a run in its folder and returns what starts it."""
        if folder is None:
            raise SpecError(f"{submission_id} was stored without a run folder; the next tick has")
        mark = look_at(folder).mark
        record = store_job(self._connection.cluster, submission_id, job, folder, mark)

        def submit() -> None:
            jobs = self._connection.get(start=True)
            if jobs is None:
                raise ClusterError("the local head has ended")
            start_job(jobs, record, self._entrypoint)

        return submit

    def look_up(self, submission_id: str) -> ClusterAnswer | None:
        """Returns what is known of an id; a local head that has ended knows none."""
        jobs = self._connection.get(start=False)
        info = jobs.look_up(submission_id) if jobs else None
        return ClusterAnswer(info.status, info.exit_code) if info else None

    def stop(self, submission_id: str) -> None:
        """Ends a run."""
        jobs = self._connection.get(start=False)
        if jobs is not None:
            jobs.stop(submission_id)
