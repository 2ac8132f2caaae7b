"""Decoders that crash or hang on marked files; importable by decoding processes."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from orchestrator.data.decode.images import DecodedImage
from orchestrator.errors import ImageError


def decode(name: str) -> DecodedImage:
    """Returns an image that carries the number at the end of the name, or does what it says."""
    what, _, number = name.partition(":")
    if what == "crash":
        ctypes.string_at(0)
    elif what == "abort":
        os.abort()
    elif what == "hang":
        ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock
    elif what == "spin":
        while True:
            pass
    elif what == "killed-once":
        mark = Path(number)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        number = "7"
    elif what == "bad":
        raise ImageError("damaged", "Bad.")
    elif what == "slow":
        time.sleep(0.05)
    elif what == "bug":
        raise ZeroDivisionError
    pixels = np.full((4, 4), int(number), np.uint8)
    return DecodedImage(pixels, 4, 4, name, os.getpid(), "as_stored", None, None)
