"""Where the program keeps what outlives a command and belongs to one user of one machine."""

import os
from pathlib import Path


def state_folder() -> Path:
    """Returns the user's state folder, outside the working folder, which may be shared storage."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser().absolute() / "orchestrator"
