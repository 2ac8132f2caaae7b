"""What happens to due ticks: pure decisions about pauses and missed ticks, no state, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.config.job import Schedule

PAUSED = "paused"  # of all reasons for a skip the one that somebody wanted

Pauses = Sequence[tuple[datetime, datetime | None]]


@dataclass(frozen=True)
class Verdict:
    """One tick and why it does not run; None where it does."""

    tick: datetime
    skip_reason: str | None


def judge(
    due: Sequence[datetime],
    now: datetime,
    schedule: Schedule,
    pauses: Pauses,
    grace: timedelta,
) -> list[Verdict]:
    """Decides every due tick by the pauses, the catch-up policy and the window.

    A tick is on time up to `grace` after its instant, and runs. An older one was missed, by a
    scheduler or a machine that was down or a clock that jumped:

    - `skip`: it does not run;
    - `once`: the newest missed tick inside the window runs, unless one is on time: one run stands
      for all of them;
    - `all`: each missed tick inside the window runs.

    Args:
        due: ascending.
        now: not before the last of `due`.
        schedule: the job's.
        pauses: each from and until, until None for one that lasts.
        grace: how late is still on time.

    Returns:
        A verdict for each, in order.
    """
    wanted = [tick for tick in due if not _in_pause(tick, pauses)]
    on_time = {tick for tick in wanted if now - tick <= grace}
    missed = [tick for tick in wanted if tick not in on_time and now - tick <= schedule.window]
    if schedule.catch_up == "skip" or (schedule.catch_up == "once" and on_time):
        missed = []
    elif schedule.catch_up == "once":
        missed = missed[-1:]
    runs = on_time.union(missed)
    verdicts = []
    for tick in due:
        reason = None
        if _in_pause(tick, pauses):
            reason = PAUSED
        elif tick not in runs:
            reason = _why_missed(now - tick, schedule)
        verdicts.append(Verdict(tick, reason))
    return verdicts


def _in_pause(tick: datetime, pauses: Pauses) -> bool:
    return any(start <= tick and (end is None or tick < end) for start, end in pauses)


def _why_missed(age: timedelta, schedule: Schedule) -> str:
    if schedule.catch_up == "skip":
        return f"missed by {describe(age)}; catch_up is skip"
    if age > schedule.window:
        return f"missed by {describe(age)}, more than its window of {describe(schedule.window)}"
    return f"missed by {describe(age)}; catch_up is once, and a later tick runs"


def describe(length: timedelta) -> str:
    """Returns a duration in its two largest units, such as `3 h 20 min`."""
    seconds = int(length.total_seconds())
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(parts[:2]) or "0 s"
