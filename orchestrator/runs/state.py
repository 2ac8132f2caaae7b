"""Where the program keeps what outlives a command and belongs to one user of one machine."""

import os
from pathlib import Path

from orchestrator.config.load import resolve_path


def state_folder() -> Path:
    """Returns the user's state folder, outside the working folder, which may be shared storage."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(resolve_path(state, Path.cwd())) / "orchestrator"


def job_records_folder() -> Path:
    """Returns where submits are recorded, one JSON file each, named by its job id."""
    return state_folder() / "jobs"


def schedule_ledger() -> Path:
    """Returns the schedule ledger's usual place, on a local disk as SQLite needs it."""
    return state_folder() / "schedule.sqlite3"
