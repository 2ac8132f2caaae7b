import pytest

from orchestrator.cli import doctor
from orchestrator.cli.summaries import doctor_table

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
