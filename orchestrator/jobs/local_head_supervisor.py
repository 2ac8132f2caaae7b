"""The process that watches over the local head (`head.py`): starts Ray, ends it when it is idle."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from orchestrator.cluster.session import LOCAL_OBJECT_STORE_BYTES
from orchestrator.config.workers import count_cpus
from orchestrator.jobs.local_head import (
    START_LIMIT_S,
    STOP_LIMIT_S,
    LocalHead,
    LocalHeadFiles,
    ask,
    find_busy,
    try_lock,
    wait_until,
)
from orchestrator.runs.atomic import write_json


def keep(idle_s: float) -> int:
    """Runs a head until it ends, is stopped or has been idle; returns the exit code."""
    files = LocalHeadFiles()
    lock = files.lock.open("a")
    if not wait_until(lambda: try_lock(lock), 5.0):
        return 1
    port, client_port = _free_ports(2)
    address = f"http://127.0.0.1:{port}"
    # It inherits the lock: should the keeper be killed, the head is still known and can be stopped.
    ray = subprocess.Popen(
        _start_command(files.temporary, port, client_port),
        stdin=subprocess.DEVNULL,
        pass_fds=[lock.fileno()],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_JOB_STOP_WAIT_TIME_S": "20"},
    )
    signal.signal(signal.SIGTERM, lambda *_: ray.terminate())
    began = time.monotonic()
    while ray.poll() is None and ask(address) is None:
        if time.monotonic() - began > START_LIMIT_S:
            ray.terminate()
        time.sleep(0.2)
    if ray.poll() is None:
        record = asdict(LocalHead(address, ray.pid)) | asdict(files.machine)
        write_json(files.record, record, mode=0o600)
        _end_when_idle(ray, address, idle_s)
    files.record.unlink(missing_ok=True)
    return ray.wait()


def _start_command(temporary: Path, port: int, client_port: int) -> list[str]:
    options = {
        "port": 0,
        "node-ip-address": "127.0.0.1",
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": client_port,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": count_cpus(),
        "object-store-memory": LOCAL_OBJECT_STORE_BYTES,
        "temp-dir": temporary,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    return [*start, "--disable-usage-stats", *flags]


def _end_when_idle(ray: "subprocess.Popen[bytes]", address: str, idle_s: float) -> None:
    """Waits for the head's end; ends it where no job was seen for `idle_s`."""
    pause = min(idle_s / 4, 20.0)
    last_busy = time.monotonic()
    while ray.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(pause)
        jobs = ask(address)
        # A head too busy to answer is not idle.
        if jobs is None or find_busy(jobs):
            last_busy = time.monotonic()
        if time.monotonic() - last_busy > idle_s:
            sys.stderr.write(f"idle for {idle_s:g} s: the head ends\n")
            ray.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                ray.wait(STOP_LIMIT_S)
            ray.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


if __name__ == "__main__":
    sys.exit(keep(float(sys.argv[1])))
