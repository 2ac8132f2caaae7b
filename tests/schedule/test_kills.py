from pathlib import Path

import pytest

from orchestrator.schedule.ledger import Ledger
from tests.schedule.fake_cluster import FileStore, Runner, fails
from tests.schedule.kill_harness import check_journal, run_kills

EVERY = {"each": 1, "also-each": 1, "second": 2, "third": 3}


@pytest.mark.parametrize(
    ("kills", "seed"), [(20, 7), pytest.param(200, 11, marks=pytest.mark.slow)]
)
def test_no_tick_is_lost_and_none_runs_twice(tmp_path: Path, kills: int, seed: int) -> None:
    store = FileStore(tmp_path / "cluster")
    runner = Runner(store)
    runner.start()
    try:
        end = run_kills(
            tmp_path,
            factory="tests.schedule.kill_harness:file_store",
            kills=kills,
            every=EVERY,
            seed=seed,
            speed=150.0,
            settle_s=120.0,
        )
    finally:
        runner.finish()
    counted = check_journal(store.journal(), EVERY, end, fails)
    assert counted > kills
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    states = {str(run.state) for run in ledger.history(None, 10**6) if run.tick <= end}
    assert states == {"SUCCEEDED"}
