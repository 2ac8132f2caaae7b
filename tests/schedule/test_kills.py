import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.rows import RunRow, run_key
from tests.schedule.fake_cluster import FileStore, Runner, fails
from tests.schedule.kill_harness import BASE, check_journal, expected_ticks, run_kills

EVERY = {"each": 1, "second": 2, "third": 3}
ALL = {"overlap": "queue", "catch_up": "all", "window": "31d", "pause_on_failure": True}
FOLLOWERS: dict[str, dict[str, object]] = {
    "follower": {"retries": 1, "schedule": {"after": "second"}},
    "follower-of-it": {"retries": 1, "schedule": {"after": "follower"}},
}


class Person:
    """Triggers, backfills and resumes at random, as people do while schedulers die.

    Args:
        path: the ledger, made at the first call.
        seed: of all that happens.
        most: spans to backfill begin with one of so many ticks.
    """

    def __init__(self, path: Path, seed: int, most: int) -> None:
        self._path, self._random, self._most = path, random.Random(seed), most
        self._ledger: Ledger | None = None
        self.triggered: dict[str, list[datetime]] = {"second": [], "third": []}
        self.filled: list[datetime] = []

    def __call__(self, now: datetime, is_over: bool) -> None:
        chance = self._random.random
        if self._ledger is None:  # something of each, however soon enough have died
            self._ledger = Ledger(self._path)
            for job in self.triggered:
                self.triggered[job].append(self._ledger.trigger(job, now))
            for first in range(2):
                self._fill(first, now)
        if chance() < 0.1 and "fragile" in self._ledger.paused():
            assert self._ledger.resume("fragile", now)
        if is_over:
            return
        if chance() < 0.02:
            job = self._random.choice(list(self.triggered))
            self.triggered[job].append(self._ledger.trigger(job, now))
        if chance() < 0.02:
            self._fill(self._random.randrange(self._most), now)

    def _fill(self, first: int, now: datetime) -> None:
        """Asks for three ticks from before the schedule began; spans overlap."""
        assert self._ledger is not None
        span = [BASE - timedelta(minutes=3 * n) for n in range(first, first + 3)]
        self.filled += self._ledger.backfill("third", span, now)


@pytest.mark.parametrize(
    ("kills", "seed", "minutes", "speed"),
    [(8, 7, 8, 100.0), pytest.param(200, 11, 59, 20.0, marks=pytest.mark.slow)],
)
def test_no_tick_is_lost_and_none_runs_twice(
    tmp_path: Path, kills: int, seed: int, minutes: int, speed: float
) -> None:
    fragile_cron = f"1-{minutes} 0 {BASE.day} {BASE.month} *"
    store = FileStore(tmp_path / "cluster")
    runner = Runner(store)
    person = Person(tmp_path / "ledger.sqlite3", seed, most=kills // 2)
    runner.start()
    try:
        end = run_kills(
            tmp_path,
            factory="tests.schedule.kill_harness:file_store",
            kills=kills,
            every=EVERY,
            seed=seed,
            speed=speed,
            settle_s=240.0,
            last_minute=minutes,
            submits=8,
            others={**FOLLOWERS, "fragile": {"schedule": {"cron": fragile_cron, **ALL}}},
            meanwhile=person,
        )
    finally:
        runner.finish()
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    runs: dict[str, list[RunRow]] = {}
    for run in ledger.history(None, 10**6):
        if run.tick <= end:
            runs.setdefault(run.job, []).append(run)
    fragile = {run.tick: run for run in runs.pop("fragile")}
    assert {str(run.state) for found in runs.values() for run in found} == {"SUCCEEDED"}
    # Nobody was told yes twice, and what was asked for is there.
    assert len(person.filled) == len(set(person.filled)) >= 4
    others = {
        "second": person.triggered["second"],
        "third": person.triggered["third"] + person.filled,
        "follower": [run.tick for run in runs["second"]],
        "follower-of-it": [run.tick for run in runs["second"]],
    }
    journal = store.journal()
    assert (
        check_journal(
            [found for found in journal if not found.startswith("fragile")],
            EVERY,
            end,
            fails,
            others,
        )
        > kills
    )
    for job, other in (("follower", "second"), ("follower-of-it", "follower")):
        causes = sorted(run.origin for run in runs[job])
        assert causes == sorted(f"after {run_key(other, run.tick)}" for run in runs[other])
    # Each failure paused the schedule once, nothing began in a pause, and no tick has no row.
    assert sorted(fragile) == expected_ticks(1, end)
    pauses = ledger.pauses("fragile")
    ended = [run for run in ledger.history("fragile", 10**6) if run.state == "FAILED"]
    assert len(pauses) == len(ended) > 0
    ran = sorted(found for found in journal if found.startswith("fragile"))
    assert len(ran) == len(set(ran))
    for tick, run in fragile.items():
        name = f"{run_key('fragile', tick)}-1"
        if run.state == "SKIPPED":
            assert (run.reason, name in ran) == ("paused", False)
            continue
        assert name in ran
        assert run.state == ("FAILED" if fails(name) else "SUCCEEDED")
        assert run.intent_at is not None
        assert not any(a < run.intent_at < (b or end) for a, b in pauses)
