"""What a schedule should do, minute by minute, without cronsim and without the code under test.

Every UTC minute is turned into wall-clock time by `zoneinfo`, one call each; fields are matched by
sets that this module expands itself.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def expand(field: str, low: int, high: int, names: list[str], first: int) -> np.ndarray:
    """A lookup table: entry v says whether the value v matches the field."""

    def number(text: str) -> int:
        return names.index(text.lower()) + first if text.lower() in names else int(text)

    table = np.zeros(64, dtype=bool)
    for term in field.split(","):
        body, _, step = term.partition("/")
        if body == "*":
            values = range(low, high + 1)
        else:
            begin, _, end = body.partition("-")
            values = range(number(begin), number(end or begin) + 1)
        table[list(values)[:: int(step or 1)]] = True
    return table


class Minutes:
    """Every minute of [start, end) in one zone."""

    def __init__(self, zone: str, start: datetime, end: datetime) -> None:
        self.utc = np.arange(int(start.timestamp()), int(end.timestamp()), 60)
        info = ZoneInfo(zone)
        wall, fold = [], []
        for stamp in self.utc.tolist():
            local = datetime.fromtimestamp(stamp, info)
            wall.append(local.toordinal() * 1440 + local.hour * 60 + local.minute)
            fold.append(local.fold)
        self.wall, self.fold = np.array(wall), np.array(fold, dtype=bool)

    def matches(self, cron: str, wall: np.ndarray) -> np.ndarray:
        minute, hour, dom, month, dow = cron.split()
        day = (wall // 1440).astype("datetime64[D]") - np.timedelta64(719163, "D")
        month_start = day.astype("datetime64[M]")
        day_of_month = (day - month_start.astype("datetime64[D]")).astype(int) + 1
        month_of_year = month_start.astype(int) % 12 + 1
        weekday = (wall // 1440) % 7  # ordinal 7 was a Sunday
        weekdays = expand(dow, 0, 7, DAYS, 0)
        weekdays[0] |= weekdays[7]
        in_month = expand(dom, 1, 31, [], 0)[day_of_month]
        in_week = weekdays[weekday]
        either = not (dom.startswith("*") or dow.startswith("*"))
        days = (in_month | in_week) if either else (in_month & in_week)
        return (
            expand(minute, 0, 59, [], 0)[wall % 60]
            & expand(hour, 0, 23, [], 0)[wall // 60 % 24]
            & days
            & expand(month, 1, 12, MONTHS, 1)[month_of_year]
        )

    def ticks(self, cron: str) -> list[int]:
        """UTC seconds of every tick."""
        minute, hour = cron.split()[:2]
        due = self.matches(cron, self.wall)
        if not minute.startswith("*") and not hour.startswith("*"):
            due &= ~self.fold
            for at in np.flatnonzero(np.diff(self.wall) > 1) + 1:
                skipped = np.arange(self.wall[at - 1] + 1, self.wall[at])
                due[at] |= self.matches(cron, skipped).any()
        return self.utc[due].tolist()


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]
