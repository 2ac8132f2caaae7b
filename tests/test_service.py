"""The systemd unit of the scheduler."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.jobs.client import _ANSWER_LIMIT_S
from orchestrator.jobs.local_head import START_LIMIT_S
from orchestrator.schedule.leadership import Settings
from orchestrator.schedule.notify import _LIMIT_S
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "orchestrator-schedule.service"


def settings(name: str) -> list[str]:
    """Values of a setting of [Service], in order; it may be given several times."""
    lines = UNIT.read_text().partition("[Service]")[2].splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    program = re.escape(settings("ExecStart")[0].split()[0])
    # The program has to exist on the machine that checks.
    text = re.sub(program, sys.executable, UNIT.read_text())
    (tmp_path / UNIT.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / UNIT.name).write_text(text.replace("Restart=on-failure", "Restart=perhaps"))
    assert "perhaps" in subprocess.run(command, capture_output=True, text=True).stderr


def test_the_unit_gets_its_settings_from_the_shipped_file() -> None:
    shipped = configparser.ConfigParser(comment_prefixes="#")
    shipped.optionxform = str  # type: ignore[assignment,method-assign]
    shipped.read_string("[env]\n" + (FOLDER / "schedule.env").read_text())
    used = set(re.findall(r"\$\{(\w+)\}", settings("ExecStart")[0]))
    assert used <= set(shipped["env"])
    assert "RAY_ADDRESS" in shipped["env"]  # without it the service would start a Ray of its own
    assert settings("EnvironmentFile") == ["/etc/orchestrator/schedule.env"]


def test_the_units_paths_are_those_that_the_launcher_file_sets_up() -> None:
    launcher = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    user, shared = launcher["auth"]["ssh_user"], launcher["metadata"]["shared_storage"]
    assert settings("User") == [user]
    program = f"/home/{user}/orchestrator/.venv/bin/orchestrator"
    assert settings("ExecStart")[0].split()[0] == program
    assert any(c.startswith("cd ~/orchestrator && python") for c in launcher["setup_commands"])
    assert settings("WorkingDirectory") == settings("ReadWritePaths") == [shared]
    assert f"RequiresMountsFor={shared}\n" in UNIT.read_text()
    assert f"={shared}/jobs\n" in (FOLDER / "schedule.env").read_text()
    # What the header installs lies on the head at the paths it names.
    assert launcher["file_mounts"]["~/orchestrator/deploy/systemd"] == "deploy/systemd"


def test_a_scheduler_that_hangs_is_started_again() -> None:
    assert settings("Type") == ["notify"]
    assert settings("NotifyAccess") == ["main"]
    (limit,) = settings("WatchdogSec")
    # Longer than any one thing that the loop waits for: the start of a head, a cluster's answer.
    assert int(limit) > START_LIMIT_S + 2 * _ANSWER_LIMIT_S + Settings().budget_s
    assert settings("Restart") == ["on-failure"]  # a watchdog's end is one
    (stop,) = settings("TimeoutStopSec")
    assert int(stop) > 2 * _LIMIT_S  # of a notice under way
    assert "AF_UNIX" in settings("RestrictAddressFamilies")[0]


def test_token_and_ledger_belong_to_the_service_alone() -> None:
    environment = " ".join(settings("Environment"))
    assert "RAY_AUTH_MODE=token" in environment
    assert "RAY_AUTH_TOKEN_PATH=%d/auth_token" in environment
    assert "ORCHESTRATOR_LEDGER=/var/lib/orchestrator/" in environment
    assert settings("StateDirectoryMode") == ["0700"]
    assert settings("Restart") == ["on-failure"]
    assert settings("User") != ["root"]
