"""What a launcher file opens to the network: listening addresses, security groups, containers.

Ray listens on ports of its choice as well as on its known ones, and whoever reaches one of them may
be able to run code. So the internet may reach no port at all but that of SSH.
"""

import ipaddress
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.launcher.file import Finding, Launcher, flag, whole

_TUNNEL = "reach it through `ray dashboard`, an SSH tunnel"
_SSH = 22
_LAST_PORT = 65535
_WITH_PORTS = ("-1", "tcp", "udp", "6", "17")  # -1: all protocols
# More addresses than any hospital, firm or provider has to itself: a /8 of IPv4, a /20 of IPv6.
_MOST = {4: 2**24, 6: 2**108}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_network(launcher: Launcher) -> Iterator[Finding]:
    """Yields what others than the cluster could reach."""
    for key, command in launcher.start_commands().items():
        host = flag(command, "dashboard-host")
        if host is not None and not _is_loopback(host):
            origin = "" if key in launcher.given else " (Ray's default where the key is left out)"
            yield Finding(
                key,
                f"the dashboard and the Jobs API listen on {host}{origin}, open to the network",
                f"write --dashboard-host=127.0.0.1 and {_TUNNEL}",
            )
    group = launcher.section("provider").get("security_group")
    given = group.get("IpPermissions") if isinstance(group, dict) else None
    yield from _check_rules(given if isinstance(given, list) else [])
    options = launcher.section("docker").get("run_options")
    for option in _published(list(map(str, options if isinstance(options, list) else []))):
        yield Finding("docker.run_options", f"{option} opens a port", f"remove it, and {_TUNNEL}")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class _Rule:
    """Ports that some networks may reach."""

    first: int
    last: int
    networks: tuple[Network, ...]


def _check_rules(rules: list[Any]) -> Iterator[Finding]:
    """Yields the ports of a security group that the internet can reach, by all rules together."""
    where = "provider.security_group"
    read = []
    for rule in rules:
        if not isinstance(rule, dict) or str(rule.get("IpProtocol")).lower() not in _WITH_PORTS:
            continue
        networks: list[Network] = []
        for text in _ranges(rule):
            try:
                networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                yield Finding(where, f"{text!r} is not a network", "write it like 10.1.0.0/16")
        is_all = str(rule["IpProtocol"]) == "-1"
        first = 0 if is_all else whole(rule.get("FromPort"), 0)
        last = _LAST_PORT if is_all else whole(rule.get("ToPort"), _LAST_PORT)
        # Any of them means all ports to EC2.
        read.append(_Rule(max(first, 0), last if last >= 0 else _LAST_PORT, tuple(networks)))
    for first, last, shown in _open_ports(read):
        ports = f"port {first} is" if first == last else f"ports {first} to {last} are"
        yield Finding(where, f"{ports} open to {shown}", f"remove the rule and {_TUNNEL}")


def _ranges(rule: dict[str, Any]) -> Iterator[str]:
    for key, name in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
        ranges = rule.get(key)
        for found in ranges if isinstance(ranges, list) else []:
            if isinstance(found, dict) and found.get(name) is not None:
                yield str(found[name])


def _open_ports(rules: list[_Rule]) -> list[tuple[int, int, str]]:
    """Returns the ranges of ports that are open to the internet, and to which networks."""
    edges = {edge for rule in rules for edge in (rule.first, rule.last + 1)}
    found: list[tuple[int, int, str]] = []
    for first, after in pairwise(sorted(edges | {_SSH, _SSH + 1})):
        reached = [n for rule in rules if rule.first <= first <= rule.last for n in rule.networks]
        shown = "" if first == _SSH else _wide(reached)
        if not shown:
            continue
        if found and (found[-1][1], found[-1][2]) == (first - 1, shown):
            first = found.pop()[0]
        found.append((first, after - 1, shown))
    return found


def _wide(networks: list[Network]) -> str:
    """Returns networks that together are more than anybody's own, as text; empty for others."""
    wide: list[Network] = []
    for version, most in _MOST.items():
        public = [n for n in networks if n.version == version and not n.is_private]
        merged = list(ipaddress.collapse_addresses(public))  # type: ignore[type-var]
        if sum(network.num_addresses for network in merged) >= most:
            wide += merged
    return ", ".join(map(str, wide[:3])) + (", ..." if len(wide) > 3 else "")


def _published(options: list[str]) -> Iterator[str]:
    """Yields the options of `docker run` that hand a port to the machine's own network."""
    text = " ".join(options)
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        words = text.split()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        found = re.fullmatch(r"(?:-p|--publish=)(.+)", word)
        if word in ("-p", "--publish"):
            word, value = f"{word} {following}", following
        elif found is not None:
            value = found[1]
        elif re.match(r"(-P|--publish-all)\b", word):
            value = ""
        else:
            continue
        # [HOST:][PORT:]PORT; an IPv6 host stands in brackets.
        host = re.match(r"(\[.*\]|[^:]*):[0-9-]*:", value)
        if host is None or not _is_loopback(host[1]):
            yield word
