import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.schedule.service import notify_service
from tests.schedule.world import World


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What has been told to systemd so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        told: list[str] = []

        def read() -> list[str]:
            try:
                while True:
                    told.append(listener.recv(100).decode())
            except BlockingIOError:
                return told

        yield read


def wait_for(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_the_loop_tells_that_it_is_ready_alive_and_about_to_end(
    world: World, systemd: Callable[[], list[str]]
) -> None:
    stopping, stuck = threading.Event(), threading.Event()
    stuck.set()
    original = world.scheduler.step

    def step() -> bool:
        assert stuck.wait(60)
        return original()

    # The ledger is this thread's: the loop runs here, what looks at it in another.
    world.scheduler.step = step  # type: ignore[method-assign]
    seen: list[int] = []

    def watch() -> None:
        try:
            wait_for(lambda: systemd().count("WATCHDOG=1") >= 5)
            stuck.clear()  # a loop that hangs tells nothing any more
            time.sleep(0.2)
            seen.append(systemd().count("WATCHDOG=1"))
            time.sleep(0.3)
            seen.append(systemd().count("WATCHDOG=1"))
        finally:
            stopping.set()
            stuck.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    world.scheduler.run(stopping, interval_s=0.005)
    watcher.join()
    told = systemd()
    assert told[:2] == ["READY=1", "WATCHDOG=1"]
    assert told[-1] == "STOPPING=1"
    assert seen[0] == seen[1]


def test_each_of_many_runs_is_a_sign_of_life(
    world: World, systemd: Callable[[], list[str]]
) -> None:
    for number in range(7):
        world.job(f"job-{number}")
    world.step()
    world.go_to(2026, 3, 1, 1)
    before = systemd().count("WATCHDOG=1")
    world.step()
    assert systemd().count("WATCHDOG=1") - before >= 7


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0orchestrator-test-of-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@orchestrator-test-of-notify")
        notify_service("READY=1")
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify"])
def test_without_systemd_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_service("READY=1")
