"""Whether every node of a cluster can do this program's work: the same code, the same storage.

Asked when a command joins a cluster, and of every worker that starts on a node that came later: a
node with another version gives other numbers without a word, and one that does not see the run's
folder writes its results where nobody finds them.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError

# Packages whose version shows in the results.
_PACKAGES = ("numpy", "pyarrow", "pillow", "pydicom", "openvino", "keras", "tensorflow")
_ANSWER_S = 300.0  # a node's first process of ours loads its packages, perhaps from a slow disk


@dataclass(frozen=True)
class _Answer:
    """What a node has.

    Args:
        code: what it would run: hash by module, version by package.
        lacking: those of the paths asked for that it does not see, or cannot write.
    """

    code: dict[str, str]
    lacking: list[str]


def check_nodes(reads: Sequence[Path], writes: Sequence[Path]) -> None:
    """Asks every live node for its code and for what it sees of the shared storage.

    Args:
        reads: files and folders that workers read; those that this process does not see are left
            for later steps to report.
        writes: folders that workers write to, present already.

    Raises:
        ClusterError: a node differs, sees another storage or does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(_look)
    read = [str(path.absolute()) for path in reads if path.exists()]
    with _markers(writes) as markers:
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked[task.options(scheduling_strategy=there).remote(read, markers)] = node
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
        if silent:
            raise ClusterError(
                f"{_name(asked[silent[0]])} did not answer for {_ANSWER_S:g} s; end Ray there or "
                "fix it, then run the same command again"
            )
        own = code_versions()
        for reference, node in asked.items():
            _compare(_name(node), _answer(reference, _name(node)), own)


def check_code(node: str, theirs: dict[str, str], own: dict[str, str]) -> None:
    """Raises ClusterError where a node's `code_versions` are not those of this program."""
    # A part that one side lacks is no proof of another version: nothing there uses it.
    differing = [part for part in own if theirs.get(part, own[part]) != own[part]]
    if differing:
        shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        raise ClusterError(
            f"{node} has another version of this program ({shown}); set up the same locked "
            "environment on every node, as `ray up cluster.yaml` does"
        )


def _compare(node: str, answer: _Answer | None, own: dict[str, str]) -> None:
    """Raises ClusterError where a node's answer is not as it should be."""
    if answer is None:  # it has left the cluster
        return
    check_code(node, answer.code, own)
    if answer.lacking:
        raise ClusterError(
            f"{node} does not see {answer.lacking[0]}, or may not write there; mount the same "
            "storage on every node, at the same path and for the same user"
        )


def _answer(reference: Any, node: str) -> _Answer | None:
    import ray

    try:
        found: _Answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise ClusterError(
            f"{node} cannot load this program ({type(error.cause).__name__}); set up the same "
            "locked environment on every node, as `ray up cluster.yaml` does"
        ) from error
    except ray.exceptions.RayError:
        return None
    return found


def _name(node: dict[str, Any]) -> str:
    return f"the node {node['NodeManagerAddress']}"


def _look(reads: list[str], markers: list[str]) -> _Answer:
    """Runs on a node: says what it has."""
    unseen = [path for path in reads if not os.access(path, os.R_OK)]
    for marker in map(Path, markers):
        if not (marker.exists() and os.access(marker.parent, os.W_OK)):
            unseen.append(str(marker.parent))
    return _Answer(code_versions(), unseen)


@functools.cache
def code_versions() -> dict[str, str]:
    """Returns the hash of every module of this package, and versions of what results depend on."""
    package = Path(__file__).parent.parent
    parts = {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(package.rglob("*.py"))
    }
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts[name] = importlib.metadata.version(name)
    return parts


@contextlib.contextmanager
def _markers(folders: Sequence[Path]) -> Iterator[list[str]]:
    """Yields a new file in each folder. New, since network file systems remember old answers."""
    markers = [f.absolute() / f".tmp-{secrets.token_hex(4)}-shared" for f in folders]
    try:
        for marker in markers:
            marker.touch()
        yield [str(marker) for marker in markers]
    except OSError as error:
        raise ClusterError(
            f"cannot write in {error.filename}: {error.strerror}; choose another output folder"
        ) from error
    finally:
        for marker in markers:
            with contextlib.suppress(OSError):
                marker.unlink(missing_ok=True)
