"""Decoders that crash, hang or worse on marked files; importable by decoding processes."""

import contextlib
import ctypes
import hashlib
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from orchestrator.data.decode.images import DecodedImage
from orchestrator.errors import ImageError

LONG_PX = 900  # an image that does not fit into a socket's buffer


def decode(name: str) -> DecodedImage:
    """Returns an image that carries the number at the end of the name, or does what it says."""
    what, _, number = name.partition(":")
    done = _DEEDS[what](number) if what in _DEEDS else None
    number = number if done is None else str(done)
    size_px = LONG_PX if what == "long" else 4
    pixels = np.full((size_px, size_px), int(number), np.uint8)
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return DecodedImage(pixels, 4, 4, sha256, os.getpid(), "as_stored", None, None, "PNG")


def _spin(_: str) -> None:
    while True:
        pass


def _kill_once(path: str) -> int:
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def _reject(message: str) -> None:
    raise ImageError("damaged", message or "Bad.")


def _leak(_: str) -> None:
    """Takes all memory in small pieces, and then fails as a decoder in C does."""
    pieces = []
    with contextlib.suppress(MemoryError):
        while True:
            pieces.append(bytearray(1 << 22))
    pieces.clear()
    _reject("")


def _hog(megabytes: str) -> int:
    _ = bytearray(int(megabytes) << 20)
    return 9


def _forge(answer: str) -> None:
    """Writes an answer of its own to the parent."""
    forged = bytes.fromhex(answer)
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith("socket:"):
                os.write(int(entry.name), struct.pack("!i", len(forged)) + forged)
    time.sleep(60)


_DEEDS: dict[str, Callable[[str], object]] = {
    "crash": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "hang": lambda _: ctypes.PyDLL(None).pause(),  # PyDLL keeps the interpreter's lock
    "spin": _spin,
    "killed-once": _kill_once,
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "bad": _reject,
    "stalled": lambda fifo: 8 if Path(fifo).read_bytes() else 9,
    "slow": lambda _: time.sleep(0.05),
    "bug": lambda _: 1 // 0,
    "hog": _hog,
    "leak": _leak,
    "variables": lambda _: _reject(" ".join(sorted(os.environ))),
    "forge": _forge,
    "long": lambda content: len(content) % 250,
}
