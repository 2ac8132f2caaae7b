"""How many workers of which size a request gets on the nodes there are."""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.specs import Resources
from orchestrator.config.worker_counts import MAX_WORKERS, WorkerRange
from orchestrator.errors import SpecError, counted

# A worker takes at most this many cores of a node unless told otherwise: one model instance
# stops gaining from more threads at about this number.
_CPUS_PER_WORKER = 8
_LEAST = 0.0001  # of a CPU or GPU that Ray counts


@dataclass(frozen=True)
class Session:
    """What a command may use of the cluster.

    Args:
        num_workers: worker processes of a stage, at its start.
        cpus_per_worker: CPUs of each, as Ray counts them.
        gpus_per_worker: GPUs of each; 0 runs on the CPU.
        max_wait_s: longest wait for room for them.
        shard_timeout_s: time limit of one shard; None for one by its images.
        min_workers: training goes on with so few; 0: with `num_workers` alone.
        max_workers: a stage, and such a training, grows to so many; 0: it does not grow.
    """

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    max_wait_s: float = 7200.0
    shard_timeout_s: float | None = None
    min_workers: int = 0
    max_workers: int = 0

    @property
    def group(self) -> tuple[int, int]:
        """Fewest and most workers of a training."""
        fixed = self.num_workers, self.num_workers
        return (self.min_workers, self.max_workers) if self.min_workers else fixed

    @property
    def size(self) -> dict[str, float]:
        """Resources of a worker, by Ray's names."""
        size = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: count for name, count in size.items() if count}

    @property
    def threads_per_worker(self) -> int:
        """Compute threads a worker may use."""
        return max(1, int(self.cpus_per_worker))


def plan_workers(resources: Resources, nodes: list[dict[str, float]]) -> Session:
    """Returns how many workers of which size a request gets on these nodes.

    Args:
        resources: what the job asks for; what is not given is chosen.
        nodes: CPU and GPU counts of each live node.

    Raises:
        SpecError: no node can hold one worker, or not all workers fit at once.
    """
    gpus_each = resources.gpus_per_worker
    if gpus_each == "auto":
        gpus_each = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    for name, each in (("cpus", resources.cpus_per_worker), ("gpus", gpus_each)):
        if each is not None and 0 < each < _LEAST:
            raise SpecError(
                f"--{name}-per-worker {each:g} is less than {_LEAST:g}, the smallest share "
                "that Ray counts: give more"
            )
    hosts = [n for n in nodes if n.get("GPU", 0) >= gpus_each and n.get("CPU", 0) >= 1]
    if not hosts:
        raise SpecError(
            f"asked for {gpus_each:g} GPU per worker; the cluster's nodes have "
            f"{max((n.get('GPU', 0) for n in nodes), default=0):g}: lower --gpus-per-worker"
        )
    asked = resources.workers
    span = asked if isinstance(asked, WorkerRange) else None
    least = span.min if span else asked if isinstance(asked, int) else None
    cpus_each = resources.cpus_per_worker
    if cpus_each is None:
        cpus_each = _default_cpus(hosts, gpus_each, least)
    fitting = count_fitting(hosts, cpus_each, gpus_each)
    wanted = least or fitting
    if fitting < max(wanted, 1):
        shown = "; ".join(f"{n.get('CPU', 0):g} CPU {n.get('GPU', 0):g} GPU" for n in nodes)
        raise SpecError(
            f"asked for {counted(max(wanted, 1), 'worker')} of {cpus_each:g} CPU and "
            f"{gpus_each:g} GPU; the cluster's nodes ({shown}) hold {fitting}: lower --workers or "
            "--cpus-per-worker"
        )
    limit = resources.shard_timeout
    return Session(
        min(fitting, span.max) if span else wanted,
        cpus_each,
        gpus_each,
        resources.max_wait.total_seconds(),
        limit.total_seconds() if limit else None,
        span.min if span else 0,
        span.max if span else 0 if asked else MAX_WORKERS,
    )


def _default_cpus(hosts: list[dict[str, float]], gpus_each: float, workers: int | None) -> float:
    """CPUs of a worker where the user named none: an even share of the smallest host."""
    cpus = min(node.get("CPU", 0) for node in hosts)
    if gpus_each > 0:
        per_node = max(1, int(min(n.get("GPU", 0) for n in hosts) / gpus_each))
    elif workers:
        per_node = max(1, -(-workers // len(hosts)))
    else:
        per_node = -(-int(cpus) // _CPUS_PER_WORKER)
    return float(max(1, int(cpus) // per_node))


def count_fitting(nodes: list[dict[str, float]], cpus_each: float, gpus_each: float) -> int:
    """Returns how many workers of a size these nodes hold at once."""
    count = 0
    for node in nodes:
        by_cpu = int(node.get("CPU", 0) / cpus_each)
        count += min(by_cpu, int(node.get("GPU", 0) / gpus_each)) if gpus_each else by_cpu
    return count


def count_nodes(session: Session, nodes: list[dict[str, float]]) -> int:
    """Returns how many of these nodes the workers of a session take, the roomiest first."""
    each = session.cpus_per_worker, session.gpus_per_worker
    left, count = session.num_workers, 0
    for room in sorted((count_fitting([node], *each) for node in nodes), reverse=True):
        if left <= 0:
            break
        left, count = left - room, count + 1
    return count


def count_cpus(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Returns how many CPUs this process may use, at least 1.

    These are the CPUs of its affinity, or as many whole ones as the quota of its control groups
    gives it: that of a container or a systemd unit shows in neither affinity nor `os.cpu_count`.

    Args:
        cgroups: where control groups are mounted.
        own: the file that names those of this process.
    """
    return max(1, min(len(os.sched_getaffinity(0)), math.floor(_cpu_quota(cgroups, own))))


def _cpu_quota(cgroups: Path, own: Path) -> float:
    """CPUs that the control groups of this process leave it: all of the machine without a limit."""
    quotas = [float(os.cpu_count() or 1)]
    group = ""
    with contextlib.suppress(OSError):
        lines = own.read_text().splitlines()
        group = next((line[3:] for line in lines if line.startswith("0::")), "").strip("/")
    path = cgroups / group
    for folder in (path, *path.parents[: len(Path(group).parts)]):
        with contextlib.suppress(OSError, ValueError):  # no file, or the word `max`
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period))
    with contextlib.suppress(OSError, ValueError):  # control groups of version 1, in a container
        quota, period = (
            (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        if float(quota) > 0:
            quotas.append(float(quota) / float(period))
    return min(quotas)
