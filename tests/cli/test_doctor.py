import re

import pytest

from orchestrator.cli import doctor
from orchestrator.cli.summaries import doctor_table
from orchestrator.jobs.local_head import LocalHead

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_sound_machine_passes_every_check() -> None:
    checks = doctor.diagnose()
    assert [check.name for check in checks if not check.ok] == []
    table = "\n".join(doctor_table(checks))
    assert "Ray cluster" in table
    assert "2 CPU" in table


def test_a_backend_that_is_not_there_fails_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "abacus")
    (check,) = [c for c in doctor.diagnose() if c.name == "Keras backend"]
    assert not check.ok
    assert "correct KERAS_BACKEND" in check.found


def test_a_jobs_address_that_answers_is_sound(
    local_head: LocalHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", local_head.address)
    check = doctor._cluster()
    assert check.ok, check.found
    assert re.fullmatch(
        rf"{local_head.address}: 1 node, \d+ CPU, \d+ GPU; `orchestrator submit` uses it",
        check.found,
    )
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # nobody listens there
    assert not doctor._cluster().ok
