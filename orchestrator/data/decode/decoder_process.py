"""The program of a decoding process: files come in by name, images go out, one by one in order.

Started by `decoders.py`, in whose form of `answers.py` it answers. What a file does here, at worst,
is end or hang this process.
"""

import ctypes
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from orchestrator.data.decode.answers import Answer, pack
from orchestrator.data.limits import rejection
from orchestrator.errors import ImageError, OrchestratorError

_PR_SET_PDEATHSIG = 1
_STATUS = Path("/proc/self/status")  # of Linux; elsewhere memory is not limited
# Decoders in C say only that they failed; so close to the limit it was for want of memory.
_EXHAUSTED = 0.8


def serve(connection: Connection, max_memory: int) -> None:
    """Answers until the other side closes, or a file took all memory there is.

    The first message is the function to call; its answer is None. Each later message is one
    argument, answered by what the function returned or by the error of the package it raised.

    Args:
        connection: to `decoders.py`, which alone may send what is unpickled here.
        max_memory: most memory that decoding may take beside this program's own, bytes.
    """
    decode = connection.recv()
    before = limit_memory(max_memory)
    connection.send_bytes(pack(None))
    while True:
        try:
            file = connection.recv()
        except EOFError:
            return
        answer: Answer
        try:
            answer = decode(file)
        except MemoryError:
            answer = rejection("out_of_memory", "There was not enough memory to decode it")
        except (ImageError, OrchestratorError) as error:
            answer = error
        if isinstance(answer, ImageError) and answer.code == "damaged":
            taken = _read_memory("VmPeak") - before
            if taken > max_memory * _EXHAUSTED:
                found = f"Decoding took all {max_memory} bytes of memory"
                answer = rejection("out_of_memory", found)
        connection.send_bytes(pack(answer))
        if isinstance(answer, ImageError) and answer.code == "out_of_memory":
            return  # what it took counts against no other file


def limit_memory(max_memory: int) -> int:
    """Limits the address space of this process, and returns what it takes already, bytes.

    Args:
        max_memory: what it may take beyond that, bytes.
    """
    before = _read_memory("VmSize")
    if before:
        limit = before + max_memory
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return before


def _read_memory(name: str) -> int:
    """Returns a line of the process's status in bytes; 0 where the system has none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def _end_with_parent(parent: int) -> None:
    """Has the kernel end this process with its parent, which a hung one would never notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit()


def main() -> None:
    """Serves a socket for a parent, with so much memory: three numbers as arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's, which then ends this
    socket, parent, max_memory = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the image
    _end_with_parent(parent)
    serve(Connection(socket), max_memory)


if __name__ == "__main__":
    main()
