"""The shipped cluster.yaml on three machines: comes up, works, loses some, takes them back, ends.

The tests build on one another, in their order; `make test-hosts` runs them.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
import yaml

from orchestrator.data.phantoms import write_phantoms
from tests.hosts.machines import (
    ADDRESSES,
    HEAD,
    USER,
    WORKERS,
    Machines,
    collect_wheels,
    set_up_operator,
    skip_where_impossible,
    wait_for,
)

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(1500)]
ALL = set(ADDRESSES)
JOIN_S = 900.0  # packages are installed meanwhile
RETURN_S = 400.0
STALL_S = 40.0


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Four machines that are up, and the operator's set up; images on the share."""
    skip_where_impossible()
    found = Machines(tmp_path_factory.mktemp("hosts"), collect_wheels())
    try:
        found.tell("lan")
        write_phantoms(found.share / "xrays", num_images=120, seed=1, size_px=512)
        _take_storage(found, "h3")
        for host in ("op", *ADDRESSES):
            found.tell("start", host)
        set_up_operator(found)
        (found.share / "jobs").mkdir()
        _own(found)
        yield found
    finally:
        found.tell("down")


@pytest.fixture(scope="module")
def tunnel(machines: Machines) -> Iterator[None]:
    """The tunnel to the dashboard and the Jobs API, opened again when it breaks."""
    keep = "cd ~/project && while :; do ray dashboard cluster.yaml; sleep 1; done"
    process = machines.start_on("op", f"{keep} >~/tunnel.log 2>&1")
    yield
    process.kill()


def _answers(machines: Machines) -> bool:
    ask = "python -c 'import socket; socket.create_connection((\"127.0.0.1\", 8265), 2)'"
    return machines.start_on("op", ask).wait() == 0


def _take_storage(machines: Machines, host: str) -> None:
    """Has a machine start without the storage."""
    (machines.folder / "hosts" / host).mkdir(parents=True, exist_ok=True)
    (machines.folder / "hosts" / host / "no-share").touch()


def _give_storage(machines: Machines, host: str) -> None:
    machines.tell("root", host, "mount", "--bind", "/srv/share", "/mnt/xray")
    (machines.folder / "hosts" / host / "no-share").unlink()


def _submit(machines: Machines, job: str) -> "tuple[subprocess.Popen[str], Path]":
    """Submits a job and goes on; returns the command and the file that has what it says."""
    said = machines.folder / "hosts" / "op" / "home" / f"{Path(job).stem}.log"
    words = f"submit {job} --wait >~/{said.name} 2>&1"
    command = f"RAY_ADDRESS=http://127.0.0.1:8265 exec python -m orchestrator {words}"
    process = machines.start_on("op", f"cd /mnt/xray && {command}")
    wait_for("its output", said.exists, 30)
    return process, said


def _own(machines: Machines) -> None:
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(machines.share)], check=True)


def _write_job(machines: Machines, name: str, kind: str, **args: object) -> str:
    """Writes a job for both workers; returns its path on the machines."""
    resources = {"workers": 2, "cpus_per_worker": 2, "max_wait": "15m"}
    job = {"name": name, "kind": kind, "args": args, "resources": resources}
    (machines.share / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    _own(machines)
    return f"jobs/{name}.yaml"


def _score(machines: Machines, name: str) -> str:
    return _write_job(
        machines,
        name,
        "score",
        input="../xrays",
        model="../models/live",
        out=f"../scored/{name}",
        shard_rows=4,
    )


def _table(machines: Machines, name: str) -> pa.Table:
    folder = machines.share / "scored" / name
    assert (folder / "_SUCCESS").exists()
    table = pyarrow.dataset.dataset(folder / "predictions", format="parquet").to_table()
    return table.select(["path", "probability"]).sort_by("path")


def _parts(machines: Machines, name: str) -> list[Path]:
    return list((machines.share / "scored" / name).rglob("part-*.arrow"))


def test_the_filled_in_file_is_accepted(machines: Machines) -> None:
    said = machines.run_on(
        "op", "cd ~/project && python -m orchestrator cluster check cluster.yaml"
    )
    assert "no fault" in said


def test_a_training_submitted_right_after_ray_up_waits_for_a_worker_whose_storage_is_late(
    machines: Machines, request: pytest.FixtureRequest
) -> None:
    machines.ray("up -y cluster.yaml", limit_s=JOIN_S)
    request.getfixturevalue("tunnel")
    job = _write_job(
        machines,
        "live",
        "train",
        data="../xrays",
        out="../models/live",
        backbone="tiny",
        weights="none",
        image_size=64,
        features="live",
        epochs=2,
        batch_size=16,
    )
    wait_for("the tunnel", lambda: _answers(machines), 120)
    training, said = _submit(machines, job)
    missing = re.compile(rf"yet to join: (?:{ADDRESSES['h2']}, )?{ADDRESSES['h3']}\)")
    wait_for("the line on h3", lambda: bool(missing.search(said.read_text())), 300)
    assert "h3" not in machines.live()
    _give_storage(machines, "h3")
    assert training.wait(JOIN_S) == 0, said.read_text()
    print(said.read_text())
    assert "starting 2 training workers" in said.read_text()
    assert machines.live() == ALL
    assert (machines.share / "models" / "live").is_dir()


def test_scoring_on_both_workers_outlasts_a_share_that_stalls(
    machines: Machines, tunnel: None
) -> None:
    job, said = _submit(machines, _score(machines, "calm"))
    listing = machines.share / "scored" / "calm" / "manifest.parquet"
    wait_for("the listing", listing.exists, 300)
    machines.tell("stall")
    try:
        time.sleep(STALL_S)
        assert len(_parts(machines, "calm")) < 30
        assert job.poll() is None, said.read_text()
    finally:
        machines.tell("flow")
    assert job.wait(600) == 0, said.read_text()
    assert _table(machines, "calm").num_rows == 120


def test_a_worker_that_loses_its_power_costs_nothing_and_comes_back(
    machines: Machines, tunnel: None
) -> None:
    job, said = _submit(machines, _score(machines, "power"))
    wait_for("a shard", lambda: bool(_parts(machines, "power")), 300)
    machines.tell("kill", "h3")
    assert job.wait(600) == 0, said.read_text()
    calm, power = _table(machines, "calm"), _table(machines, "power")
    assert power["path"].equals(calm["path"])
    for a, b in zip(calm["probability"].to_pylist(), power["probability"].to_pylist(), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    # It starts without the storage, which comes late: its start waits, and is not given up.
    _take_storage(machines, "h3")
    machines.tell("start", "h3")
    wait_for("its start", lambda: "until mountpoint" in machines.processes("h3"), RETURN_S)
    time.sleep(15)
    assert machines.live() == ALL - {"h3"}
    _give_storage(machines, "h3")
    took_s = wait_for("h3 back", lambda: machines.live() == ALL, RETURN_S)
    print(f"h3 back {took_s:.0f} s after its storage")


def test_a_cable_that_is_cut_and_mended_brings_the_worker_back(machines: Machines) -> None:
    machines.tell("cut", "h2")
    wait_for("h2 lost", lambda: machines.live() == ALL - {"h2"}, 200)
    machines.tell("mend", "h2")
    took_s = wait_for("h2 back", lambda: machines.live() == ALL, RETURN_S)
    print(f"h2 back after {took_s:.0f} s")


def test_a_folder_that_the_cluster_does_not_see_is_told(machines: Machines, tunnel: None) -> None:
    job = "name: away\nkind: score\nargs: {input: /mnt/xray/xrays, model: /mnt/xray/models/live}\n"
    said = machines.run_on(
        "op",
        f"mkdir -p ~/away && cd ~/away && printf '{job!s}' >away.yaml && "
        "RAY_ADDRESS=http://127.0.0.1:8265 python -m orchestrator submit away.yaml",
        code=2,
    )
    assert "the cluster does not see /home/ray/away" in said


def test_a_search_runs_on_the_cluster(machines: Machines, tunnel: None) -> None:
    job = _write_job(
        machines,
        "search",
        "tune",
        data="../xrays",
        out="../runs/search",
        backbone="tiny",
        weights="none",
        image_size=64,
        views=1,
        augmentation="none",
        epochs=2,
        trials=2,
    )
    machines.operate(f"submit {job} --wait", limit_s=900)


def test_a_wrong_token_and_another_version_are_named(machines: Machines, tunnel: None) -> None:
    said = machines.operate("jobs list")
    assert "live" in said
    wrong = "cd /mnt/xray && RAY_AUTH_TOKEN=wrong RAY_ADDRESS=http://127.0.0.1:8265 "
    said = machines.run_on("op", f"{wrong} python -m orchestrator jobs list", code=5)
    assert "token" in said
    machines.run_on("h2", "echo '# another version' >>~/orchestrator/orchestrator/errors.py")
    try:
        said = machines.operate(f"submit {_score(machines, 'version')} --wait", code=5)
        assert "another version of this program (errors.py)" in said
    finally:
        machines.run_on("h2", "sed -i '$d' ~/orchestrator/orchestrator/errors.py")


def test_a_head_that_was_off_comes_back_behind_a_firewall_that_is_opened_and_schedules_go_on(
    machines: Machines, tunnel: None
) -> None:
    _score(machines, "tick")
    file = machines.share / "jobs" / "tick.yaml"
    job = yaml.safe_load(file.read_text())
    job["args"].pop("out")
    job |= {"schedule": {"cron": "* * * * *", "overlap": "skip"}, "retries": 1}
    (machines.share / "nightly").mkdir()
    (machines.share / "nightly" / "tick.yaml").write_text(yaml.safe_dump(job))
    _own(machines)
    scheduler = machines.start_on(
        "op",
        "cd /mnt/xray && RAY_ADDRESS=http://127.0.0.1:8265 exec python -m orchestrator "
        "schedule run --jobs nightly >~/schedule.log 2>&1",
    )
    try:
        wait_for("a tick at work", lambda: "RUNNING" in _ticks(machines).values(), 300)
        machines.tell("kill", HEAD)
        machines.tell("start", HEAD)
        machines.tell("wall", HEAD)
        machines.ray("up -y cluster.yaml", limit_s=JOIN_S)
        up = datetime.now(UTC).isoformat()
        for host in WORKERS:  # neither reaches the head's port, and each tries again
            wait_for("its tries", lambda h=host: "until ray stop" in machines.processes(h), 200)
        time.sleep(30)
        assert machines.live() == {HEAD}
        machines.tell("open", HEAD)
        took_s = wait_for("three machines alive", lambda: machines.live() == ALL, RETURN_S)
        print(f"three machines {took_s:.0f} s after the second ray up")
        wait_for(
            "a tick after it",
            lambda: any(s == "SUCCEEDED" and at > up for at, s in _ticks(machines).items()),
            600,
        )
    finally:
        scheduler.kill()
    said = machines.operate("jobs list")
    assert "another version of this program (errors.py)" in said  # of the job `version`, before


def _ticks(machines: Machines) -> dict[str, str]:
    """States by tick, as the scheduler's ledger has them."""
    said = machines.operate("schedule history --json")
    return {tick["tick"]: tick["state"] for tick in json.loads(said)["ticks"]}


def test_ray_exec_finds_ray_and_ray_down_with_ray_stop_leaves_no_process(
    machines: Machines,
) -> None:
    assert "Active:" in machines.ray('exec cluster.yaml "ray status"')
    machines.ray("down -y cluster.yaml")
    assert "/ray/" not in machines.processes(HEAD)
    for host in WORKERS:
        # It gives the head up after a minute.
        wait_for("its end", lambda h=host: "raylet/raylet" not in machines.processes(h), 200)
        key = "ssh -o StrictHostKeyChecking=no -i ~/.ssh/xray-key"
        machines.run_on("op", f"{key} {ADDRESSES[host]} ray stop")
        assert "/ray/" not in machines.processes(host)
