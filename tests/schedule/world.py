"""A scheduler in a world whose clocks, cluster and job files a test moves by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.config.job import Job, Schedule
from orchestrator.runs.placement import place_run
from orchestrator.runs.reconcile import AT_WORK, ClusterAnswer
from orchestrator.runs.states import Status
from orchestrator.schedule.declared import LoadJobs
from orchestrator.schedule.job_folder import JobFolder
from orchestrator.schedule.leadership import Clock, SchedulerBackend, Settings, Submit
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.loop import Scheduler
from orchestrator.schedule.rows import RunRow
from tests.schedule.fake_cluster import FileStore, dump_job


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


START = at(2026, 3, 1, 0, 0, 30)


class World:
    """Everything outside the scheduler.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.ticking = 1000.0
        self.cluster = FileStore(folder / "cluster")
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        self.load_jobs: LoadJobs | None = None
        self.said: list[str] = []
        self.submits: list[str] = []
        self.submit_error: Exception | None = None  # raised after the cluster has taken the id
        self.refusal: Exception | None = None  # raised in place of taking it
        self.unreachable: Exception | None = None
        self.look_s = 30.0
        self.ledger = Ledger(folder / "ledger.sqlite3")
        self.scheduler = self.new_scheduler()

    def new_scheduler(self, ledger: Ledger | None = None) -> Scheduler:
        submit = self._submit  # as it is now: a test may put another in its place

        def prepare(submission_id: str, job: Job, folder: Path | None) -> Submit:
            self.prepare(folder)
            return lambda: submit(submission_id, job, folder)

        store = SchedulerBackend(prepare, self._look_up, self.cluster.stop)
        return Scheduler(
            ledger or self.ledger,
            self.load_jobs or JobFolder(self.jobs).load,
            store,
            self.said.append,
            clock=Clock(lambda: self.now, lambda: self.ticking),
            # Longer than any answer takes on a busy machine.
            settings=Settings(poll_s=0, look_s=self.look_s),
            place=lambda job, key: self.place(job, key),
        )

    def place(self, job: Job, key: str) -> tuple[Job, Path]:
        rooted = job.model_copy(update={"args": job.args | {"out_root": str(self.folder / "runs")}})
        return place_run(rooted, key)

    def prepare(self, folder: Path | None) -> None:
        """What a run's storage needs before it is submitted."""

    def _submit(self, submission_id: str, job: Job, folder: Path | None) -> None:
        self.submits.append(submission_id)
        if self.unreachable or self.refusal:
            raise self.unreachable or self.refusal  # type: ignore[misc]
        self.cluster.submit(submission_id, job, folder)
        if self.submit_error:
            raise self.submit_error

    def _look_up(self, submission_id: str) -> ClusterAnswer | None:
        if self.unreachable:
            raise self.unreachable
        return self.cluster.look_up(submission_id)

    def job(self, name: str = "nightly", cron: str = "0 * * * *", **keys: object) -> None:
        """Writes a job file; keys of `schedule` and of the job may be mixed."""
        within = {k: keys.pop(k) for k in Schedule.model_fields if k in keys}
        due = {} if "after" in within else {"cron": cron}
        dump_job(self.jobs, name, schedule=due | within, **keys)

    def pass_time(self, *, jump: bool = False, **span: float) -> None:
        """Lets time pass; with `jump` the wall clock alone is set on (or back)."""
        self.now += timedelta(**span)
        if not jump:
            self.ticking += timedelta(**span).total_seconds()

    def step(self, times: int = 1, seconds: float = 1.0) -> None:
        for _ in range(times):
            while self.scheduler.step():
                pass
            self.pass_time(seconds=seconds)

    def go_to(self, *parts: int) -> None:
        """Lets time pass to an instant, without a step in between."""
        span = at(*parts) - self.now
        assert span > timedelta()
        self.pass_time(seconds=span.total_seconds())

    def restart(self, **down: float) -> None:
        """The scheduler is killed, time passes, a new one starts."""
        self.pass_time(seconds=20)  # the lead of the killed one runs out
        self.pass_time(**down)
        self.scheduler = self.new_scheduler()

    def finish_all(
        self, status: Status = Status.SUCCEEDED, exit_code: int | None = None
    ) -> list[str]:
        """Every run that the cluster has comes to its end."""
        ended = []
        for found in self.cluster.ids():
            known = self.cluster.look_up(found)
            if known is not None and known.status in AT_WORK:
                self.cluster.begin(found)
                self.cluster.end(found, status, exit_code)
                ended.append(found)
        return ended

    def drain(self, status: Status = Status.SUCCEEDED) -> list[str]:
        """Steps and finishes until nothing is open."""
        ended: list[str] = []
        for _ in range(2000):
            self.step(seconds=0.001)
            done = self.finish_all(status)
            ended += done
            if not done and not self.ledger.open_runs():
                return ended
        raise AssertionError("runs stay open")

    def history(self, job: str = "nightly") -> list[RunRow]:
        """Oldest first."""
        return self.ledger.history(job, 100_000)[::-1]

    def states(self, job: str = "nightly") -> list[str]:
        return [str(run.state) for run in self.history(job)]

    def outcomes(self, job: str = "nightly") -> list[tuple[str, str]]:
        """Where each run came from and what became of it, oldest tick first."""
        return [(run.origin, str(run.state)) for run in self.history(job)]


def one_tick(world: World, **keys: object) -> str:
    """Writes a job, lets 01:00 come and returns the id of the first try of that tick."""
    world.job(**keys)  # type: ignore[arg-type]
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    return "nightly-20260301T010000Z-1"
