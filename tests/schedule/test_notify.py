"""Who is told of a failed run, once each, and what is not repeated."""

import http.server
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.config.job import OnFailure
from orchestrator.runs.states import Status
from orchestrator.schedule.notify import find_problem, send
from tests.schedule.world import World, one_tick

SECRET = "geheim"


def fail(world: World, on_failure: dict[str, object]) -> None:
    """A run of the night that fails for good."""
    world.job(cron="0 1 * * *", on_failure=on_failure)
    world.step()
    world.go_to(2026, 3, 1, 1)
    world.step()
    world.finish_all(Status.FAILED)


def tell(world: World) -> None:
    """Steps until the notices are over, and on with another scheduler."""
    limit = time.monotonic() + 60
    world.step()
    while world.ledger.notices():
        assert time.monotonic() < limit
        world.step(seconds=2)
        time.sleep(0.01)
    world.restart(minutes=1)
    world.step(5)
    assert world.history()[0].notice == "sent"


# --- commands -------------------------------------------------------------------------------------


def fail_to_the_end(world: World) -> None:
    for _ in range(8):
        world.finish_all(Status.FAILED)
        world.step()
        world.pass_time(seconds=31)
    for _ in range(200):
        world.step(seconds=2)
        if not world.ledger.notices():
            return
        time.sleep(0.02)


def test_after_the_last_try_the_command_is_called_once(world: World) -> None:
    told = world.folder / "told"
    script = f'echo "$ORCHESTRATOR_JOB $ORCHESTRATOR_TICK $ORCHESTRATOR_ATTEMPTS" >> {told}'
    one_tick(world, retries=2, on_failure={"command": ["sh", "-c", script]})
    fail_to_the_end(world)
    assert told.read_text() == "nightly 2026-03-01T01:00:00+00:00 3\n"
    assert len(world.cluster.journal()) == 3
    assert (world.history()[0].state, world.history()[0].notice) == ("FAILED", "sent")


def test_a_command_that_fails_is_given_up_and_said(world: World) -> None:
    one_tick(world, on_failure={"command": ["/nowhere/page-oncall"]})
    fail_to_the_end(world)
    assert "did not start" in (world.history()[0].notice or "")
    assert any("nobody was notified" in line for line in world.said)


def test_an_unreachable_cluster_is_told_of_and_the_run_is_kept(world: World) -> None:
    told = world.folder / "told"
    world.unreachable = ConnectionError("refused")
    one_tick(
        world,
        window="1h",
        cron="0 1 * * *",
        on_failure={"command": ["sh", "-c", f"echo $ORCHESTRATOR_STATE >> {told}"]},
    )
    world.step(61, seconds=60)
    fail_to_the_end(world)
    assert sorted(told.read_text().split()) == ["OVERDUE", "SUBMITTING"]
    assert world.states() == ["SUBMITTING"]
    world.unreachable = None
    world.pass_time(seconds=10)
    world.step(2)
    run = world.history()[0]
    assert str(run.state) == "FAILED"
    assert "could not be submitted within 1 h" in (run.reason or "")
    assert world.cluster.ids() == []


# --- webhooks and addresses -----------------------------------------------------------------------


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, object]], list[int]]]:
    """A web server: its address, what it was told, and the answers it is to give."""
    told: list[dict[str, object]] = []
    answers: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", told, answers
    server.shutdown()
    server.server_close()


def test_a_webhook_is_told_and_asked_again_where_it_fails(
    world: World, webhook: tuple[str, list[dict[str, object]], list[int]]
) -> None:
    address, told, answers = webhook
    answers.append(500)
    fail(world, {"webhook": address})
    for _ in range(200):
        world.step(seconds=2)
        if world.history()[0].notice == "sent":
            break
        time.sleep(0.02)
    assert world.history()[0].notice == "sent"
    assert len(told) == 2
    assert told[0] == {
        "job": "nightly",
        "tick": "2026-03-01T01:00:00+00:00",
        "state": "FAILED",
        "reason": "failed on the cluster; its log and status.json say why",
        "attempts": 1,
        "submission_id": "nightly-20260301T010000Z-1",
    }
    assert "secret" not in "".join(world.said)


def test_a_webhook_is_told_once(
    world: World, webhook: tuple[str, list[dict[str, object]], list[int]]
) -> None:
    address, told, _ = webhook
    fail(world, {"webhook": address})
    tell(world)
    assert [(notice["job"], notice["state"]) for notice in told] == [("nightly", "FAILED")]


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a mail takes that is neither encrypted nor signed in for."""

    def handle(self) -> None:
        server: Any = self.server
        self.wfile.write(b"220 ready\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                server.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 done\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Mails that came to the address in ONCALL_ADDRESS."""
    pytest.importorskip("apprise", reason="apprise is an extra: notify")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail) as server:
        server.mails = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here = f"127.0.0.1:{server.server_address[1]}"
        address = f"mailto://{here}?from=night@example.com&to=oncall@example.com&mode=insecure"
        monkeypatch.setenv("ONCALL_ADDRESS", address)
        yield server.mails  # type: ignore[attr-defined]
        server.shutdown()


def test_a_mail_arrives_once(world: World, mails: list[str]) -> None:
    fail(world, {"apprise": "ONCALL_ADDRESS"})
    tell(world)
    (mail,) = mails
    assert "Subject: nightly: FAILED\r\n" in mail
    assert "To: oncall@example.com\r\n" in mail
    assert "tick: 2026-03-01T01:00:00+00:00\r\n" in mail
    assert world.ledger.faults() == {}


def test_an_address_of_apprise_is_neither_stored_nor_said(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("apprise", reason="apprise is an extra: notify")
    target = OnFailure(apprise="ONCALL_ADDRESS")
    body: dict[str, str | int] = {"job": "nightly", "state": "FAILED"}
    for address, problem in {
        f"json://127.0.0.1:9/{SECRET}": "Apprise did not deliver it",
        f"nowhere://{SECRET}@x": "the address is not one of Apprise's",
        f"json://a/{SECRET} json://b/{SECRET}": "the address is not one of Apprise's",
    }.items():
        monkeypatch.setenv("ONCALL_ADDRESS", address)
        assert (send(target, body) or "").startswith(problem)
    fail(world, {"apprise": "ONCALL_ADDRESS"})
    world.step()
    assert SECRET not in "".join([*capfd.readouterr(), *world.said])
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_a_scheduler_that_could_notify_nobody_says_so_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONCALL_ADDRESS", raising=False)
    monkeypatch.setattr("orchestrator.schedule.notify.find_spec", lambda name: object())
    world.job(on_failure={"apprise": "ONCALL_ADDRESS"})
    world.step()
    problem = "on_failure: the scheduler's environment has no ONCALL_ADDRESS; set it there"
    assert world.ledger.faults() == {("nightly", "notice"): problem}
    monkeypatch.setattr("orchestrator.schedule.notify.find_spec", lambda name: None)
    world.job(on_failure={"apprise": "ONCALL_ADDRESS"}, retries=1)
    world.step()
    assert "pip install 'xray-orchestrator[notify]'" in world.ledger.faults()["nightly", "notice"]
    world.go_to(2026, 3, 1, 1)
    world.drain()  # and the job runs
    assert world.states() == ["SUCCEEDED"]
    world.job(on_failure={"command": ["true"]})
    world.step()
    assert world.ledger.faults() == {}
    assert find_problem(None) is None
