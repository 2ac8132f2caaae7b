"""Reads YAML that people write: job files and Ray cluster launcher files.

One loader for all of them: PyYAML's safe one within limits, so that no file, however odd or
hostile, takes more than seconds or raises anything but `SpecError` with the line. What it returns
could as well be JSON: a date is text, every key is text and stands once, every number is finite.
"""

import math
import os
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.parser import ParserError
from yaml.reader import ReaderError
from yaml.scanner import ScannerError

from orchestrator.errors import SpecError

_MAX_BYTES = 2**20  # of a file, and of its values in memory if every alias were a copy
_VALUE_BYTES = 50  # of a value beside its text, about
_MAX_DEPTH = 50  # of nested values; PyYAML recurses
_MAX_NUMBER = 100  # characters; Python refuses to print an integer of more than 4300 digits

_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_TEXT_TAGS = (_TAG + "str", _TAG + "value")  # the second is a plain `=`
_MERGE_TAG = _TAG + "merge"


def load_yaml(path: Path, expected: str) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping.

    Args:
        path: the file; at most 1 MiB of UTF-8.
        expected: what such a file holds, for messages.

    Returns:
        Its content: mappings with text keys, lists, text, finite numbers, booleans and None.

    Raises:
        SpecError: not readable, not plain YAML, too large or too deep, a key that stands twice.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(
            f"cannot read {path}: {error.strerror}; name an existing YAML file"
        ) from error
    if len(content) > _MAX_BYTES:
        raise SpecError(f"{path} is larger than {_MAX_BYTES} bytes; expected {expected}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path} is not UTF-8 text at line {line}; save it as UTF-8") from error
    return parse_yaml(text, str(path), expected)


def parse_yaml(text: str, source: str, expected: str) -> dict[str, Any]:
    """Returns the content of YAML text, as `load_yaml` does.

    Args:
        text: the YAML.
        source: where it was read, for messages.
        expected: what it should hold, for messages.

    Raises:
        SpecError: as `load_yaml` does.
    """
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        except (ValueError, OverflowError) as error:  # PyYAML's scanner, of "\UFFFFFFFF" for one
            problem = "an escape or a version is out of range"
            raise ScannerError(None, None, problem, loader.get_mark()) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character {chr(error.character)!r} is not allowed in YAML"
        raise SpecError(f"{source}, line {line}: {problem}; remove it") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        if isinstance(error, ScannerError | ParserError):
            problem = f"not valid YAML: {problem}"
        raise SpecError(f"{source}, line {line}: {_shorten(problem, 300)}") from error
    if value is None:
        raise SpecError(f"{source} is empty; expected {expected}")
    if not isinstance(value, dict):
        raise SpecError(f"{source} holds a {type(value).__name__}; expected {expected}")
    return value


def _refuse_tag(_: yaml.SafeLoader, node: yaml.Node) -> Any:
    problem = f"the tag {_quote(node.tag)} is not taken; write plain values"
    raise ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    """The safe loader within the limits of this module."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (declared by PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **{_TAG + kind: yaml.SafeLoader.yaml_constructors[_TAG + kind] for kind in _KINDS},
        _TAG + "value": yaml.SafeLoader.yaml_constructors[_TAG + "str"],
        None: _refuse_tag,
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._size = 0  # bytes of all that was composed so far
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the next node; keeps count of the depth and of what aliases amount to."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._size
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            problem = f"values nested more than {_MAX_DEPTH} deep"
            raise ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not is_alias:
            is_scalar = isinstance(node, yaml.ScalarNode)
            self._size += _VALUE_BYTES + (len(node.value) if is_scalar else 0)
            self._sizes[node] = self._size - before
        elif node in self._sizes:
            self._size += self._sizes[node]
        else:
            raise ComposerError(None, None, "the alias stands inside the value it refers to", mark)
        if self._size > _MAX_BYTES:
            problem = f"more than {_MAX_BYTES} bytes of values, counting each alias as a copy"
            raise ComposerError(None, None, problem, mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Returns the next mapping; its keys are text and differ."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            mark = key.start_mark
            if not isinstance(key, yaml.ScalarNode):
                problem = "a list or a mapping stands as a key; write text"
                raise ComposerError(None, None, problem, mark)
            if key.tag not in (*_TEXT_TAGS, _MERGE_TAG):
                problem = f"the key {_quote(key.value)} is not text; put it in quotes"
                raise ComposerError(None, None, problem, mark)
            if key.value in seen:
                problem = f"the key {_quote(key.value)} stands twice; keep one"
                raise ComposerError(None, None, problem, mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns the value of a node; a scalar must be of the type that its tag says."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        value = None
        is_text = node.tag in _TEXT_TAGS
        is_valid = is_text or len(node.value) <= _MAX_NUMBER
        if is_valid:
            try:
                value = super().construct_object(node, deep)
                if is_text:
                    os.fsencode(value)  # no half of a surrogate pair, which nothing can store
                is_valid = "\0" not in value if is_text else math.isfinite(value or 0)
            except (ValueError, LookupError):  # such as `!!int x`, `!!bool x`
                is_valid = False
        if not is_valid:
            kind = "text" if is_text else f"a value of type {node.tag.removeprefix(_TAG)}"
            problem = f"{_quote(node.value)} cannot be used as {kind}"
            raise ConstructorError(None, None, problem, node.start_mark)
        return value


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _quote(text: str) -> str:
    return repr(_shorten(text, 60))
