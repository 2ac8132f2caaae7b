import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config.specs import TuneSpec
from orchestrator.pipelines.tune.trials import FAILED, FINISHED, STOPPED, Trial, TrialLedger
from tests.conftest import ROOT
from tests.pipelines.train.test_live_loop import descendants
from tests.pipelines.tune.search_run import build_spec, search

pytestmark = pytest.mark.ray
MB = 2**20


def start(folder: Path, kind: str, trials: int, num_features: int = 16) -> subprocess.Popen[bytes]:
    """Starts a search in a process and cluster of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.pipelines.tune.search_run",
        str(folder),
        kind,
        str(trials),
    ]
    return subprocess.Popen(
        [*command, str(num_features)], cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT))
    )


def ended_files(folder: Path) -> dict[str, bytes]:
    """The trials on disk that have ended, as they are stored."""
    ended = {f"trial-{trial.number:05d}.json" for trial in TrialLedger(folder / "trials").ended}
    return {name: (folder / "trials" / name).read_bytes() for name in ended}


def kill_after(running: subprocess.Popen[bytes], folder: Path, more: int, delay_s: float) -> None:
    """Kills a search a moment after so many more of its trials have ended."""
    known = len(ended_files(folder))
    limit = time.monotonic() + 250
    while running.poll() is None and len(ended_files(folder)) < known + more:
        assert time.monotonic() < limit, "the search does not go on"
        time.sleep(0.05)
    time.sleep(delay_s)
    running.kill()
    running.wait()


def assert_same_search(ours: list[Trial], theirs: list[Trial]) -> None:
    assert [trial.number for trial in ours] == [trial.number for trial in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.state == other.state == FINISHED
        assert one.config == pytest.approx(other.config, abs=1e-12)
        assert one.value == pytest.approx(other.value, abs=1e-6)
        assert one.history == pytest.approx(other.history, abs=1e-6)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    spec = build_spec("random", 5)
    undisturbed = search(tmp_path / "whole", spec)
    killed = tmp_path / "killed"
    kill_after(start(killed, "random", 5), killed, 2, 0.1)
    kept = ended_files(killed)
    assert len(kept) >= 2
    resumed = search(killed, spec)
    assert_same_search(resumed.trials, undisturbed.trials)
    assert kept.items() <= ended_files(killed).items()  # neither lost nor run again
    # The processes of trials stay: those after the first neither import nor trace anything.
    startups = sorted(trial.startup_s for trial in undisturbed.trials)
    assert startups[-1] > 5 * startups[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_a_search_killed_at_twenty_points_ends_as_an_undisturbed_one(
    kind: str, tmp_path: Path
) -> None:
    trials, rng, killed = 18, np.random.default_rng(7), tmp_path / "killed"
    spec = build_spec(kind, trials)
    undisturbed = search(tmp_path / "whole", spec)
    kept: dict[str, bytes] = {}
    for _ in range(20):
        # Now and then while the cluster starts; most often between two trials or within one.
        more = int(rng.integers(0, 2)) if len(kept) < trials - 1 else 0
        kill_after(start(killed, kind, trials), killed, more, float(rng.uniform(0, 4)))
        ended = ended_files(killed)
        assert kept.items() <= ended.items()
        kept = ended
    assert start(killed, kind, trials).wait() == 0
    assert kept.items() <= ended_files(killed).items()
    assert_same_search(TrialLedger(killed / "trials").trials, undisturbed.trials)


@pytest.mark.usefixtures("ray_cluster")
def test_a_failing_trial_is_recorded_and_asha_stops_the_worse(tmp_path: Path) -> None:
    spec = TuneSpec(
        data="",
        views=2,
        epochs=9,
        trials=8,
        search="grid",
        objective="log_loss",
        max_concurrent=1,
        lr=(0.003, 1e-7),
        alpha=(0.5,),
        gamma=(1.0, 2.0),
        dropout=(0.1, 0.95),
    )
    folder = tmp_path / "search"
    TrialLedger(folder / "trials").begin(0, {"lr": -1.0})  # no alpha: the trial cannot be built
    ledger = search(folder, spec)
    assert len(ledger.trials) == 8
    assert ledger.trials[0].state == FAILED
    assert ledger.trials[0].error == "KeyError: 'alpha'"
    states = {trial.state for trial in ledger.trials[1:]}
    assert states == {FINISHED, STOPPED}
    for trial in ledger.trials[1:]:
        assert trial.value == min(trial.history) == trial.history[-1]
        assert (len(trial.history) == 9) == (trial.state == FINISHED)


def kill_trials() -> list[int]:
    """Kills the processes of trials and returns their ids."""
    found = [
        pid
        for pid, name in descendants(os.getpid())
        if name.startswith("ray::") and "Trial" in name
    ]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_whose_process_is_lost_is_run_again(tmp_path: Path) -> None:
    spec = build_spec("random", 3).model_copy(update={"max_concurrent": 1, "epochs": 40})
    killed: list[int] = []

    def kill_one() -> None:
        limit = time.monotonic() + 100
        while not killed and time.monotonic() < limit:
            time.sleep(0.05)
            if TrialLedger(tmp_path / "trials").ended:  # one at a time: the second is in work now
                killed.extend(kill_trials())

    killer = threading.Thread(target=kill_one)
    killer.start()
    ledger = search(tmp_path, spec)
    killer.join()
    assert killed
    assert [trial.state for trial in ledger.trials] == [FINISHED] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_process_lost_between_two_trials_is_neither_ones_failure(tmp_path: Path) -> None:
    spec = build_spec("random", 3).model_copy(update={"max_concurrent": 1})
    killed: list[int] = []

    def kill_after_each(trial: Trial) -> None:
        if trial.number < 2:
            killed.extend(kill_trials())

    ledger = search(tmp_path, spec, on_end=kill_after_each)
    assert len(killed) == 2
    assert [trial.state for trial in ledger.trials] == [FINISHED] * 3


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_search_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    spec = build_spec("random", 50).model_copy(update={"epochs": 10_000, "patience": 10_000})
    ledger = search(tmp_path, TuneSpec.model_validate(spec.model_dump() | {"time_budget": "8s"}))
    assert 1 <= len(ledger.trials) <= 2
    assert all(trial.state == STOPPED and trial.value for trial in ledger.trials)


def pss_of_all(root: int) -> int:
    """Proportional set size of a process and all below it, bytes."""
    total = 0
    for pid in [root, *(pid for pid, _ in descendants(root))]:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def peak_memory(folder: Path, trials: int) -> int:
    running = start(folder, "random", trials, num_features=1280)
    peak = 0
    while running.poll() is None:
        peak = max(peak, pss_of_all(running.pid))
        time.sleep(0.3)
    assert running.returncode == 0
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_trials(tmp_path: Path) -> None:
    few, many = (peak_memory(tmp_path / str(n), n) for n in (4, 32))
    assert few > 500 * MB
    assert many < 1.15 * few
