"""What is wrong with a launcher file of machines of one's own, Ray's provider `local`.

Ray takes such a file, and the cluster comes up with a machine too few or loses one for good.
"""

import ipaddress
import re
from collections.abc import Iterator

from orchestrator.launcher.file import Finding, Launcher, flag

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_LIKE_NUMBERS = re.compile(r"\d+\.\d+\..*|[\d.]+|.*:.*")  # meant to be an address, not a name
_HEAD, _WORKER = "head_start_ray_commands", "worker_start_ray_commands"


def _addresses(launcher: Launcher) -> Iterator[Finding]:
    """Addresses that are none: a letter in them, a number too large, two of them in one."""
    provider = launcher.section("provider")
    workers = provider.get("worker_ips")
    for key, values in (
        ("head_ip", [provider.get("head_ip")]),
        ("worker_ips", workers if isinstance(workers, list) else []),
    ):
        for text in (str(value) for value in values if value is not None):
            if _as_address(text) is None and not _is_name(text) and "<" not in text:
                is_merged = re.search(r"[\s,;]", text) or text.count(".") > 3
                mend = "separate addresses by commas" if is_merged else "write it like 10.1.2.3"
                yield Finding(f"provider.{key}", f"{text!r} is not an address", mend)
            elif (address := _as_address(text)) and (address.is_loopback or address.is_unspecified):
                yield Finding(
                    f"provider.{key}",
                    f"{text} is to each machine that machine itself",
                    "write its address in the network",
                )


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_name(text: str) -> bool:
    return bool(_HOST.fullmatch(text)) and not _LIKE_NUMBERS.fullmatch(text)


def _head(launcher: Launcher) -> Iterator[Finding]:
    """Settings without which Ray's head starts too few workers, or cannot be reached by them."""
    command = launcher.start_commands()[_HEAD]
    if not command:
        return
    if not re.search(r"\bRAY_enable_autoscaler_v2=[\"']?0\b", command):
        yield Finding(
            _HEAD,
            "Ray's autoscaler v2 counts the head among the workers: one of them is never started, "
            "and a lost one does not come back",
            "write RAY_enable_autoscaler_v2=0 before `ray start`",
        )
    given = re.search(r"\bAUTOSCALER_NODE_START_WAIT_S=[\"']?(\d+)", command)
    wait_s = int(given[1]) if given else 900
    if wait_s < 86400:
        yield Finding(
            _HEAD,
            f"a machine that is off for {wait_s} s is left out until the next `ray up`",
            "write AUTOSCALER_NODE_START_WAIT_S=31536000, a year, before `ray start`",
        )
    head, named = launcher.section("provider").get("head_ip"), flag(command, "node-ip-address")
    if head and named is None:
        yield Finding(
            _HEAD,
            "the head's address is left to Ray, which may take 127.0.1.1 of /etc/hosts",
            f"add --node-ip-address={head}" + ("" if _as_address(str(head)) else ", as a number"),
        )
    elif head and _as_address(str(head)) and named != str(head):
        yield Finding(
            _HEAD,
            f"--node-ip-address={named} is not the head_ip {head}, to which workers go",
            "write one address in both places",
        )


def _returning(launcher: Launcher) -> Iterator[Finding]:
    """Start commands after which a machine that was rebooted does not come back."""
    shared = str(launcher.section("metadata").get("shared_storage") or "").rstrip("/")
    options = " ".join(map(str, launcher.section("docker").get("run_options") or []))
    mounts = re.compile(r"\b(?:mount|until)\b.*" + re.escape(shared), re.DOTALL)
    for key, command in launcher.start_commands().items():
        is_mounted = shared in options or any(map(mounts.search, launcher.words(key)))
        if command and shared and not is_mounted:
            yield Finding(
                key,
                f"after a reboot nothing mounts {shared}: these commands alone are run then",
                "mount it before `ray start`, or wait for it, as the shipped cluster.yaml does",
            )
    worker = launcher.start_commands()[_WORKER]
    if worker and not re.search(r"\buntil\b.*\bray start\b.*\bdone\b", worker, re.DOTALL):
        yield Finding(
            _WORKER,
            "a worker whose start fails once is left out until the next `ray up`",
            "write `until ray start ...; do sleep 10; done`",
        )


def check_own_machines(launcher: Launcher) -> Iterator[Finding]:
    """Yields what is wrong with a file of machines of one's own; nothing for other providers."""
    if launcher.provider == "local":
        for check in (_addresses, _head, _returning):
            yield from check(launcher)
