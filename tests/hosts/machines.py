"""Three machines and the operator's, made of namespaces by `hosts.sh`, and what is done on them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

USER = 1077
HEAD, WORKERS = "h1", ("h2", "h3")
ADDRESSES = {"h1": "10.77.0.10", "h2": "10.77.0.11", "h3": "10.77.0.12"}
_PROGRAMS = ("ip", "sshd", "sudo", "rsync", "ssh-keygen", "unshare", "nsenter", "setpriv")
_PROGRAMS += ("iptables", "mkfs.ext4", "fsfreeze")
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"  # of a machine
_COPIED = ("orchestrator", "deploy", "pyproject.toml", "README.md", "requirements.lock")
_LIVE = (
    "import os, ray; ray.init('auto', log_to_driver=False, logging_level='ERROR');"
    "print(*[n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']])"
)


def skip_where_impossible() -> None:
    """Skips with the reason where this machine cannot make hosts."""
    if os.geteuid() != 0:
        pytest.skip("hosts are made of namespaces, which needs root")
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if lacking:
        packages = "iproute2 openssh-server sudo rsync iptables e2fsprogs"
        pytest.skip(f"needs {', '.join(lacking)}: apt-get install {packages}")
    python = shutil.which("python3.11", path=_PATH)
    if python is None or subprocess.run([python, "-c", "import ensurepip"]).returncode:
        pytest.skip("needs python3.11 and its venv in /usr/bin or /usr/local/bin")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the operator's machine has these packages: make test-hosts PYTHON=python3.11")
    if subprocess.run(["ip", "netns", "add", "x77-probe"], capture_output=True).returncode:
        pytest.skip("this machine does not let root make network namespaces")
    subprocess.run(["ip", "netns", "del", "x77-probe"], check=True)


def collect_wheels() -> Path:
    """Returns the folder that `make wheelhouse` fills, filled where it is not yet."""
    folder = Path(os.environ.get("WHEELHOUSE", ROOT / "wheelhouse")).absolute()
    if not (folder / "SHA256SUMS").exists():
        python = shutil.which("python3.11", path=_PATH)  # that of the machines
        subprocess.run(["make", "wheelhouse", f"PYTHON={python}"], cwd=ROOT, check=True)
    return folder


@dataclass(frozen=True)
class Machines:
    """The machines, all with `share` at /mnt/xray.

    Args:
        folder: all that belongs to them.
        wheels: what they install from.
    """

    folder: Path
    wheels: Path

    @property
    def share(self) -> Path:
        """The shared storage, seen from here."""
        return self.folder / "share"

    def tell(self, *words: str) -> None:
        """Runs a command of `hosts.sh`."""
        done = subprocess.run(self._command(*words), env=self._environment(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    def start_on(self, host: str, command: str) -> "subprocess.Popen[str]":
        """Starts a shell command as the user of a machine."""
        words = self._command("as", host, "bash", "-c", command)
        return subprocess.Popen(
            words,
            env=self._environment()
            | ({"PYTHONPATH_OF": "/home/ray/project"} if host == "op" else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_on(self, host: str, command: str, *, code: int = 0, limit_s: float = 600) -> str:
        """Runs a shell command as the user of a machine; returns what it printed."""
        process = self.start_on(host, command)
        try:
            said, _ = process.communicate(timeout=limit_s)
        finally:
            process.kill()
        assert process.returncode == code, (
            f"{host}: {command}: {process.returncode}\n{said[-6000:]}"
        )
        return said

    def operate(self, command: str, *, code: int = 0, limit_s: float = 600) -> str:
        """Runs `orchestrator` on the operator's machine, on the share, through the tunnel."""
        words = (
            f"cd /mnt/xray && RAY_ADDRESS=http://127.0.0.1:8265 python -m orchestrator {command}"
        )
        return self.run_on("op", words, code=code, limit_s=limit_s)

    def ray(self, command: str, *, limit_s: float = 600) -> str:
        """Runs one of Ray's commands on the operator's machine, in the project's folder."""
        return self.run_on("op", f"cd ~/project && ray {command}", limit_s=limit_s)

    def live(self) -> set[str]:
        """Returns the names of the machines in the cluster, as the head has them."""
        process = self.start_on(HEAD, f"RAY_AUTH_MODE=token python -c {shlex.quote(_LIVE)}")
        said, _ = process.communicate(timeout=120)
        return {name for name, address in ADDRESSES.items() if address in said.split()}

    def processes(self, host: str) -> str:
        """Returns the command lines of a machine's processes."""
        return self.run_on(host, "ps -eo args")

    def _command(self, *words: str) -> list[str]:
        return ["bash", str(Path(__file__).with_name("hosts.sh")), *words]

    def _environment(self) -> dict[str, str]:
        site = sysconfig.get_paths()["purelib"]
        return {"B": str(self.folder), "SITE": site, "WHEELS": str(self.wheels), "PATH": _PATH}


def wait_for(what: str, holds: Callable[[], bool], limit_s: float) -> float:
    """Returns after how many seconds something holds; fails where it does not."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(1)
    return time.monotonic() - began


def fill_in(text: str) -> str:
    """The shipped launcher file as its header says to fill it in, for machines without GPUs."""
    for old, own in {
        "192.0.2.": "10.77.0.",
        "~/.ssh/example-key": "~/.ssh/xray-key",
        "worker: {CPU: 16, GPU: 2}": "worker: {CPU: 2}",
        "requirements-cluster.lock": "requirements.lock",
        "worker_setup_commands:\n  - nvidia-smi -L\n": "worker_setup_commands: []\n",
    }.items():
        assert old in text, old
        text = text.replace(old, own)
    return text


def set_up_operator(machines: Machines) -> None:
    """Gives the operator's machine the project, its launcher file, packages and a token."""
    home = machines.folder / "hosts" / "op" / "home"
    project = home / "project"
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            project.mkdir(exist_ok=True)
            shutil.copy(source, project / name)
    (project / "cluster.yaml").write_text(fill_in((ROOT / "cluster.yaml").read_text()))
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(home)], check=True)
    # The packages of this checkout; the machines of the cluster install theirs.
    machines.run_on(
        "op",
        "python3.11 -m venv ~/orchestrator/.venv && cd ~/orchestrator/.venv && "
        "rm -rf lib/python3.11/site-packages/{setuptools*,pkg_resources,*distutils*} && "
        "echo /srv/site >lib/python3.11/site-packages/site.pth && "
        "printf '%s\\n' '#!/home/ray/orchestrator/.venv/bin/python' 'import sys' "
        "'from ray.scripts.scripts import main' 'sys.exit(main())' >bin/ray && chmod +x bin/ray",
    )
    text = (ROOT / "cluster.yaml").read_text()
    make_token = re.search(r"^# Token: +(\(.*\)), once, here\.$", text, re.MULTILINE)
    assert make_token is not None
    machines.run_on("op", make_token[1])
