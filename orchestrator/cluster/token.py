"""The token by which Ray knows its user: where it is kept, made where there is none."""

import contextlib
import os
import secrets
from pathlib import Path

from orchestrator.errors import ClusterError


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
        token.parent.mkdir(parents=True, exist_ok=True)
        if not token.exists():
            _write_once(token, secrets.token_hex(32))
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
        token.read_text()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        raise ClusterError(
            f"cannot keep Ray's token in the home folder ({error}); set RAY_AUTH_TOKEN_PATH to a "
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


def _write_once(token: Path, text: str) -> None:
    """Writes a token whole, and keeps that of another process that was quicker."""
    temporary = token.with_name(f".{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            file.write(text)
        with contextlib.suppress(FileExistsError):
            token.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
