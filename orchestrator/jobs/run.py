"""A job given to a cluster and, where asked, waited for: its output, its timeout, its tries."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.errors import FINAL_EXIT_CODES, ClusterError, SpecError
from orchestrator.jobs.client import LOCAL, UNSEEN, Connection, Jobs
from orchestrator.jobs.records import remove_record
from orchestrator.jobs.submit import next_try, start_job, store_job
from orchestrator.jobs.view import JobView, view_job
from orchestrator.runs.reconcile import AT_WORK, look_at
from orchestrator.runs.states import Status

POLL_S = 0.5
_START_LIMIT_S = 20.0  # for a driver to start, after a submit that nobody waits for
_FIRST_LOOK_S = 2.0  # for it to find its folder
_LAST_LINES_S = 10.0  # after the end of a job, for the rest of its output
_SILENCE_LIMIT_S = 120.0  # of a cluster that a waiting command goes on asking


def run_job(
    connection: Connection,
    submission_id: str,
    job: Job,
    run: Path,
    *,
    wait: bool,
    say: Callable[[str], None],
) -> JobView:
    """Submits a try and, where asked, waits for it and for those that follow.

    Args:
        connection: to the cluster; a local head is started where there is none.
        submission_id: of the first try.
        job: with every path absolute.
        run: the run folder.
        wait: until the last try has ended.
        say: receives the output and how each try ended.

    Returns:
        The last try.

    Raises:
        SpecError: the cluster does not see the working folder; told where nobody waits.
        ClusterError: the cluster did not take it, or does not answer any more.
    """
    _submit(connection, submission_id, job, run)
    if not wait:
        jobs = connection.get(start=False)
        if jobs is not None and connection.cluster != LOCAL:
            with contextlib.suppress(ClusterError):  # it was taken, whatever this look finds
                _check_seen(jobs, submission_id)
        return view_job(jobs, submission_id)
    for left in range(job.retries, -1, -1):
        view = _wait(connection, submission_id, job.timeout, say)
        say(f"{submission_id}: {view.status}{f': {view.reason}' if view.reason else ''}")
        if view.status is not Status.FAILED or not left or view.code in FINAL_EXIT_CODES:
            break
        submission_id = next_try(submission_id)
        _submit(connection, submission_id, job, run)
    return view


def _submit(connection: Connection, submission_id: str, job: Job, run: Path) -> None:
    jobs = connection.get(start=True)
    if jobs is None:
        raise ClusterError("the local head has ended; run the same command again")
    try:
        start_job(jobs, store_job(connection.cluster, submission_id, job, run, look_at(run).mark))
    except ClusterError:
        if jobs.look_up(submission_id) is None:
            remove_record(submission_id)
            raise  # else it was taken, and only the answer was lost


def _check_seen(jobs: Jobs, submission_id: str) -> None:
    """Raises SpecError where a driver ends at its start, since its folder is not on the cluster."""
    until = time.monotonic() + _START_LIMIT_S
    is_running = False
    while time.monotonic() < until:
        info = jobs.look_up(submission_id)
        if info is None or info.status not in AT_WORK:
            said = jobs.logs(submission_id).splitlines() if info else []
            unseen = [line for line in said if line.startswith(f"error: {UNSEEN}")]
            if unseen:
                raise SpecError(unseen[0].removeprefix("error: "))
            return
        if info.status is Status.RUNNING and not is_running:
            is_running, until = True, time.monotonic() + _FIRST_LOOK_S
        time.sleep(POLL_S)


def _wait(
    connection: Connection,
    submission_id: str,
    timeout: timedelta,
    say: Callable[[str], None],
) -> JobView:
    """Shows a job's output until it has ended; stops it where it takes too long."""
    jobs = connection.get(start=False)
    # The end is looked up: that the output breaks off is no error.
    follower = threading.Thread(target=_follow, args=(jobs, submission_id, say), daemon=True)
    follower.start()
    began = heard = time.monotonic()
    late = False
    while True:
        try:
            jobs = connection.get(start=False)
            view = view_job(jobs, submission_id)
            heard = time.monotonic()
            if not view.is_open:
                follower.join(_LAST_LINES_S)  # its output ends after it
                return _judge_late(view) if late else view
            if jobs and heard - began > timeout.total_seconds():
                late = True
                jobs.stop(submission_id)
        except ClusterError:
            if time.monotonic() - heard > _SILENCE_LIMIT_S:
                raise
        time.sleep(POLL_S)


def _judge_late(view: JobView) -> JobView:
    """Returns a job that was stopped for its timeout as failed: another try may follow."""
    if view.status is not Status.STOPPED:
        return view
    return replace(view, status=Status.FAILED, reason="ran longer than its timeout")


def _follow(jobs: Jobs | None, submission_id: str, say: Callable[[str], None]) -> None:
    if jobs is None:
        return

    def pass_on(lines: str) -> None:
        for line in lines.splitlines():
            say(line)

    with contextlib.suppress(ClusterError):
        jobs.follow(submission_id, pass_on)
