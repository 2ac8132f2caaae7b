"""A real Ray head as the cluster of the kill harness; its jobs write what is counted."""

import multiprocessing
import os
from pathlib import Path

import ray.job_submission  # noqa: F401 - before the fork server forks: it takes seconds

from orchestrator.jobs.scheduler_backend import RayJobsBackend
from orchestrator.schedule.leadership import SchedulerBackend
from tests.schedule.fake_cluster import fails


def build_store(folder: Path) -> SchedulerBackend:
    """The head whose address is in `folder`; its jobs append their ids to `journal`."""
    if multiprocessing.parent_process() is not None:  # a forked one has not the tests' environment
        os.environ["XDG_STATE_HOME"] = str(folder / "state")

    def entrypoint(submission_id: str, file: Path) -> str:
        code = 1 if fails(submission_id) else 0
        return f"echo {submission_id} >> {folder}/journal; exit {code}"

    address = (folder / "address").read_text()
    return RayJobsBackend(address, lambda line: None, entrypoint).as_backend()
