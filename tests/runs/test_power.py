"""Power cut at every operation, each command leaves the old or the new state, and ends well."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.runs.power import Moment, put, recorded
from tests.runs.test_life_cycle import COMMANDS, World, load, make_world

__all__ = ["make_world"]


def check_whole(world: World, allowed: set[str]) -> None:
    """What is marked as finished is whole."""
    for run in world.runs():
        if run.success.exists():
            texts = {(run.predictions / "part-0").read_text(), load(run.report_json)["text"]}
            assert len(texts) == 1
            assert texts <= allowed
    bundle = world.folder / "out" / "bundle.json"
    if bundle.exists():
        assert bundle.read_text() == (bundle.parent / "network").read_text()


def check_cuts(
    world: World,
    command: str,
    moments: list[Moment],
    monkeypatch: pytest.MonkeyPatch,
    *,
    overwrite: bool,
) -> None:
    """Checks what every cut leaves, and that the command goes on from there."""
    text = "second" if overwrite else "first"
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and of no effect here
    for number, moment in enumerate(moments):
        for tree in moment.trees:
            put(tree, world.folder)
            place = f"{command}, cut {number} of {len(moments)}, after {moment.last}"
            try:
                check_whole(world, {"first", text})
                world.end_well(command, overwrite=overwrite, text=text)
            except Exception as error:
                pytest.fail(f"{place}: {error!r}; {sorted(tree)}")
    count = sum(len(moment.trees) for moment in moments)
    print(f"{command}: {len(moments)} prefixes, {count} states")  # shown by -rP
    assert len(moments) > 30
    assert count > 20


def slow_but(*quick: str) -> list[Any]:
    """Every command; the ordinary tests run some of them."""
    return [
        pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in COMMANDS
    ]


@pytest.mark.parametrize("command", slow_but("score", "train"))
def test_a_power_cut_leaves_a_run_that_goes_on(
    command: str, make_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("world")
    with recorded(world.folder) as recording:
        world.run(command)
    check_cuts(world, command, recording.moments, monkeypatch, overwrite=False)


@pytest.mark.parametrize("command", slow_but("score"))
def test_a_power_cut_in_an_overwrite_leaves_no_false_success(
    command: str, make_world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("world")
    world.run(command)
    world.text = "second"
    with recorded(world.folder) as recording:
        world.run(command, overwrite=True)
    check_cuts(world, command, recording.moments, monkeypatch, overwrite=True)
