from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cronsim import CronSim

from orchestrator.config.cron import Ticks
from orchestrator.errors import SpecError
from tests.config.oracle import Minutes, utc

# Whole-hour and half-hour shifts, a gap at midnight, no daylight saving, and clocks that go back
# for Ramadan.
ZONES = [
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Casablanca",
]
CRONS = [
    "0 2 * * *",
    "30 2 * * *",
    "0,15,30,45 1-3 * * *",
    "59 23 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "10-50/20 0-4/2 * * *",
    "0 1-3,12 * * *",
    "*/20 */4 * * *",
    "5 * */3 * *",
    "*/10 2 * * *",
    "15 */6 * * *",
    "5 5 1,15 * *",
    "0 3 31 * *",
    "0 3 29 2 *",
    "0 4 13 * fri",
    "0 4 1-7 * MON",
    "0 4 */2 * mon",
    "30 6 * * 0",
    "30 6 * * 7",
    "30 6 * * 5-7",
    "30 6 * * sun,Wed",
    "45 1 * mar,Oct sun",
    "0 12 1 jan-mar/2 *",
    "7 2-4 * 4,9-11 */2",
]


def seconds(ticks: list[datetime]) -> list[int]:
    return [int(tick.timestamp()) for tick in ticks]


@pytest.mark.parametrize("zone", ZONES)
def test_ticks_of_a_year_agree_with_the_oracle(zone: str) -> None:
    start, end = utc(2026, 1, 1), utc(2027, 1, 1)
    minutes = Minutes(zone, start, end)
    for cron in CRONS:
        ticks = Ticks(cron, zone).between(start - timedelta(seconds=1), end - timedelta(seconds=1))
        assert seconds(list(ticks)) == minutes.ticks(cron), cron


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_ticks_of_ten_years_agree_with_the_oracle(zone: str) -> None:
    start, end = utc(2026, 1, 1), utc(2036, 1, 1)
    minutes = Minutes(zone, start, end)
    for cron in CRONS:
        ticks = Ticks(cron, zone).between(start - timedelta(seconds=1), end - timedelta(seconds=1))
        assert seconds(list(ticks)) == minutes.ticks(cron), cron


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_runs_every_minute_over_each_edge(zone: str) -> None:
    for day in (utc(2026, 2, 14), utc(2026, 3, 7), utc(2026, 3, 28), utc(2026, 4, 4)):
        for start in (day, day + timedelta(days=217)):
            ticks = list(Ticks("* * * * *", zone).between(start, start + timedelta(days=2)))
            assert len(ticks) == 2880
            assert ticks == [start + timedelta(minutes=n + 1) for n in range(2880)]


@pytest.mark.parametrize(
    ("cron", "zone", "day", "expected"),
    [
        # 29 March 2026: Berlin jumps from 02:00 to 03:00, at 01:00 UTC.
        ("30 2 * * *", "Europe/Berlin", utc(2026, 3, 29), [utc(2026, 3, 29, 1, 0)]),
        ("0,30 2 * * *", "Europe/Berlin", utc(2026, 3, 29), [utc(2026, 3, 29, 1, 0)]),
        ("0 2,3 * * *", "Europe/Berlin", utc(2026, 3, 29), [utc(2026, 3, 29, 1, 0)]),
        ("*/30 2 * * *", "Europe/Berlin", utc(2026, 3, 29), []),
        # 25 October 2026: 02:00-03:00 comes twice, at 00:00 and at 01:00 UTC.
        ("30 2 * * *", "Europe/Berlin", utc(2026, 10, 25), [utc(2026, 10, 25, 0, 30)]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            utc(2026, 10, 25),
            [utc(2026, 10, 25, 0) + timedelta(minutes=30 * n) for n in range(4)],
        ),
        # 4 October 2026: Lord Howe jumps half an hour, from 02:00 to 02:30, at 15:30 UTC before.
        ("15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 3, 12), [utc(2026, 10, 3, 15, 30)]),
        # 6 September 2026: Santiago has no 00:00-01:00.
        ("0 0 * * *", "America/Santiago", utc(2026, 9, 6), [utc(2026, 9, 6, 4)]),
    ],
)
def test_both_daylight_saving_edges(
    cron: str, zone: str, day: datetime, expected: list[datetime]
) -> None:
    until = day + timedelta(hours=23)
    assert list(Ticks(cron, zone).between(day - timedelta(hours=1), until)) == expected


def test_a_start_inside_the_repeated_hour_does_not_run_it_again() -> None:
    ticks = Ticks("30 2 * * *", "Europe/Berlin")
    second_time = utc(2026, 10, 25, 1, 10)
    assert ticks.next_after(second_time) == utc(2026, 10, 26, 1, 30)
    assert ticks.next_after(utc(2026, 10, 25, 0, 30)) == utc(2026, 10, 26, 1, 30)


def test_any_cut_of_a_span_gives_the_same_ticks() -> None:
    ticks = Ticks("*/7 1-3 * * *", "Australia/Lord_Howe")
    start, end = utc(2026, 4, 3), utc(2026, 4, 6)
    whole = list(ticks.between(start, end))
    parts: list[datetime] = []
    while start < end:
        parts += ticks.between(start, min(start + timedelta(seconds=97), end))
        start += timedelta(seconds=97)
    assert parts == whole
    assert len(whole) > 50


def test_the_bounds_are_after_excluded_and_until_included() -> None:
    ticks = Ticks("0 2 * * *")
    at = utc(2026, 1, 1, 2)
    assert list(ticks.between(at, at + timedelta(days=1))) == [at + timedelta(days=1)]
    assert list(ticks.between(at - timedelta(microseconds=1), at)) == [at]
    assert list(ticks.between(at, at - timedelta(days=1))) == []
    assert ticks.next_ticks(at, 3) == [at + timedelta(days=n) for n in (1, 2, 3)]
    assert all(tick.tzinfo is UTC for tick in ticks.next_ticks(at, 3))


def test_a_rare_date_is_found_and_local_time_shown() -> None:
    leap_sunday = Ticks("0 0 29 2 */7", "Asia/Shanghai")
    found = leap_sunday.next_after(utc(2026, 1, 1))
    assert found == utc(2032, 2, 28, 16)
    assert leap_sunday.local(found).isoformat() == "2032-02-29T00:00:00+08:00"


def test_cronsim_alone_would_lose_ticks_where_the_shift_is_half_an_hour() -> None:
    """Why the zone is handled here: hours are stepped in UTC there, and land on half past."""
    minutes = Minutes("Australia/Lord_Howe", utc(2026, 10, 3), utc(2026, 10, 5))
    cron = "*/15 5 * * *"
    start = utc(2026, 10, 3)
    ours = seconds(list(Ticks(cron, "Australia/Lord_Howe").between(start, utc(2026, 10, 4, 23))))
    assert ours == minutes.ticks(cron)
    local = Ticks(cron, "Australia/Lord_Howe").local(start)
    theirs = []
    for tick in CronSim(cron, local):
        if tick.astimezone(UTC) >= utc(2026, 10, 5):
            break
        theirs.append(int(tick.timestamp()))
    assert theirs != ours


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 2 * * *", "has 6 fields; expected five"),
        ("@fortnightly", "expected five fields or one of @hourly, @daily, "),
        ("@reboot", "is not known"),
        ("", "has 0 fields"),
        ("60 2 * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 2 0 * *", "bad day-of-month"),
        ("0 2 * 13 *", "bad month"),
        ("0 2 * * 8", "bad day-of-week"),
        ("0 2 * * fri-mon", "bad day-of-week"),
        ("0 2 30 2 *", "bad day-of-month"),
        ("0 2 L * *", "day-of-month 'l': expected"),
        ("0 2 * * 1#2", "day-of-week '1#2': expected"),
        ("5/15 2 * * *", "minute '5/15': a step needs a range, such as 5-59/5"),
        ("*/90 * * * *", "minute '[*]/90': a step lies in 1-59"),
        ("*/0 * * * *", "minute '[*]/0': a step lies in"),
        ("1,,2 * * * *", "minute '': expected"),
        ("-1 * * * *", "minute '-1': expected"),
        ("0 2 * xyz *", "bad month"),
        ("٣ 2 * * *", "expected"),
        ("0 2 * * *" + " " * 300, "expected five"),
    ],
)
def test_a_bad_expression_is_one_clear_line(cron: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        Ticks(cron)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nickname", "ticks"),
    [
        ("@hourly", [utc(2026, 3, 1, 11), utc(2026, 3, 1, 12)]),
        ("@daily", [utc(2026, 3, 2), utc(2026, 3, 3)]),
        (" @Midnight", [utc(2026, 3, 2), utc(2026, 3, 3)]),
        ("@weekly", [utc(2026, 3, 8), utc(2026, 3, 15)]),  # Sundays
        ("@monthly", [utc(2026, 4, 1), utc(2026, 5, 1)]),
        ("@yearly", [utc(2027, 1, 1), utc(2028, 1, 1)]),
        ("@annually", [utc(2027, 1, 1), utc(2028, 1, 1)]),
    ],
)
def test_nicknames_are_due_as_in_cron(nickname: str, ticks: list[datetime]) -> None:
    found = Ticks(nickname)
    first = found.next_after(utc(2026, 3, 1, 10, 30))
    assert first is not None
    assert [first, found.next_after(first)] == ticks
    # The five fields are what is stored: a file that writes them out has the same schedule.
    assert Ticks(found.cron).cron == found.cron
    assert "@" not in found.cron


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "America", "CET-1CEST", "x\0"],
)
def test_an_unknown_zone_is_one_clear_line(zone: str) -> None:
    with pytest.raises(SpecError, match="expected an IANA name") as caught:
        Ticks("0 2 * * *", zone)
    assert "\n" not in str(caught.value)


def test_every_zone_of_the_data_base_is_accepted(tmp_path: Path) -> None:
    from zoneinfo import available_timezones

    for zone in available_timezones():
        assert Ticks("0 2 * * *", zone).next_after(utc(2026, 1, 1)) is not None
