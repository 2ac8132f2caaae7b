import os
from pathlib import Path

import pytest

from orchestrator.config.workers import count_cpus


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups, on a machine of 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return tmp_path / "cgroup"


def count(cgroups: Path, own: str, quotas: dict[str, str]) -> int:
    """Counts the CPUs of a process in the group `own`, where groups have such quotas."""
    for name, quota in quotas.items():
        file = cgroups / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(quota + "\n")
    (cgroups.parent / "self").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    return count_cpus(cgroups, cgroups.parent / "self")


@pytest.mark.parametrize(
    ("own", "quotas", "expected"),
    [
        ("/", {}, 16),
        ("/", {"cpu.max": "max 100000"}, 16),
        ("/", {"cpu.max": "400000 100000"}, 4),
        ("/", {"cpu.max": "250000 100000"}, 2),
        ("/", {"cpu.max": "50000 100000"}, 1),
        ("/", {"cpu.max": "6400000 100000"}, 16),
        ("/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("/a/b", {"c/cpu.max": "200000 100000"}, 16),
        ("/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("/", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
    ],
)
def test_a_quota_of_the_control_groups_counts(
    cgroups: Path, own: str, quotas: dict[str, str], expected: int
) -> None:
    assert count(cgroups, own, quotas) == expected


def test_the_affinity_counts(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert count(cgroups, "/", {"cpu.max": "800000 100000"}) == 1


def test_a_machine_without_control_groups_has_its_affinity(cgroups: Path) -> None:
    assert count_cpus(cgroups, cgroups / "none") == 16
