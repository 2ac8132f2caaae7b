"""A disk that is full from its n-th write on, in this process."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.runs.dying import failing_at

_WRITES = ("fsync", "mkdir", "replace", "link")


def full_at(number: int) -> AbstractContextManager[Callable[[], bool]]:
    """Refuses the n-th write, counted from 1, and every later one, as a full disk does.

    What a file holds is refused at its sync, the last moment at which a disk may do so.

    Returns:
        A context that yields whether it came to that.
    """
    return failing_at(number, _WRITES, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
