import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.schedule.looks import Looks, NoAnswer


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A file whose read hangs, as one of a share without a server does, until the test ends."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def test_an_answer_is_what_the_look_returns_or_raises(tmp_path: Path) -> None:
    looks = Looks(10.0)
    assert looks.ask("disk", lambda: 7) == 7
    assert looks.ask("disk", lambda: None) is None
    with pytest.raises(FileNotFoundError):
        looks.ask("disk", (tmp_path / "absent").read_text)
    answers = looks.ask_all({"a": ("disk", lambda: 1), "b": ("disk", lambda: 1 // 0)})
    assert answers["a"] == 1
    assert isinstance(answers["b"], ZeroDivisionError)


def test_a_place_that_hangs_costs_its_time_once_and_no_other_place_anything(pipe: Path) -> None:
    looks = Looks(0.2)
    before = threading.active_count()
    began = time.monotonic()
    hanging = {n: (f"share-{n}", pipe.read_text) for n in range(30)}
    answers = looks.ask_all({**hanging, "disk": ("disk", lambda: "here")})
    assert 0.2 <= time.monotonic() - began < 5
    assert answers.pop("disk") == "here"
    assert all(isinstance(answer, NoAnswer) for answer in answers.values())
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
            looks.ask("share-1", pipe.read_text)
        assert looks.ask("disk", lambda: "here") == "here"
    assert time.monotonic() - began < 10  # and not 100 times the limit
    assert threading.active_count() <= before + 30


def test_a_place_that_is_back_is_asked_again_and_its_late_answer_is_thrown_away() -> None:
    looks, back, asked = Looks(0.1), threading.Event(), []

    def look(answer: str) -> Callable[[], str]:
        def found() -> str:
            asked.append(answer)
            back.wait(30)
            return answer

        return found

    answers = looks.ask_all({n: ("share", look(f"old {n}")) for n in range(3)})
    assert all(isinstance(answer, NoAnswer) for answer in answers.values())
    back.set()
    limit = time.monotonic() + 30
    while True:
        try:
            assert looks.ask("share", look("new")) == "new"
            break
        except NoAnswer:
            assert time.monotonic() < limit
            time.sleep(0.01)
    assert asked[0] == "old 0"
    assert "old 1" not in asked  # nobody waits for it any more
