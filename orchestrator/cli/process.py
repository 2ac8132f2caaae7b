"""What the process of a command meets: readers that end before it, and signals that stop it."""

import io
import math
import os
import signal
import sys
import time
from typing import Any

_PATIENCE_S = 5.0


class _LastingStream(io.TextIOWrapper):
    """A standard stream that the command outlives: where it takes no more, the rest is dropped."""

    def __init__(self, number: int, encoding: str, dropped: type[OSError]) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(number, "wb", closefd=False)),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
        )
        self._number, self._dropped = number, dropped

    def write(self, text: str) -> int:
        """Writes text; what nobody takes counts as written."""
        try:
            return super().write(text)
        except self._dropped:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        try:
            super().flush()
        except self._dropped:
            self._drop()

    def _drop(self) -> None:
        """Has the rest, with what is still buffered, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._number)
        os.close(nowhere)


def keep_streams() -> None:
    """Makes standard output and standard error streams that cannot fail a run.

    A reader may end (`2>&1 | head`), a terminal go, a stream be closed from the start; a result
    that a full disk refuses is still an error. What a stream's encoding lacks is written escaped.
    """
    # The number of a closed stream would go to the next file that is opened.
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(spare, True)
    os.close(spare)
    for number, name, dropped in ((1, "stdout", BrokenPipeError), (2, "stderr", OSError)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # others are read within this process
            encoding = stream.encoding if stream else "utf-8"
            setattr(sys, name, _LastingStream(number, encoding, dropped))


def hear_signals() -> list[int]:
    """Turns Ctrl-C and SIGTERM into a KeyboardInterrupt.

    What follows within five seconds is not heard: it would break off the work of stopping. After
    that it is, should the first one have been lost or the stopping take for ever.

    Returns:
        The numbers of the signals that have come, filled as they come.
    """
    received: list[int] = []
    heard_at = -math.inf

    def stop(number: int, _: Any) -> None:
        nonlocal heard_at
        received.append(number)
        if time.monotonic() - heard_at > _PATIENCE_S:
            heard_at = time.monotonic()
            # Ray passes on no other exception out of its calls, and of this one only the kind.
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for a job in the background
            signal.signal(number, stop)
    return received


def ignore_signals() -> None:
    """Has the process end undisturbed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
