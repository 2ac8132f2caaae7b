"""Who we are to an archive: credentials from the environment, which are kept in memory alone.

`DICOMWEB_TOKEN_COMMAND` is a command that prints a bearer token; it is run again when the archive
refuses the token that it gave. `DICOMWEB_USERNAME` and `DICOMWEB_PASSWORD` are sent by HTTP's basic
scheme. Where neither is there, `requests` looks into `~/.netrc`, or into what `NETRC` names.
"""

import os
import shlex
import subprocess
import threading
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from orchestrator.errors import ClusterError, SpecError

TOKEN_COMMAND, USERNAME, PASSWORD = (
    "DICOMWEB_TOKEN_COMMAND",
    "DICOMWEB_USERNAME",
    "DICOMWEB_PASSWORD",
)
_COMMAND_S = 60.0
_UNAUTHORIZED = 401


def find_login() -> AuthBase | None:
    """Returns what the environment says of who we are; None where it says nothing.

    Raises:
        SpecError: a user without a password, or the reverse, or a command that is no command.
    """
    command, user, password = map(os.environ.get, (TOKEN_COMMAND, USERNAME, PASSWORD))
    if command:
        return _Bearer(command)
    if bool(user) != bool(password):
        raise SpecError(f"of {USERNAME} and {PASSWORD} one alone is set; set both or neither")
    # As bytes: as text they are sent in Latin-1.
    return HTTPBasicAuth(user.encode(), password.encode()) if user and password else None


class _Bearer(AuthBase):
    """Sends a token, and asks for a new one when it is refused."""

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise SpecError(
                f"{TOKEN_COMMAND} is no command ({error}); expected one that prints a token"
            ) from None
        self._lock = threading.Lock()
        self._token: str | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Returns the request with the token."""
        request.headers["Authorization"] = self._header(refused=None)
        request.register_hook("response", self._renew)
        return request

    def _renew(self, response: requests.Response, **options: Any) -> requests.Response:
        """Returns the answer to the same request with a new token where the old one is refused."""
        refused = response.request.headers.get("Authorization")
        # A redirection to another host takes the token away.
        if response.status_code != _UNAUTHORIZED or refused is None:
            return response
        response.content  # noqa: B018 - the connection is free once it is read
        response.close()
        request = response.request.copy()
        request.headers["Authorization"] = self._header(str(refused))
        connection: Any = response.connection
        again: requests.Response = connection.send(request, **options)
        again.history.append(response)
        again.request = request
        return again

    def _header(self, refused: str | None) -> str:
        with self._lock:  # of several threads that are refused one asks
            if self._token is None or f"Bearer {self._token}" == refused:
                self._token = self._ask()
            return f"Bearer {self._token}"

    def _ask(self) -> str:
        """Returns what the command prints; nothing of it goes into a message.

        Raises:
            ClusterError: it failed or printed no token.
        """
        try:
            done = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_S,
                check=True,
            )
            token = done.stdout.decode("ascii").strip()
            if not token or not token.isprintable() or " " in token:
                raise ValueError("it printed no token")
        except subprocess.CalledProcessError as error:
            problem = f"exit status {error.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"no end after {_COMMAND_S:g} s"
        except OSError as error:
            problem = error.strerror or "it cannot be run"
        except ValueError:
            problem = "it printed no token"
        else:
            return token
        raise ClusterError(
            f"the command of {TOKEN_COMMAND} gave no token ({problem}); repair it, then run the "
            "same command again to continue"
        )
