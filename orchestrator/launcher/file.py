"""Ray cluster launcher files: read, completed with Ray's defaults, and what they promise.

Reads YAML alone: nothing here starts or imports Ray. What can be wrong with such a file is in
`check.py`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.config.yaml_file import load_yaml, parse_yaml
from orchestrator.errors import SpecError

# What stands for "yours here": RFC 5737's addresses, the ids of Amazon's examples, example files.
_EXAMPLES = re.compile(
    r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+(?:/\d+)?|\b\w+-0123456789abcdef\w*"
    r"|(?<!\S)\S*\bexample\b\S*"
)
_SETUP_KEYS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
)
START_KEYS = ("head_start_ray_commands", "worker_start_ray_commands")
PROVIDERS = ("local", "aws", "gcp", "azure", "vsphere", "external")
_BRACKETS = re.compile(r"<[^<>]*>|\bTODO\b|\bCHANGE_?ME\b|\bYOUR_\w+", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        where: key of the file, or another file.
        problem: what was found.
        mend: what to do.
    """

    where: str
    problem: str
    mend: str

    def line(self) -> str:
        """Returns the finding as one line."""
        return f"{self.where}: {self.problem}; {self.mend}"


def unknown_keys(where: str, unknown: list[str], known: Iterable[str]) -> Finding:
    """Returns the finding of keys that are not known, with the ones that were likely meant."""
    names = list(known)
    near = [get_close_matches(name, names, 1, 0.6) for name in unknown]
    meant = ", ".join(match[0] for match in near if match)
    mend = f"write {meant}" if meant else f"known: {', '.join(names)}"
    return Finding(where, f"unknown key {', '.join(unknown)}", mend)


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind that a launcher file provides.

    Args:
        name: as in the file; `head` and `worker` for machines of one's own.
        resources: what one of them has, such as CPU and GPU; None where the file does not say.
        most: at most so many of them.
    """

    name: str
    resources: dict[str, float] | None
    most: int


@dataclass(frozen=True)
class Launcher:
    """A launcher file.

    Args:
        path: where it was read.
        given: as written.
    """

    path: Path
    given: dict[str, Any]

    @property
    def provider(self) -> str:
        """Kind of provider, such as local or aws; empty where the file names none."""
        provider = self.given.get("provider")
        return str(provider.get("type", "")) if isinstance(provider, dict) else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The file with the defaults that `ray up` would add."""
        name = f"{self.provider}/defaults.yaml"
        text = _autoscaler_file(name) if self.provider in PROVIDERS else None
        return {**(parse_yaml(text, name, "defaults") if text else {}), **self.given}

    def section(self, name: str) -> dict[str, Any]:
        """Returns a mapping of the file; empty where it is absent or no mapping."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    def words(self, name: str) -> list[str]:
        """Returns a list of text of the file, such as commands; empty where it is absent."""
        return _texts(self.config.get(name))

    def setup_commands(self) -> dict[str, list[str]]:
        """Returns all that is run before Ray is started, for the head and each kind of worker."""
        first = self.words("initialization_commands")
        both = first + self.words("setup_commands")
        commands = {"head": both + self.words("head_setup_commands")}
        workers = both + self.words("worker_setup_commands")
        types = {k: v for k, v in self.section("available_node_types").items() if k != self.head}
        for name, body in types.items() or [("worker", {})]:
            own = body.get("worker_setup_commands") if isinstance(body, dict) else None
            commands[str(name)] = workers if own is None else first + _texts(own)
        return commands

    def commands(self) -> dict[str, list[str]]:
        """Returns all commands of the file, by the key they stand under."""
        found = {key: self.words(key) for key in (*_SETUP_KEYS, *START_KEYS)}
        for name, body in self.section("available_node_types").items():
            own = body.get("worker_setup_commands") if isinstance(body, dict) else None
            found[f"available_node_types.{name}.worker_setup_commands"] = _texts(own)
        return found

    def start_commands(self) -> dict[str, str]:
        """Returns the command with `ray start` in it, by the key it stands under; empty if none."""
        return {
            key: next((c for c in self.words(key) if re.search(r"\bray start\b", c)), "")
            for key in START_KEYS
        }

    @property
    def head(self) -> str:
        """Name of the head's node type."""
        return str(self.config.get("head_node_type", "head"))

    @property
    def machines(self) -> list[str]:
        """Addresses of the workers that are machines of one's own; none for other providers."""
        found = self.section("provider").get("worker_ips")
        return _texts(found) if self.provider == "local" else []

    def node_types(self) -> list[NodeType]:
        """Returns what the file provides once all its machines are up."""
        commands = self.start_commands()
        if self.provider == "local":
            metadata = self.section("metadata")
            head = _counted(metadata.get("head"), commands["head_start_ray_commands"])
            worker = _counted(metadata.get("worker"), commands["worker_start_ray_commands"])
            most = len(self.machines)
            most = min(most, whole(self.config.get("max_workers"), most))
            return [NodeType("head", head, 1), NodeType("worker", worker, most)]
        found = []
        for name, body in self.section("available_node_types").items():
            body = body if isinstance(body, dict) else {}
            is_head = name == self.head
            key = "head_start_ray_commands" if is_head else "worker_start_ray_commands"
            limit = whole(self.config.get("max_workers"), 0)
            most = 1 if is_head else min(whole(body.get("max_workers"), limit), limit)
            found.append(NodeType(name, _counted(body.get("resources"), commands[key]), most))
        return found

    def nodes(self) -> list[dict[str, float]] | None:
        """Returns the resources of every machine, or None where the file leaves some open."""
        types = self.node_types()
        if any(kind.resources is None for kind in types if kind.most and kind.name != self.head):
            return None
        return [dict(kind.resources or {}) for kind in types for _ in range(kind.most)]

    def examples(self) -> dict[str, list[str]]:
        """Returns the addresses and ids that stand for the team's own, by where they stand."""
        return _found(self.given, _EXAMPLES)

    def blanks(self) -> dict[str, list[str]]:
        """Returns blanks such as <address>, by where they stand."""
        return _found(self.given, _BRACKETS)

    @property
    def is_template(self) -> bool:
        """Whether nothing has been filled in yet, so that it speaks of no machine in particular."""
        head = str(self.section("provider").get("head_ip", ""))
        return bool(self.examples()) and not (head and not _EXAMPLES.search(head))


def load_launcher(path: Path) -> Launcher:
    """Reads a launcher file.

    Raises:
        SpecError: as `load_yaml` does.
    """
    return Launcher(path, load_yaml(path, "a Ray cluster launcher file"))


def launcher_schema() -> dict[str, Any]:
    """Returns Ray's own JSON schema of launcher files."""
    text = _autoscaler_file("ray-schema.json")
    if text is None:
        raise SpecError("the installed Ray has no schema of launcher files; run `make setup`")
    schema: dict[str, Any] = json.loads(text)
    return schema


def flag(command: str, name: str) -> str | None:
    """Returns the value of `--name value` or `--name=value` in a shell command, None if absent."""
    found = re.search(rf"(?<!\S)--{re.escape(name)}(?:=|\s+)(\S+)", command)
    return found[1].strip("'\"") if found else None


def whole(value: Any, otherwise: int) -> int:
    """Returns a whole number of the file as it is, and `otherwise` for what is none."""
    return value if isinstance(value, int) else otherwise


def _autoscaler_file(name: str) -> str | None:
    """Text of a file of Ray's autoscaler, without importing Ray."""
    ray = find_spec("ray")
    if ray is None or ray.origin is None:
        raise SpecError("Ray is not installed; run `make setup`")
    path = Path(ray.origin).parent / "autoscaler" / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _counted(declared: Any, command: str) -> dict[str, float] | None:
    """Resources of a machine: declared, and on top of that the flags that Ray itself obeys."""
    counts = {"CPU": flag(command, "num-cpus"), "GPU": flag(command, "num-gpus")}
    obeyed = {name: float(text) for name, text in counts.items() if text and text.isdecimal()}
    if not isinstance(declared, dict) or not declared:
        return obeyed or None
    numbers = {str(k): float(v) for k, v in declared.items() if isinstance(v, int | float)}
    return {**numbers, **obeyed}


def _found(value: Any, pattern: re.Pattern[str], where: str = "") -> dict[str, list[str]]:
    """Matches of a pattern in all text of a nested value, by the place of the text."""
    if isinstance(value, dict):
        parts = [_found(v, pattern, f"{where}.{k}".lstrip(".")) for k, v in value.items()]
    elif isinstance(value, list):
        parts = [_found(item, pattern, where) for item in value]
    else:
        hits = pattern.findall(value) if isinstance(value, str) else []
        return {where: hits} if hits else {}
    merged: dict[str, list[str]] = {}
    for part in parts:
        for place, hits in part.items():
            merged[place] = [*merged.get(place, []), *hits]
    return merged
