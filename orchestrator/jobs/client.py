"""Jobs on a cluster: submitted, looked up, followed and stopped through Ray Jobs.

A job's driver is `orchestrator jobs drive FILE` on the cluster's head. FILE is `job.yaml` in the
run folder, which the head must see under the same path: ids, metadata and the command that the
cluster shows name that folder and nothing of what is read.
"""

import asyncio
import contextlib
import logging
import os
import re
import shlex
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.cluster.address import check_answers
from orchestrator.errors import ClusterError, SpecError
from orchestrator.jobs.local_head import ensure_head, find_head
from orchestrator.runs.states import Status

_LOCALHOST = "127.0.0.1"
UNSEEN = "the cluster does not see"  # begins what a driver says that does not find its job
LOCAL = "local"  # name of the cluster that is this machine's own head
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ANSWER_LIMIT_S = 20.0
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class JobInfo:
    """What the cluster says of a job.

    Args:
        submission_id: its id.
        status: as the cluster sees it.
        exit_code: of the driver, None where it has none yet or was killed with its node.
        metadata: as it was given at the submit.
        started_at: when the cluster took it.
        ended_at: when its driver ended.
    """

    submission_id: str
    status: Status
    exit_code: int | None
    metadata: dict[str, str]
    started_at: datetime | None
    ended_at: datetime | None


def check_id(submission_id: str) -> str:
    """Returns an id that Ray takes; raises SpecError for others, which would stay pending."""
    if not _ID.fullmatch(submission_id):
        raise SpecError(
            f"{submission_id[:110]!r} is not a valid job id: expected 1 to 100 letters, digits, _ "
            "and -, as `orchestrator jobs list` shows them"
        )
    return submission_id


def name_cluster(address: str | None) -> str:
    """Returns the address that is given or set in the environment, `local` without one."""
    named = [address, *(os.environ.get(name) for name in _ADDRESS_VARIABLES)]
    return next((found for found in named if found), LOCAL)


def build_entrypoint(file: Path, cwd: Path, cluster: str) -> str:
    """Returns the shell command that runs a stored job on the head.

    Args:
        file: the stored job.
        cwd: working directory of the run, for its `models` and `runs`.
        cluster: a local head runs this very Python, another the `python` of its own environment.
    """
    python = sys.executable if cluster == LOCAL else "python"
    command = [python, "-m", "orchestrator", "jobs", "drive", str(file), "--expect", __version__]
    mode = "RAY_AUTH_MODE=disabled " if _is_insecure() else ""
    seen = f"cd {shlex.quote(str(cwd))} && [ -f {shlex.quote(str(file))} ]"
    told = (
        f"error: {UNSEEN} {cwd} and {file}; submit from a folder on the storage that every node "
        "mounts at one path, with the paths of the job there too"
    )
    # A folder that is not there now may be there at the next try; a shell's own code would end it.
    away = f"{{ echo {shlex.quote(told)}; exit {ClusterError.exit_code}; }}"
    return f"{seen} || {away}; {mode}exec {shlex.join(command)}"


def _is_insecure() -> bool:
    return os.environ.get("RAY_AUTH_MODE") == "disabled"


class Connection:
    """A cluster's job endpoints, made when they are first needed and again for another head.

    Args:
        cluster: an address, or `local` for this machine's own head.
        say: told where a local head is started.
    """

    def __init__(self, cluster: str, say: Callable[[str], None]) -> None:
        self.cluster, self._say = cluster, say
        self._jobs: Jobs | None = None

    def get(self, *, start: bool) -> "Jobs | None":
        """Returns the endpoints.

        Args:
            start: start a local head where none is running.

        Returns:
            None for `local` where no head is running and none is to be started.

        Raises:
            ClusterError: the cluster does not answer, or answers without asking for a token.
        """
        address = self.cluster
        if self.cluster == LOCAL:
            head = ensure_head(self._say) if start else find_head()
            if head is None:
                return None
            address = head.address
            _bypass_proxy()
        if self._jobs is None or self._jobs.address != address:
            self._jobs = Jobs(address)
        return self._jobs


class Jobs:
    """The job endpoints of one cluster.

    Args:
        address: `http://HOST:PORT` of the dashboard, or an address that `RAY_ADDRESS` takes.

    Raises:
        ClusterError: the cluster does not answer, refuses the token, or asks for none.
    """

    def __init__(self, address: str) -> None:
        import ray.dashboard.utils as dashboard
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            """Ray's client, which would wait for a silent head for ever."""

            last_code = 0

            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                self.last_code = 0
                options.setdefault("timeout", _ANSWER_LIMIT_S)
                answer = super()._do_request(method, endpoint, **options)
                self.last_code = answer.status_code
                return answer

        # Ray tells of every connection that it closes.
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        self.address = address
        if not address.startswith(("http://", "https://")):
            check_answers(address)
        with self._errors(), _without_address_variables():
            url = dashboard.get_address_for_submission_client(address)
            if not _is_insecure():
                _refuse_open(url)
            self._client = Client(url)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClusterError:
            raise
        except Exception as error:  # Ray's client raises many kinds, of several libraries
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = textwrap.shorten(lines[0], 200, placeholder=" ...").rstrip(".")
            raise ClusterError(
                f"the cluster at {self.address} refused the request: {reason}; check --address "
                "or RAY_ADDRESS, and the token in RAY_AUTH_TOKEN_PATH"
            ) from error

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        """Starts a job under an id, which the cluster takes once.

        Raises:
            SpecError: not an id that Ray takes.
            ClusterError: it was not taken, or the answer was lost; look the id up.
        """
        check_id(submission_id)
        with self._errors():
            self._client.submit_job(
                submission_id=submission_id, entrypoint=entrypoint, metadata=metadata
            )

    def look_up(self, submission_id: str) -> JobInfo | None:
        """Returns what the cluster knows of an id, None where it knows nothing."""
        check_id(submission_id)
        with self._errors():
            try:
                found = self._client.get_job_info(submission_id)
            except RuntimeError:
                if self._client.last_code == 404:
                    return None
                raise
        return _describe(found)

    def list_all(self) -> list[JobInfo]:
        """Returns every submitted job that the cluster knows."""
        with self._errors():
            return [_describe(found) for found in self._client.list_jobs() if found.submission_id]

    def stop(self, submission_id: str) -> None:
        """Asks for the end of a job's driver; Ray ends its workers with it."""
        check_id(submission_id)
        with self._errors():
            self._client.stop_job(submission_id)

    def logs(self, submission_id: str) -> str:
        """Returns the driver's output so far."""
        check_id(submission_id)
        with self._errors():
            return str(self._client.get_job_logs(submission_id))

    def follow(self, submission_id: str, write: Callable[[str], None]) -> None:
        """Writes the driver's output as it comes, until the job has ended."""
        check_id(submission_id)

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(submission_id):
                write(lines)

        with self._errors():
            asyncio.run(tail())


def _describe(found: Any) -> JobInfo:
    return JobInfo(
        submission_id=str(found.submission_id),
        status=Status(found.status.value),
        exit_code=found.driver_exit_code,
        metadata={str(k): str(v) for k, v in (found.metadata or {}).items()},
        started_at=_moment(found.start_time),
        ended_at=_moment(found.end_time),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _bypass_proxy() -> None:
    """Has this process reach the local head straight: its token is not for a proxy to see."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if _LOCALHOST not in hosts:
            os.environ[name] = ",".join([*hosts, _LOCALHOST])


def _refuse_open(url: str) -> None:
    """Raises ClusterError for a head that answers a request without a token."""
    try:
        # An opener of its own: the shared one keeps the proxies that it began with.
        with urllib.request.build_opener().open(f"{url}/api/version", timeout=_ANSWER_LIMIT_S):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise ClusterError(f"{url} answers {error.code}: is it a Ray dashboard?") from error
    except (OSError, ValueError) as error:
        raise ClusterError(f"{url} cannot be reached ({error}); check --address") from error
    raise ClusterError(
        f"the head at {url} answers without a token, so anybody who reaches it can run commands "
        "there; start it with RAY_AUTH_MODE=token, or add --insecure"
    )


@contextlib.contextmanager
def _without_address_variables() -> Iterator[None]:
    """Hides the variables that Ray would prefer to the address it is given."""
    kept = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
