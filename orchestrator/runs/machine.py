"""Which machine this is, since which start of it, and which of its processes is still the same.

A process id is worth something only together with the machine, its start and the start of the
process.
"""

import os
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


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with its id.

    Args:
        machine: that it runs on.
        namespace: in which its id counts: a container has its own.
        pid: its id there.
        started: its start, in the machine's own ticks; empty where the system does not say.
    """

    machine: Machine
    namespace: str
    pid: int
    started: str

    def is_gone(self) -> bool:
        """Returns whether the process has ended for certain, as far as this one can tell."""
        here = this_process()
        if self.machine.host != here.machine.host:
            return False
        if self.machine.boot_id != here.machine.boot_id:
            return True
        if self.namespace != here.namespace:
            return False
        started = _start_of(self.pid)
        return started is None or bool(started and self.started and started != self.started)


def this_machine() -> Machine:
    """Returns the machine that this process runs on."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    return Machine(socket.gethostname(), boot_id)


def this_process() -> Process:
    """Returns this process."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return Process(this_machine(), namespace, os.getpid(), _start_of(os.getpid()) or "")


def _start_of(pid: int) -> str | None:
    """Start of a process that has not ended; None where there is none, empty where unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the program's name, in brackets, may hold anything
    return None if fields[0] in "ZX" else fields[19]
