"""Looks at storage that may hang for ever, such as a share whose server is gone.

A read of such a share cannot be interrupted. It is made in a thread of its own and given up after
a time: nothing is known then, which is another answer than that a file is absent.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
AnswerT = TypeVar("AnswerT")


class NoAnswer(OSError):
    """A place did not answer in time; nothing may be concluded."""


class Looks:
    """Asks places, each of which has one look under way at a time.

    A place that did not answer is not asked again before its last look has ended, so that neither
    threads pile up nor is anybody kept waiting twice. What a late look finds is thrown away, since
    it may have changed meanwhile.

    Args:
        limit_s: longest wait for all that is asked at once, s.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._hanging: dict[Hashable, threading.Thread] = {}

    def ask(self, place: Hashable, look: Callable[[], AnswerT]) -> AnswerT:
        """Returns what one look finds; raises what it raises, and `NoAnswer`."""
        answer = self.ask_all({place: (place, look)})[place]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask_all(
        self, questions: Mapping[KeyT, tuple[Hashable, Callable[[], AnswerT]]]
    ) -> dict[KeyT, AnswerT | Exception]:
        """Looks at several places at once, and within each in turn.

        Args:
            questions: by key the place, such as a folder of runs, and the look.

        Returns:
            By key what the look returned, the exception that it raised, or `NoAnswer`.
        """
        places: dict[Hashable, list[tuple[KeyT, Callable[[], AnswerT]]]] = {}
        for key, (place, look) in questions.items():
            places.setdefault(place, []).append((key, look))
        answers: dict[KeyT, AnswerT | Exception] = {}
        late = threading.Event()
        self._hanging = {p: thread for p, thread in self._hanging.items() if thread.is_alive()}
        started: dict[Hashable, threading.Thread] = {}
        for place, looks in places.items():
            if place not in self._hanging:
                # Not waited for at the end of the process either.
                started[place] = threading.Thread(
                    target=_look, args=(looks, answers, late), daemon=True, name="look"
                )
                started[place].start()
        end = time.monotonic() + self._limit_s
        for place, thread in started.items():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self._hanging[place] = thread
        late.set()
        found = answers.copy()
        silent = NoAnswer(f"no answer within {self._limit_s:g} s")
        return {key: found.get(key, silent) for key in questions}


def _look(
    looks: list[tuple[KeyT, Callable[[], AnswerT]]],
    answers: dict[KeyT, AnswerT | Exception],
    late: threading.Event,
) -> None:
    for key, look in looks:
        if late.is_set():
            return
        try:
            answers[key] = look()
        except Exception as error:  # whatever it is, it is the answer
            answers[key] = error
