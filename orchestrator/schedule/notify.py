"""Telling somebody that the last try of a run has failed: a command or a webhook.

What is told names the job, the tick and the ids, and nothing of the images or of their folders.
"""

import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.config.job import OnFailure
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import load_terms
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.ledger import RunRow, run_key

_LIMIT_S = 30.0
_TRIES = 3


class Notifier:
    """Sends notices beside the loop, which must not wait for a pager.

    A notice counts as sent when that is in the ledger, so one may come twice after a crash and
    none is lost; one that does not arrive is sent three times.
    """

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="notice")
        self._under_way: dict[str, Future[str | None]] = {}
        self._failures: dict[str, int] = {}

    def step(self) -> None:
        """Begins the notices that are due and records those that have ended."""
        for run in self._leadership.ledger.notices():
            key = run_key(run.job, run.tick)
            future = self._under_way.get(key)
            if future is None:
                if self._leadership.ready(("notice", key)):
                    self._begin(key, run)
            elif future.done():
                del self._under_way[key]
                self._record(key, run, future.result())

    def _begin(self, key: str, run: RunRow) -> None:
        target = load_terms(run.spec).on_failure
        if target is not None:
            self._under_way[key] = self._pool.submit(send, target, build_notice(run))

    def _record(self, key: str, run: RunRow, problem: str | None) -> None:
        failures = self._failures.pop(key, 0) + 1
        if problem is not None and failures < _TRIES:
            self._failures[key] = failures
            self._leadership.wait(("notice", key), self._leadership.settings.retry_wait_s)
            return
        with self._leadership.writing() as write:
            write.notice(run.job, run.tick, problem or "sent")
        if problem is not None:
            self._leadership.say(f"{key}: nobody was notified of its failure: {problem}")

    def close(self) -> None:
        """Waits for what is under way, at most its time limit, and starts nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def build_notice(run: RunRow) -> dict[str, str | int]:
    """Returns what a notice says of a failed run, JSON-able."""
    waiting = run.state is TickState.SUBMITTING
    reason = "not started within its window: the cluster does not answer" if waiting else run.reason
    return {
        "job": run.job,
        "tick": run.tick.isoformat(),
        "state": str(run.state),
        "reason": reason or "",
        "attempts": run.attempt,
        "submission_id": run.submission_id or "",
    }


def send(target: OnFailure, notice: dict[str, str | int]) -> str | None:
    """Runs the command or posts to the webhook; returns None where it went well, else one line.

    The command gets each value as an environment variable such as `ORCHESTRATOR_JOB`, the webhook
    all of them as one JSON object. An address may hold a secret: it is never repeated.
    """
    if target.command is not None:
        return _run_command(target.command, notice)
    return _post(target.webhook or "", notice)


def _run_command(command: list[str], notice: dict[str, str | int]) -> str | None:
    told = {f"ORCHESTRATOR_{key.upper()}": str(value) for key, value in notice.items()}
    try:
        done = subprocess.run(
            command,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command took longer than {_LIMIT_S:g} s"
    except (OSError, ValueError) as error:
        return f"the command did not start: {error}"
    return f"the command ended with exit code {done.returncode}" if done.returncode else None


def _post(address: str, notice: dict[str, str | int]) -> str | None:
    request = urllib.request.Request(
        address,
        data=json.dumps(notice).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "orchestrator"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=_LIMIT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"the webhook answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"the webhook was not reached ({type(error).__name__})"
