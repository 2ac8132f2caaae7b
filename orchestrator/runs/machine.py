"""Which machine this is, and since which start of it: what a process id is worth anything in."""

import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Machine:
    """A machine from one start to the next.

    Args:
        host: its name.
        boot_id: another after every start; empty where the system has none.
    """

    host: str
    boot_id: str


def this_machine() -> Machine:
    """Returns the machine that this process runs on."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    return Machine(socket.gethostname(), boot_id)
