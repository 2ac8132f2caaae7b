"""A disk that is full at any write: one line, nothing lost, and the command goes on with space."""

import itertools
import os
import re
from collections.abc import Callable

import pytest

from orchestrator.errors import ClusterError
from tests.runs.full_disk import full_at
from tests.runs.test_life_cycle import COMMANDS, World, make_world

__all__ = ["make_world"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def check_line(error: ClusterError, world: World) -> None:
    line = str(error)
    assert re.fullmatch(
        r"cannot (write|lock) \S+: No space left on device; free space or choose another output "
        "folder, then run the same command again( to continue)?",
        line,
    ), line
    assert str(world.folder) in line or "cannot write runs" in line


CASES = [
    pytest.param(
        command,
        overwrite,
        marks=[pytest.mark.slow] if overwrite or command not in ("train", "tune") else [],
    )
    for command in COMMANDS
    for overwrite in (False, True)
]


@pytest.mark.parametrize(("command", "overwrite"), CASES)
def test_a_command_goes_on_after_a_full_disk(
    command: str, overwrite: bool, make_world: Callable[[str], World]
) -> None:
    text = "second" if overwrite else "first"
    for number in itertools.count(1):
        world = make_world(str(number))
        if overwrite:
            world.run(command)
            world.text = "second"
        with full_at(number) as full:
            try:
                world.run(command, overwrite=overwrite)
            except ClusterError as error:
                check_line(error, world)
        if not full():
            break
        world.check_successes({"first", text})
        world.end_well(command, overwrite=overwrite, text=text)
    assert number > 25
