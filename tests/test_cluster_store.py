from pathlib import Path

import pytest

from orchestrator.cluster.head import Head
from orchestrator.schedule.ledger import Ledger
from tests.schedule.fake_cluster import fails
from tests.schedule.kill_harness import check_journal, run_kills

EVERY = {"each": 1, "also-each": 1, "second": 2}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kills", "last_minute", "seed"),
    [(20, 7, 3), pytest.param(200, 59, 5, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_no_tick_is_lost_and_none_runs_twice_on_a_real_head(
    local_head: Head, tmp_path: Path, kills: int, last_minute: int, seed: int
) -> None:
    (tmp_path / "address").write_text(local_head.address)
    end = run_kills(
        tmp_path,
        factory="tests.ray_store:build_store",
        kills=kills,
        every=EVERY,
        seed=seed,
        speed=20.0,
        settle_s=200.0 if kills < 100 else 2000.0,
        lead_s=1.0,
        submits=2,
        last_minute=last_minute,
    )
    counted = check_journal((tmp_path / "journal").read_text().split(), EVERY, end, fails)
    assert counted == sum(end.minute // n for n in EVERY.values())
    runs = Ledger(tmp_path / "ledger.sqlite3").history(None, 10**6)
    assert {str(run.state) for run in runs if run.tick <= end} == {"SUCCEEDED"}
