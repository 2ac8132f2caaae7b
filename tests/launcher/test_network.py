from pathlib import Path
from typing import Any

import pytest

from orchestrator.launcher.file import Launcher
from orchestrator.launcher.network import check_network


def problems(**given: Any) -> list[str]:
    """What is found in a launcher file with safe start commands and some other keys."""
    commands = ["ray start --dashboard-host=127.0.0.1"]
    safe = {"head_start_ray_commands": commands, "worker_start_ray_commands": commands}
    return [f.problem for f in check_network(Launcher(Path("c.yaml"), {**safe, **given}))]


def grouped(*rules: dict[str, Any]) -> list[str]:
    return problems(provider={"type": "aws", "security_group": {"IpPermissions": list(rules)}})


def rule(
    first: int, last: int, *networks: str, protocol: str = "tcp", **more: Any
) -> dict[str, Any]:
    v4 = [{"CidrIp": network} for network in networks if ":" not in network]
    v6 = [{"CidrIpv6": network} for network in networks if ":" in network]
    ports = {"IpProtocol": protocol, "FromPort": first, "ToPort": last}
    return {**ports, "IpRanges": v4, "Ipv6Ranges": v6, **more}


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([rule(8265, 8265, "0.0.0.0/0")], "port 8265 is open to 0.0.0.0/0"),
        ([rule(8265, 8265, "::/0")], "port 8265 is open to ::/0"),
        ([rule(8265, 8265, "2000::/3")], "port 8265 is open to 2000::/3"),
        ([rule(6379, 6379, "0.0.0.0/1", "128.0.0.0/1")], "port 6379 is open to 0.0.0.0/0"),
        (
            [rule(1, 6379, "0.0.0.0/1"), rule(6379, 9000, "128.0.0.0/1")],
            "ports 1 to 21 are open to 0.0.0.0/1",
        ),
        ([rule(6379, 6379, "8.0.0.0/7", "64.0.0.0/2")], "open to 8.0.0.0/7, 64.0.0.0/2"),
        # Ports that Ray takes of its own: its workers', its agents', any above 1024.
        ([rule(10002, 19999, "0.0.0.0/0")], "ports 10002 to 19999 are open"),
        ([rule(52365, 52365, "0.0.0.0/0")], "port 52365 is open"),
        ([rule(40000, 40000, "0.0.0.0/0", protocol="udp")], "port 40000 is open"),
        ([rule(0, 0, "0.0.0.0/0", protocol="-1")], "ports 23 to 65535 are open"),
        ([rule(-1, -1, "0.0.0.0/0")], "ports 0 to 21 are open"),
        ([rule(0, 65535, "0.0.0.0/0", protocol="6")], "ports 23 to 65535 are open"),
        ([{"IpProtocol": -1, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}], "ports 23 to 65535 are open"),
        ([rule(8265, 8265, "10.0.0/8")], "'10.0.0/8' is not a network"),
    ],
)
def test_what_the_internet_can_reach_is_named(rules: list[dict[str, Any]], problem: str) -> None:
    assert any(problem in found for found in grouped(*rules)), grouped(*rules)


def test_two_rules_open_together_what_neither_does_alone() -> None:
    halves = [rule(8265, 8265, "0.0.0.0/1"), rule(8000, 9000, "128.0.0.0/1")]
    found = grouped(*halves)
    assert "port 8265 is open to 0.0.0.0/0" in found
    # A half of the internet is not nobody.
    assert "ports 8000 to 8264 are open to 128.0.0.0/1" in found
    assert "ports 8266 to 9000 are open to 128.0.0.0/1" in found


@pytest.mark.parametrize(
    "safe",
    [
        rule(22, 22, "0.0.0.0/0", "::/0"),
        rule(8265, 8265, "10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12", "fc00::/7"),
        rule(0, 65535, "198.18.7.0/24", "2001:db8:7::/48"),
        rule(0, 65535, "141.80.0.0/16"),  # a university's own
        rule(8, -1, "0.0.0.0/0", protocol="icmp"),
        rule(0, 65535, UserIdGroupPairs=[{"GroupId": "sg-1"}]),
        {"IpProtocol": "tcp", "IpRanges": None, "Ipv6Ranges": "x"},
    ],
)
def test_what_is_the_teams_own_is_no_fault(safe: dict[str, Any]) -> None:
    assert grouped(safe) == []


@pytest.mark.parametrize(
    ("options", "opens"),
    [
        (["-p 8265:8265"], ["-p 8265:8265"]),
        (["-p", "6379:6379"], ["-p 6379:6379"]),
        (["--publish=0.0.0.0:10001:10001"], ["--publish=0.0.0.0:10001:10001"]),
        (["--publish [::]:8265:8265"], ["--publish [::]:8265:8265"]),
        (["-p8000-9000:8000-9000"], ["-p8000-9000:8000-9000"]),
        (["-P"], ["-P"]),
        (["--publish-all"], ["--publish-all"]),
        (["-p 127.0.0.1:8265:8265", "-p '[::1]:8265:8265'", "-p 127.0.0.1::8265"], []),
        (["--shm-size=8g", "--net=host", "--privileged", "-v /a:/b"], []),
    ],
)
def test_a_container_opens_no_port(options: list[str], opens: list[str]) -> None:
    found = problems(docker={"run_options": options})
    assert found == [f"{option} opens a port" for option in opens]


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("127.0.0.1", False), ("127.0.0.2", False), ("localhost", False), ("::1", False),
     ("0.0.0.0", True), ("::", True), ("10.1.2.3", True), ("head", True)],
)  # fmt: skip
def test_the_dashboard_listens_on_this_machine_alone(host: str, is_open: bool) -> None:
    commands = [f"ray start --dashboard-host={host}"]
    assert bool(problems(head_start_ray_commands=commands)) == is_open
