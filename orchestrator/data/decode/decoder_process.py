"""The program of a decoding process: files come in by name, images go out, one by one in order.

Started by `decoders.py`. What a file does here, at worst, is end or hang this process.
"""

import ctypes
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

from orchestrator.errors import ImageError, OrchestratorError

_PR_SET_PDEATHSIG = 1


def serve(connection: Connection) -> None:
    """Answers until the other side closes.

    The first message is the function to call; its answer is None. Each later message is one
    argument, answered by what the function returned or by the error of the package it raised.
    """
    decode = connection.recv()
    connection.send(None)
    while True:
        try:
            file = connection.recv()
        except EOFError:
            return
        try:
            answer = decode(file)
        except (ImageError, OrchestratorError) as error:
            answer = error
        connection.send(answer)


def _end_with_parent(parent: int) -> None:
    """Has the kernel end this process with its parent, which a hung one would never notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit()


def main() -> None:
    """Serves the socket whose number is the first argument, for the parent named by the second."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's, which then ends this
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the image
    _end_with_parent(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
