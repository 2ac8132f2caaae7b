"""A Ray cluster of several nodes on one machine, in a process of its own, told what to do by lines.

Started as `python -m tests.cluster.nodes HEAD_CPUS OTHERS`; prints the cluster's address, then
obeys: `kill` (the newest node dies without a word), `kill first` (the oldest), `drain` (the newest
is announced to be taken away in a minute), `add` or `add KEY=VALUE` (a node joins, its processes
with that variable); answers each with a line and ends with its input.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Nodes:
    """A running cluster.

    Args:
        address: what `RAY_ADDRESS` is to be.
        process: obeys lines on its input.
    """

    address: str
    process: "subprocess.Popen[str]"

    def tell(self, order: str) -> str:
        """Sends an order; returns the answer once it is carried out."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def open_nodes(env: dict[str, str], *, head_cpus: int = 1, others: int = 2) -> Iterator[Nodes]:
    """Starts a cluster of a head and other nodes with one CPU each, and ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.nodes", str(head_cpus), str(others)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert process.stdin and process.stdout
    try:
        yield Nodes(process.stdout.readline().strip(), process)
    finally:
        process.stdin.close()
        process.wait(120)


def main() -> None:
    # isort: off
    import orchestrator.cluster  # noqa: F401 - sets Ray's environment before ray is imported
    from ray.cluster_utils import Cluster

    # isort: on
    answers = sys.stdout
    sys.stdout = sys.stderr  # Ray prints
    head = {"num_cpus": int(sys.argv[1]), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    added: list[Any] = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[2]))]
    print(cluster.address, file=answers, flush=True)
    for line in sys.stdin:
        order, _, variable = line.strip().partition(" ")
        if order == "kill":
            cluster.remove_node(added.pop(0 if variable else -1), allow_graceful=False)
        elif order == "drain":
            drain(cluster.address, added[-1].node_id)
        elif order == "add":
            key, _, value = variable.partition("=")
            added.append(cluster.add_node(num_cpus=1, env_vars={key: value} if key else None))
        print("done", file=answers, flush=True)
    cluster.shutdown()


def drain(address: str, node: str) -> None:
    """What a cloud's notice is made to call."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
