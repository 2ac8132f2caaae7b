"""Shell commands of the shipped launcher files, run here as Ray runs them on a machine."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

BIN = "orchestrator/.venv/bin"


def run(home: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as Ray's `_with_interactive` does, by a user with this home folder."""
    wrapped = ["bash", "--login", "-c", "-i", f"source ~/.bashrc; true && ({command})"]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "10.1.2.10"}
    return subprocess.run(
        wrapped, env=environment, capture_output=True, text=True, timeout=60, start_new_session=True
    )


def put(home: Path, name: str, script: str) -> None:
    """Puts a program where the launcher file installs them."""
    file = home / BIN / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.mark.parametrize("bashrc", [None, "", "case $- in *i*) ;; *) return;; esac\nMINE=1\n"])
def test_every_shell_finds_ray_and_asks_for_the_token(bashrc: str | None, tmp_path: Path) -> None:
    shipped = (ROOT / name for name in ("cluster.yaml", "deploy/cluster-aws.yaml"))
    commands = [c for file in shipped for c in yaml.safe_load(file.read_text())["setup_commands"]]
    setting, same = [command for command in commands if ".bashrc" in command]
    assert setting == same
    put(tmp_path, "ray", "echo ray with $RAY_AUTH_MODE")
    if bashrc is not None:
        (tmp_path / ".bashrc").write_text(bashrc)
    for _ in range(2):  # as by a second `ray up`
        assert run(tmp_path, setting).returncode == 0
    assert (tmp_path / ".bashrc").read_text().count(BIN) == 1
    assert (bashrc or "") in (tmp_path / ".bashrc").read_text()
    assert run(tmp_path, "ray").stdout == "ray with token\n"
    other = f"HOME={shlex.quote(str(tmp_path))}; . ~/.bashrc; ray"
    assert subprocess.check_output(["bash", "-c", other], text=True) == "ray with token\n"


def test_a_worker_mounts_the_storage_and_starts_until_it_works(tmp_path: Path) -> None:
    launcher = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    home, share = tmp_path / "home", tmp_path / "share"
    said = tmp_path / "said"
    put(home, "sleep", f"echo sleep $* >>{said}")
    put(home, "mountpoint", f"[ -e {share}/.mounted ]")
    # The server of the storage answers at the second try, the head at the third.
    put(
        home,
        "sudo",
        f"echo sudo $* >>{said}\n[ $2 = mkdir ] && exec mkdir -p {share}\n"
        f"[ $(grep -c 'mount -t' {said}) -ge 2 ] && touch {share}/.mounted",
    )
    put(
        home,
        "ray",
        f"echo ray $* in $(pwd) $RAY_AUTH_MODE >>{said}\n"
        f"[ $1 = stop ] || [ $(grep -c 'ray start' {said}) -ge 3 ]",
    )
    for command in launcher["worker_start_ray_commands"]:
        command = f"PATH={home}/{BIN}:$PATH; {command.replace('/mnt/xray', str(share))}"
        assert run(home, command).returncode == 0
    mount = [f"sudo -n mkdir -p {share}", f"sudo -n mount -t nfs 192.0.2.5:/export/xray {share}"]
    start = [f"ray stop in {share}", f"ray start --address=10.1.2.10:6379 in {share} token"]
    expected = [*mount, "sleep 10", *mount, *start, "sleep 10", *start, "sleep 10", *start]
    assert said.read_text().splitlines() == expected
