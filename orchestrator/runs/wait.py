"""Waits that say what they wait for, and end."""

import time
from collections.abc import Callable

from orchestrator.errors import ClusterError

_SAY_EVERY_S = 60.0


class Wait:
    """One wait: tells of itself every minute, and gives up.

    Args:
        limit_s: how long it may last.
        say: receives the lines.
        advice: of the error, beside running the same command again.
    """

    def __init__(
        self,
        limit_s: float,
        say: Callable[[str], None],
        advice: str = ", or allow more with --max-wait",
    ) -> None:
        self._limit_s, self._say, self._advice = limit_s, say, advice
        self._began = time.monotonic()
        self._told = 0

    def go_on(self, what: str) -> None:
        """Says what is waited for where another minute has passed.

        Args:
            what: after "waiting for".

        Raises:
            ClusterError: the wait has lasted too long.
        """
        waited_s = time.monotonic() - self._began
        if waited_s >= self._limit_s:
            raise ClusterError(
                f"waited {self._limit_s:,.0f} s for {what}; run the same command again later"
                f"{self._advice}"
            )
        if waited_s >= _SAY_EVERY_S * (self._told + 1):
            self._told = int(waited_s // _SAY_EVERY_S)
            self._say(f"waiting for {what}: {waited_s:,.0f} s so far")
