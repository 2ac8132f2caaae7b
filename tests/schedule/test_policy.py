from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.config.job import Schedule
from orchestrator.schedule.policy import describe, judge

NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
GRACE = timedelta(seconds=60)


def hours(*ages: float) -> list[datetime]:
    return [NOW - timedelta(hours=age) for age in ages]


def kept(
    due: list[datetime], catch_up: str, pauses: list[tuple[datetime, datetime | None]] | None = None
) -> list[datetime]:
    schedule = Schedule.model_validate({"cron": "0 * * * *", "catch_up": catch_up, "window": "6h"})
    verdicts = judge(due, NOW, schedule, pauses or [], GRACE)
    assert [verdict.tick for verdict in verdicts] == due
    return [verdict.tick for verdict in verdicts if verdict.skip_reason is None]


@pytest.mark.parametrize(
    ("ages", "catch_up", "run"),
    [
        ([0.001], "skip", [0.001]),
        ([1, 0.001], "skip", [0.001]),
        ([1], "skip", []),
        ([1], "once", [1]),
        ([3, 2, 1], "once", [1]),
        ([3, 2, 1, 0.001], "once", [0.001]),
        ([9, 8, 7], "once", []),
        ([9, 8, 7], "all", []),
        ([9, 6, 3], "all", [6, 3]),
        ([3, 2, 1, 0.001], "all", [3, 2, 1, 0.001]),
        ([], "all", []),
    ],
)
def test_catch_up(ages: list[float], catch_up: str, run: list[float]) -> None:
    assert kept(hours(*ages), catch_up) == hours(*run)


def test_pauses_count_from_their_start_to_before_their_end() -> None:
    due = hours(5, 4, 3, 2)
    assert kept(due, "all", [(due[1], due[3])]) == [due[0], due[3]]
    assert kept(due, "all", [(due[1], None)]) == [due[0]]
    assert kept(due, "once", [(due[2], None)]) == [due[1]]  # the newest that was not paused


def test_a_reason_names_the_rule() -> None:
    schedule = Schedule.model_validate({"cron": "0 * * * *", "catch_up": "once", "window": "6h"})
    far, near, newest = judge(hours(30.5, 2, 1), NOW, schedule, [], GRACE)
    assert far.skip_reason == "missed by 1 d 6 h, more than its window of 6 h"
    assert near.skip_reason == "missed by 2 h; catch_up is once, and a later tick runs"
    assert newest.skip_reason is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (12_000, "3 h 20 min"), (86_400 * 3 + 60, "3 d 1 min")],
)
def test_durations_are_told_in_two_units(seconds: int, text: str) -> None:
    assert describe(timedelta(seconds=seconds)) == text
