"""The set-up without an index: what `make wheelhouse` collects and what is installed from it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

LOCKS = {"wheelhouse": "requirements.lock", "wheelhouse-cluster": "requirements-cluster.lock"}
NO_INDEX = "--no-index --find-links {}"


def dry_run(*arguments: str) -> list[str]:
    """The commands that `make` would run, each as one line."""
    command = ["make", "--always-make", "--dry-run", "--silent", *arguments]
    # What a `make test WHEELHOUSE=...` around this test hands down is not asked about.
    inherited = ("WHEELHOUSE", "MAKEFLAGS", "MAKEOVERRIDES")
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.replace("\\\n", "").splitlines() if " pip " in line]


@pytest.mark.parametrize("folder", LOCKS)
def test_every_locked_wheel_is_collected_by_its_hash(folder: str) -> None:
    (command,) = dry_run(folder)
    # Wheels alone: what had to be built on a machine without an index would need what is not there.
    for flag in ("--only-binary :all:", "--require-hashes", f"--dest {folder}"):
        assert flag in command
    assert command.split()[-2:] == ["-r", LOCKS[folder]]
    assert f"/{folder}/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("lock", LOCKS.values())
def test_every_package_is_locked_with_a_hash_and_what_builds_this_one_too(lock: str) -> None:
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    pinned = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert len(pinned) > 100
    assert [line for line in pinned if "==" not in line or "--hash=sha256:" not in line] == []
    assert any(line.startswith("setuptools==") for line in pinned)  # no build isolation


@pytest.mark.parametrize("target", ["setup", "demo"])
def test_with_a_wheelhouse_no_command_asks_an_index(target: str) -> None:
    installs = [c for c in dry_run(target, "WHEELHOUSE=/w") if " install " in c]
    assert len(installs) == 2
    assert all(NO_INDEX.format("/w") in command for command in installs)
    assert not any("--no-index" in command for command in dry_run(target))


def test_the_launcher_file_says_how_its_machines_do_without_an_index() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    launcher = yaml.safe_load(text)
    folder = f"{launcher['metadata']['shared_storage']}/wheelhouse-cluster"
    assert NO_INDEX.format(folder) in text
    # It lies on the shared storage, so that is mounted before anything is installed.
    assert "mount" in launcher["initialization_commands"][0]
    installs = [c for c in launcher["setup_commands"] if "pip install" in c]
    assert len(installs) == 2


@pytest.mark.slow
def test_the_demo_runs_from_a_wheelhouse_without_an_index(tmp_path: Path) -> None:
    """Sets up a copy of the project from the wheels alone and runs the demo there."""
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "runs", "models", "demo"))
    python = f"PYTHON={sys.executable}"
    subprocess.run(["make", "wheelhouse", python], cwd=project, check=True)
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=project / "wheelhouse", check=True
    )
    wheels = list((project / "wheelhouse").glob("*.whl"))
    locked = (project / "requirements.lock").read_text()
    assert len(wheels) == len(re.findall(r"^[A-Za-z0-9][^ ]*==", locked, re.MULTILINE))
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    subprocess.run(
        ["make", "demo", python, "WHEELHOUSE=wheelhouse"], cwd=project, env=nowhere, check=True
    )
    assert list((project / "demo").rglob("_SUCCESS"))
