"""A process that is killed at its n-th change of the file system, in this process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# Every way in which the program changes what a folder holds.
CHANGES = ("link", "replace", "rename", "unlink", "remove", "rmdir", "mkdir")


class Killed(BaseException):
    """What the killed code sees in place of its end."""


@contextmanager
def killed_at(number: int) -> Iterator[Callable[[], bool]]:
    """Raises `Killed` in place of the n-th change, counted from 1, and of every later one.

    Yields:
        Whether it came to that.
    """
    count = 0

    def guard(change: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return change(*args, **kwargs)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, guard(getattr(os, name)))
        yield lambda: count >= number
