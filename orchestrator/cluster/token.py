"""The token by which Ray knows its user: where it is kept, made where there is none."""

import os
import secrets
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.runs.atomic import atomic_path
from orchestrator.runs.folders import make_folder


def ensure_token() -> None:
    """Makes the authentication token where there is none, readable to its owner alone.

    Ray would make it readable to all; the rights of an existing default file are fixed too.

    Raises:
        ClusterError: there is no home folder, or the file in it cannot be written or read.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        token = default_token_file()
        make_folder(token.parent)
        if token.exists() and not token.read_text().strip():
            token.unlink()  # what a power cut once left
        if not token.exists():
            with atomic_path(token, 0o600, keep=True) as temporary:
                temporary.write_text(secrets.token_hex(32))
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
        token.read_text()
    except (OSError, RuntimeError, ClusterError) as error:  # RuntimeError: no home folder
        reason = error.__cause__ or error
        raise ClusterError(
            f"cannot keep Ray's token in the home folder ({reason}); set RAY_AUTH_TOKEN_PATH to a "
            "file that holds a token"
        ) from error


def ensure_private_token() -> None:
    """Makes a token for a Ray that this process starts, uses and ends.

    Where the home folder cannot keep one it is in the environment, which the processes inherit.
    """
    try:
        ensure_token()
    except ClusterError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def default_token_file() -> Path:
    """Returns where Ray looks for the token unless its environment variables say otherwise.

    Raises:
        RuntimeError: this user has no home folder.
    """
    return Path.home() / ".ray" / "auth_token"


def load_token() -> str:
    """Returns the authentication token of this user, as Ray finds it; empty where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(named) if named else default_token_file()).read_text().strip()
    except (OSError, RuntimeError):
        return ""
