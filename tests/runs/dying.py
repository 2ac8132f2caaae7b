"""A process that is killed at its n-th change of the file system, in this process."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

# Every way in which the program changes what a folder holds.
CHANGES = ("link", "replace", "rename", "unlink", "remove", "rmdir", "mkdir")


class Killed(BaseException):
    """What the killed code sees in place of its end."""


def killed_at(number: int) -> AbstractContextManager[Callable[[], bool]]:
    """Raises `Killed` in place of the n-th change, counted from 1, and of every later one.

    Returns:
        A context that yields whether it came to that.
    """
    return failing_at(number, CHANGES, Killed)


@contextmanager
def failing_at(
    number: int, names: Iterable[str], make_error: Callable[[], BaseException]
) -> Iterator[Callable[[], bool]]:
    """Has the n-th call of some functions of `os`, counted from 1, and every later one fail.

    Yields:
        Whether it came to that.
    """
    count = 0

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise make_error()
            return function(*args, **kwargs)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, guard(getattr(os, name)))
        yield lambda: count >= number
