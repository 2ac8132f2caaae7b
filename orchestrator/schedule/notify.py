"""Notices of runs that failed or did not happen: by a command, a webhook or Apprise.

A notice names the job, the tick and the ids, and nothing of the images or of their folders.
"""

import http.client
import json
import logging
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

from orchestrator.config.job import OnFailure
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.rows import Notice, run_key

_LIMIT_S = 30.0
_TRIES = 3
_AT_ONCE = 4


class _Sending(threading.Thread):
    """One notice on its way; a program on a share that hangs may keep it for ever."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(daemon=True, name="notice")
        self._notice = notice
        self._end = time.monotonic() + 2 * _LIMIT_S
        self._problem: str | None = None

    def run(self) -> None:
        try:
            target = OnFailure.model_validate_json(self._notice.target)
            self._problem = send(target, build_body(self._notice))
        except Exception as error:  # whatever it is, it is what went wrong
            self._problem = f"{type(error).__name__}"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is given up."""
        return not self.is_alive() or time.monotonic() > self._end

    def result(self) -> str | None:
        """Returns what went wrong, None where it was sent."""
        return "the command does not end" if self.is_alive() else self._problem

    def wait(self) -> None:
        """Waits until it is over."""
        self.join(max(0.0, self._end - time.monotonic()))


class Notifier:
    """Sends notices beside the loop, which must not wait for a pager.

    A notice counts as sent when that is in the ledger, so one may come twice after a crash and
    none is lost; one that does not arrive is sent three times.
    """

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._under_way: dict[Notice, _Sending] = {}
        self._failures: dict[Notice, int] = {}

    def step(self) -> None:
        """Begins the notices that are due and records those that have ended."""
        for notice in self._leadership.ledger.notices():
            sending = self._under_way.get(notice)
            if sending is None:
                is_ready = self._leadership.ready(_key(notice))
                if is_ready and len(self._under_way) < _AT_ONCE:
                    sending = self._under_way[notice] = _Sending(notice)
                    sending.start()
            elif sending.is_over:
                del self._under_way[notice]
                self._record(notice, sending.result())

    def _record(self, notice: Notice, problem: str | None) -> None:
        failures = self._failures.pop(notice, 0) + 1
        if problem is not None and failures < _TRIES:
            self._failures[notice] = failures
            self._leadership.wait(_key(notice), self._leadership.settings.retry_wait_s)
            return
        with self._leadership.writing() as write:
            write.record_sending(notice, problem or "sent")
        if problem is not None:
            key = run_key(notice.job, notice.tick)
            self._leadership.say(f"{key}: nobody was notified that it is {notice.state}: {problem}")

    def close(self) -> None:
        """Waits for what is under way, at most its time limit, and starts nothing more."""
        for sending in self._under_way.values():
            sending.wait()


def _key(notice: Notice) -> tuple[str, ...]:
    return ("notice", notice.kind, run_key(notice.job, notice.tick))


def build_body(notice: Notice) -> dict[str, str | int]:
    """Returns what a notice says, JSON-able."""
    return {
        "job": notice.job,
        "tick": notice.tick.isoformat(),
        "state": notice.state,
        "reason": notice.reason,
        "attempts": notice.attempts,
        "submission_id": notice.submission_id,
    }


def send(target: OnFailure, notice: dict[str, str | int]) -> str | None:
    """Runs the command or posts to the webhook; returns None where it went well, else one line.

    The command gets each value as an environment variable such as `ORCHESTRATOR_JOB`, the webhook
    all of them as one JSON object, and Apprise a title with a line for each. An address may hold a
    secret: it is never repeated.
    """
    if target.command is not None:
        return _run_command(target.command, notice)
    if target.apprise is not None:
        return find_problem(target) or _send_by_apprise(os.environ[target.apprise], notice)
    return _post(target.webhook or "", notice)


def find_problem(target: OnFailure | None) -> str | None:
    """Returns why nobody can be notified from here, None where nothing speaks against it."""
    if target is None or target.apprise is None:
        return None
    if find_spec("apprise") is None:
        return "on_failure: apprise is not installed; pip install 'xray-orchestrator[notify]'"
    if not os.environ.get(target.apprise):
        return f"on_failure: the scheduler's environment has no {target.apprise}; set it there"
    return None


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


def _send_by_apprise(address: str, notice: dict[str, str | int]) -> str | None:
    import apprise

    logger = logging.getLogger("apprise")  # it repeats addresses
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    sender = apprise.Apprise()
    # One, so that another try does not tell those again that were reached.
    if not sender.add(address) or len(sender) != 1:
        return "the address is not one of Apprise's; expected a single one, such as mailtos://..."
    told = sender.notify(
        title=f"{notice['job']}: {notice['state']}",
        body="\n".join(f"{key}: {value}" for key, value in notice.items()),
        body_format=apprise.NotifyFormat.TEXT,
    )
    return None if told else "Apprise did not deliver it"
