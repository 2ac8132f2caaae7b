"""What is wrong with the commands of a launcher file: token, environment, storage, keys.

None of it is an error to Ray: the cluster comes up open to the network, without workers or with
other packages on every machine.
"""

import re
import stat
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from orchestrator.config.load import resolve_path
from orchestrator.launcher.file import Finding, Launcher, flag
from orchestrator.launcher.network import check_network

_TOKEN = ".ray/auth_token"
# As a command, not as a word of another one, with its options up to the command that it runs.
_SUDO = (
    r"(?:^|[\n;&|({'\"`!]|\b(?:if|then|elif|else|do|while|until|exec|[A-Z_]+=\S*)\s)\s*"
    r"(?P<whole>sudo(?P<options>(?:\s+-[ugpCDhRrTtU]\s+\S+|\s+-\S+)*)(?=\s)[^;&|)]*)"
)
_MAKE_TOKEN = "(umask 077 && mkdir -p ~/.ray && openssl rand -hex 32 > ~/.ray/auth_token)"


def _token(launcher: Launcher) -> Iterator[Finding]:
    for key, command in launcher.start_commands().items():
        if not command:
            yield Finding(key, "no `ray start`", "take the commands of the shipped cluster.yaml")
        elif not re.search(r"\bRAY_AUTH_MODE=[\"']?token\b", command):
            yield Finding(
                key,
                "token authentication is off: anyone who reaches the port may run code",
                "write RAY_AUTH_MODE=token before `ray start`",
            )
        if re.search(r"\bRAY_AUTH_TOKEN=", command):
            yield Finding(
                key,
                "the token itself stands in the file",
                "remove RAY_AUTH_TOKEN, make another token and copy its file by file_mounts",
            )
    carried = any(str(path).endswith(_TOKEN) for path in launcher.section("file_mounts"))
    if not carried and not any(
        "RAY_AUTH_TOKEN_PATH=" in c for c in launcher.start_commands().values()
    ):
        yield Finding(
            "file_mounts",
            "no token reaches the machines, so none of them will start",
            'add "~/.ray/auth_token": "~/.ray/auth_token"',
        )


def _joining(launcher: Launcher) -> Iterator[Finding]:
    """Start commands after which no worker would come."""
    starts = launcher.start_commands()
    head, worker = starts["head_start_ray_commands"], starts["worker_start_ray_commands"]
    if head and not re.search(r"--head\b", head):
        yield Finding("head_start_ray_commands", "`ray start` without --head", "add --head")
    if head and flag(head, "autoscaling-config") is None:
        yield Finding(
            "head_start_ray_commands",
            "the autoscaler is off, so no worker is ever started",
            "add --autoscaling-config=~/ray_bootstrap_config.yaml",
        )
    if head and not re.search(r"\bORCHESTRATOR_CLUSTER=", head):
        yield Finding(
            "head_start_ray_commands",
            "jobs are refused, not kept waiting, while workers are not up yet",
            "write ORCHESTRATOR_CLUSTER=$HOME/ray_bootstrap_config.yaml before `ray start`",
        )
    if worker and "RAY_HEAD_IP" not in (flag(worker, "address") or ""):
        yield Finding(
            "worker_start_ray_commands",
            "workers do not join the head",
            "add --address=$RAY_HEAD_IP:6379",
        )


def _environment(launcher: Launcher) -> Iterator[Finding]:
    """Packages that differ from machine to machine, or from one day to the next."""
    image = launcher.section("docker")
    images = [str(image[k]) for k in ("image", "head_image", "worker_image") if image.get(k)]
    for name in images:
        if "@sha256:" not in name:
            yield Finding("docker", f"the image {name} may change", "name it with its @sha256: sum")
    for role, commands in launcher.setup_commands().items():
        if not images and not any("--require-hashes" in command for command in commands):
            yield Finding(
                f"setup_commands ({role})",
                "the environment is not locked",
                "add `pip install --require-hashes -r requirements-cluster.lock`",
            )
        for command in commands:
            loose = re.search(r"\bpip3? install\b", command)
            if loose and not re.search(r"--require-hashes|--no-deps", command):
                yield Finding(
                    f"setup_commands ({role})",
                    f"`{_short(command)}` installs whatever is newest",
                    "install from the lock file with --require-hashes",
                )


def _shells(launcher: Launcher) -> Iterator[Finding]:
    """Commands that stop for a password, and shells that do not find `ray`."""
    for key, commands in launcher.commands().items():
        for command in commands:
            for asking in re.finditer(_SUDO, command):
                if not re.search(r"\s(?:-[A-Za-z]*n|--non-interactive\b)", asking["options"]):
                    shown = _short(asking["whole"].strip())
                    yield Finding(
                        key,
                        f"`{shown}` may ask for a password, which nobody can type",
                        "write sudo -n",
                    )
    start = launcher.start_commands()["head_start_ray_commands"]
    shells = re.compile(r"\.bashrc|\.(?:bash_)?profile|/etc/(?:profile|environment)|/usr/local/bin")
    if re.search(r"\bPATH=|/ray start\b", start) and not any(
        map(shells.search, launcher.setup_commands()["head"])
    ):
        yield Finding(
            "setup_commands (head)",
            "`ray down` and `ray exec` find no `ray` on the head, so Ray is not ended",
            "put its folder on the PATH in ~/.bashrc, as the shipped cluster.yaml does",
        )


def _paths(launcher: Launcher) -> Iterator[Finding]:
    """Paths of commands that are meant to be the shared storage's and are not."""
    shared = str(launcher.section("metadata").get("shared_storage") or "").rstrip("/")
    depth = shared.count("/")
    seen = set()
    for key, commands in launcher.commands().items():
        for path in re.findall(r"(?<![\w.:~$}*])/[\w./-]+", " ".join(commands)):
            found = "/".join(path.split("/")[: depth + 1])
            is_near = get_close_matches(found, [shared], 1, 0.8) if shared else []
            if is_near and not found.startswith(shared) and found not in seen:
                seen.add(found)
                yield Finding(key, f"{found} is not the shared storage", f"write {shared}")


def _storage(launcher: Launcher) -> Iterator[Finding]:
    shared = launcher.section("metadata").get("shared_storage")
    mounts = re.compile(r"\b(?:mount|mountpoint|findmnt)\b.*" + re.escape(str(shared or "")))
    options = map(str, launcher.section("docker").get("run_options") or [])
    if any(shared and str(shared) in option for option in options):
        return
    for role, commands in launcher.setup_commands().items():
        if not any(mounts.search(command) for command in commands):
            yield Finding(
                f"initialization_commands ({role})",
                f"nothing mounts the shared storage {shared or ''}".rstrip(),
                "mount one path on every machine: workers read inputs and write results there",
            )
    if not shared:
        yield Finding(
            "metadata.shared_storage", "not given", "name the path that every machine mounts"
        )


def _key(launcher: Launcher) -> Iterator[Finding]:
    auth = launcher.section("auth")
    if not auth.get("ssh_user"):
        yield Finding("auth.ssh_user", "missing", "name the user that Ray logs in as")
    if launcher.provider == "local" and not auth.get("ssh_private_key"):
        yield Finding(
            "auth.ssh_private_key",
            "missing: the head gets no key, so it cannot start the workers",
            "name the private key that all machines accept",
        )


def check_token_file(launcher: Launcher) -> Iterator[Finding]:
    """Yields what is wrong with the token that this machine would hand out."""
    for remote, local in launcher.section("file_mounts").items():
        if str(remote).endswith(_TOKEN):
            yield from _private(f"file_mounts.{remote}", str(local), _MAKE_TOKEN)


def _local_files(launcher: Launcher) -> Iterator[Finding]:
    """Files of this machine that `ray up` reads."""
    key = launcher.section("auth").get("ssh_private_key")
    if key and "auth.ssh_private_key" not in launcher.examples():
        yield from _private("auth.ssh_private_key", str(key), "ssh-keygen -t ed25519")
    for remote, local in launcher.section("file_mounts").items():
        file = resolve_path(str(local), launcher.path.absolute().parent)
        if not str(remote).endswith(_TOKEN) and _mode(file) is None:
            yield Finding(
                f"file_mounts.{remote}",
                f"there is no {local} beside {launcher.path.name}",
                "correct the path; `ray up` is run in the launcher file's folder",
            )


def _private(where: str, path: str, make: str) -> Iterator[Finding]:
    mode = _mode(resolve_path(path, Path.cwd()))
    if mode is None or not stat.S_ISREG(mode):
        yield Finding(where, f"there is no {path} on this machine", f"make it: {make}")
    elif mode & 0o077:
        yield Finding(where, f"{path} is readable to others", f"run chmod 600 {path}")


def _mode(file: str) -> int | None:
    """Type and permissions of a file of this machine, None where it is not to be reached."""
    try:
        return Path(file).stat().st_mode
    except OSError:
        return None


def _short(command: str) -> str:
    return command if len(command) <= 60 else command[:57] + "..."


SAFETY_CHECKS = (
    _token,
    check_network,
    _joining,
    _environment,
    _shells,
    _storage,
    _paths,
    _key,
    _local_files,
)
