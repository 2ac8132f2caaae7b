"""Makes image files misbehave by their last bytes; runs in every process that finds it on its path.

`CRASH!` ends the process with a segmentation fault, `HANG!!` hangs it with the interpreter's lock
held, and `PYTHON_DECODE_S` in the environment makes every file take so many seconds (a decoding
process keeps the variables of Python's, and few others). `KILL_AT` kills the process before its
life cycle's n-th change of the file system.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from PIL import ImageFile

_load = ImageFile.ImageFile.load


def load(self: Any) -> Any:
    end = getattr(self.fp, "getvalue", bytes)()[-6:]
    if end == b"CRASH!":
        ctypes.string_at(0)
    if end == b"HANG!!":
        ctypes.PyDLL(None).pause()
    time.sleep(float(os.environ.get("PYTHON_DECODE_S", "0")))
    return _load(self)


ImageFile.ImageFile.load = load


def guard(change: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Counts the calls that the life cycle makes, and kills the process at the last."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.endswith("runs/life_cycle.py"):
            frame = frame.f_back
        # The work is done while the life cycle's context is open, but is not called by it.
        if frame is not None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return change(*args, **kwargs)

    return guarded


if os.environ.get("KILL_AT"):
    remaining = [int(os.environ["KILL_AT"])]
    for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
        setattr(os, name, guard(getattr(os, name), remaining))
