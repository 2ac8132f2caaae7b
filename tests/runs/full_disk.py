"""A disk that is full from its n-th write on, in this process."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_WRITES = ("fsync", "mkdir", "replace", "link")


@contextmanager
def full_at(number: int) -> Iterator[Callable[[], bool]]:
    """Refuses the n-th write, counted from 1, and every later one, as a full disk does.

    What a file holds is refused at its sync, the last moment at which a disk may do so.

    Yields:
        Whether it came to that.
    """
    count = 0

    def guard(write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*args, **kwargs)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in _WRITES:
            patch.setattr(os, name, guard(getattr(os, name)))
        yield lambda: count >= number
