"""Which cluster a command joins, and whether one answers there."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from urllib.parse import urlsplit

from orchestrator.cluster.token import load_token
from orchestrator.errors import ClusterError, SpecError

_CONNECT_LIMIT_S = 5.0
_ANSWER_LIMIT_S = 20.0
_ADVICE = "check RAY_ADDRESS, or unset it to run on this machine"


def find_address(address: str | None = None) -> str | None:
    """Returns the cluster to join: the address given, else that of `RAY_ADDRESS`.

    Returns:
        None where the command is to start a Ray of its own: no address, an empty one, or `local`.
    """
    found = (address or os.environ.get("RAY_ADDRESS") or "").strip()
    return None if found == "local" else found or None


def check_answers(address: str) -> None:
    """Checks that a Ray head answers at an address, in at most 25 s.

    Ray itself would try for 14 minutes and write lines of its own to the terminal.

    Args:
        address: `HOST:PORT` of a head, `ray://HOST:PORT` of a Ray Client server, or `auto`.

    Raises:
        SpecError: not an address that can be joined.
        ClusterError: nobody answers, or the head refuses.
    """
    if address.startswith(("http://", "https://")):
        raise SpecError(
            f"{address} only accepts jobs: write a job file and run `orchestrator submit FILE`, or "
            "run this command on a node of the cluster with RAY_ADDRESS=HOST:6379"
        )
    if address != "auto":
        _check_port(address)
    if not address.startswith("ray://"):
        _check_head(address)


def _check_port(address: str) -> None:
    """Checks that something listens at an address."""
    try:
        parts = urlsplit(f"//{address.removeprefix('ray://')}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SpecError(f"{address!r} is not an address of a Ray cluster; expected HOST:PORT")
    try:
        socket.create_connection((host, port), _CONNECT_LIMIT_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); {_ADVICE}"
        ) from error


def _check_head(address: str) -> None:
    """Has Ray ask the head, in a process that can be ended and whose lines are not shown."""
    if os.environ.get("RAY_AUTH_MODE") == "token" and not load_token():
        raise ClusterError(
            f"no token for the Ray cluster at {address}; copy its token to ~/.ray/auth_token, or "
            "name a file of it in RAY_AUTH_TOKEN_PATH"
        )
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(
            ask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"no Ray head answers at {address} in {_ANSWER_LIMIT_S:g} s; {_ADVICE}"
        ) from error
    if not done.returncode:
        return
    if "AuthenticationError" in done.stderr:
        raise ClusterError(
            f"the Ray head at {address} refuses the token; RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token must hold that of the cluster"
        )
    raise ClusterError(f"the Ray head at {address} cannot be joined: {_find_reason(done.stderr)}")


def _find_reason(said: str) -> str:
    """Returns the message of the exception by which a process ended, or its last line."""
    lines = said.strip().splitlines() or ["it does not say why"]
    raised = [at for at, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return textwrap.shorten(" ".join(lines[raised[-1] if raised else -1 :]), 300)
