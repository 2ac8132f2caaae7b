"""Cron ticks: the UTC instants at which a five-field expression in a time zone is due.

`cronsim` matches wall-clock time; the daylight-saving edges are handled here, by one rule that
Debian's cron has too. An expression whose minute and hour fields both begin with something other
than `*` names fixed times of day, and each runs once:

- spring forward: a time that the clocks jump over runs at the first instant after the jump, once
  however many were jumped over;
- fall back: a time that comes twice runs the first time only.

Any other expression (`*/15 * * * *`, `0 * * * *`) follows elapsed time: what the clocks jump over
does not run, and a repeated hour runs again.

No ledger, no policy, no current time: the callers give the instants.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from orchestrator.errors import SpecError

AFTER = "after "  # begins what stands in place of an expression where a job follows another
_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_VALUE = r"(?:[0-9]{1,2}|[A-Z]{3})"
_TERM = re.compile(rf"(?:\*|{_VALUE}(?P<range>-{_VALUE})?)(?:/(?P<step>[0-9]{{1,2}}))?")
_SECOND = timedelta(seconds=1)
# Offsets are read this far apart, then bisected: no zone changes its clocks twice in 12 hours.
_PROBE = timedelta(hours=12)
_CHUNK = timedelta(days=30)
# Feb 29 on one weekday can be 40 years away.
_HORIZON = timedelta(days=366 * 50)


class Ticks:
    """The instants at which one schedule is due.

    Args:
        cron: minute, hour, day of month, month, day of week; `*`, lists, ranges, steps, English
            three-letter names, weekdays 0-7 with 0 and 7 for Sunday. With both day fields
            restricted either may match; where one begins with `*` both must. Or a nickname of
            five fields, such as `@daily`.
        timezone: IANA name, such as `Asia/Shanghai`.

    Raises:
        SpecError: not five fields, a bad field, a date that never comes, an unknown zone.
    """

    def __init__(self, cron: str, timezone: str = "UTC") -> None:
        fields = _checked_fields(cron)
        self.cron = " ".join(fields)
        self.timezone = timezone
        self._zone = _zone(timezone)
        self._fixed_times = not fields[0].startswith("*") and not fields[1].startswith("*")
        try:
            found = next(CronSim(self.cron, datetime(2000, 1, 1)), None)
        except CronSimError as error:
            raise SpecError(
                f"cron {cron!r}: {str(error).lower()}; expected minute hour day-of-month month "
                "day-of-week within their ranges, such as '0 2 * * *'"
            ) from error
        if found is None:
            raise SpecError(f"cron {cron!r} names a date that never comes; choose one that does")

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yields the ticks later than `after` and not later than `until`, ascending, in UTC.

        Args:
            after: aware instant, excluded.
            until: aware instant, included.
        """
        start = after.astimezone(UTC).replace(microsecond=0) + _SECOND
        end = until.astimezone(UTC).replace(microsecond=0) + _SECOND
        while start < end:
            offset = self._offset(start)
            stop = self._change_after(start, min(end, start + _CHUNK), offset)
            yield from self._within(start, stop, offset)
            start = stop

    def next_after(self, after: datetime) -> datetime | None:
        """Returns the first tick later than `after` in UTC; None where none comes in 50 years."""
        return next(self.between(after, after + _HORIZON), None)

    def next_ticks(self, now: datetime, days: float) -> list[datetime]:
        """Returns the ticks of the next `days` days after `now`, in UTC."""
        return list(self.between(now, now + timedelta(days=days)))

    def local(self, tick: datetime) -> datetime:
        """Returns an instant in the schedule's own time zone, for a person to read."""
        return tick.astimezone(self._zone)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._zone).utcoffset() or timedelta()

    def _change_after(self, start: datetime, end: datetime, offset: timedelta) -> datetime:
        """Returns the first instant in (start, end) with another offset, or `end`."""
        low = start
        while low < end:
            high = min(low + _PROBE, end)
            if self._offset(high) != offset:
                while high - low > _SECOND:
                    middle = low + (high - low) // 2
                    middle = middle.replace(microsecond=0)
                    low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
                return high
            low = high
        return end

    def _within(self, start: datetime, stop: datetime, offset: timedelta) -> Iterator[datetime]:
        """Yields the ticks in [start, stop), where wall-clock time is UTC plus `offset`."""
        wall_start = start.replace(tzinfo=None) + offset
        wall_stop = stop.replace(tzinfo=None) + offset
        before = self._offset(start - _SECOND)
        if self._fixed_times and before < offset:
            jumped_from = start.replace(tzinfo=None) + before
            missed = next(CronSim(self.cron, jumped_from - _SECOND), None)
            if missed is not None and missed < wall_start:
                yield start
                wall_start += _SECOND
        for wall in CronSim(self.cron, wall_start - _SECOND):
            if wall >= wall_stop:
                return
            tick = (wall - offset).replace(tzinfo=UTC)
            if self._fixed_times and tick.astimezone(self._zone).fold:
                continue  # this wall-clock time has come before
            yield tick


class After(Ticks):
    """No instant of its own: due whenever another job has succeeded.

    Args:
        job: the other's name.
    """

    def __init__(self, job: str) -> None:
        self.cron, self.timezone, self._zone = f"{AFTER}{job}", "", ZoneInfo("UTC")

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yields nothing."""
        return iter(())


def parse_ticks(text: str, timezone: str) -> Ticks:
    """Returns the ticks that are written as a cron expression or as `after JOB`.

    Raises:
        SpecError: as `Ticks` does.
    """
    followed = text.removeprefix(AFTER)
    return Ticks(text, timezone) if followed == text else After(followed)


def _checked_fields(cron: str) -> list[str]:
    """Returns the five upper-case fields; `cronsim` alone would take six, `L`, `#` and `5/15`."""
    name = cron.strip().lower()
    if name.startswith("@") and name not in _NICKNAMES:
        known = ", ".join(_NICKNAMES)
        raise SpecError(f"cron {cron[:60]!r} is not known; expected five fields or one of {known}")
    fields = _NICKNAMES.get(name, cron).upper().split()
    if len(fields) != 5 or len(cron) > 200:
        raise SpecError(
            f"cron {cron[:60]!r} has {len(fields)} fields; expected five: minute hour "
            "day-of-month month day-of-week, such as '0 2 * * *'"
        )
    for field, name, (low, high) in zip(fields, _FIELDS, _RANGES, strict=True):
        for term in field.split(","):
            found = _TERM.fullmatch(term)
            problem = None
            if found is None:
                problem = "expected *, 5, 1-5, */15, 1-5/2 or a list of these"
            elif found["step"] and not term.startswith("*") and not found["range"]:
                problem = f"a step needs a range, such as {term.split('/')[0]}-{high}/5"
            elif found["step"] and not 1 <= int(found["step"]) <= high - low:
                problem = f"a step lies in 1-{high - low} here"
            if problem:
                raise SpecError(f"cron {cron!r}: {name} {term.lower()!r}: {problem}")
    return fields


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(available_timezones())


def _zone(name: str) -> ZoneInfo:
    """Returns a zone of the IANA data base; a path or a name of the machine's own is refused."""
    try:
        if name in _names():
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise SpecError(
        f"timezone {name[:60]!r} is not known; expected an IANA name such as Asia/Shanghai "
        "(where every name fails, install the package tzdata)"
    )
