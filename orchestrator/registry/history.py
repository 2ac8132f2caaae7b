"""A registry is a folder: versions that never change, and one history of what was done with them.

    registry/versions/SHA256/       a bundle, under the hash of its content
    registry/history/000001.json    a row: a version was added, or an alias moved; never changed

What an alias names is what its last row says, so that the alias and its history cannot disagree. A
row is one file that appears whole under the next number, while the registry is held: several who
change it at once take turns.

Over 300 lines, since all that is written to a registry is written here.
"""

import getpass
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.config.addresses import is_address
from orchestrator.data.limits import Limits
from orchestrator.data.listing.addresses import open_folder
from orchestrator.errors import BundleError, DataError, ImageError, SpecError, describe_newer
from orchestrator.model.bundle import Sha256, load_info
from orchestrator.model.bundle_folder import INFO_FILE
from orchestrator.registry.proof import Proof, check_proof, keep_proof
from orchestrator.runs.atomic import atomic_folder, write_text
from orchestrator.runs.identity import NOTHING
from orchestrator.runs.lock import hold
from orchestrator.runs.machine import this_machine
from orchestrator.runs.wait import Wait

SCHEMA_VERSION = 1
ALIASES = ("production", "staging", "shadow")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}"
VERSIONS, _HISTORY = "registry/versions", "registry/history"
_ROW = re.compile(r"\d{6,}\.json")
_WAIT_S = 600.0  # for another process that changes the registry: it may be copying a bundle
_ROW_LIMITS = Limits(max_bytes=1 << 20)


class HistoryRow(BaseModel):
    """One row of the history, a JSON file."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: int = SCHEMA_VERSION
    action: Literal["add", "promote", "rollback"]
    when: str  # ISO 8601, UTC
    who: str  # user@host
    why: str
    alias: Annotated[str | None, Field(pattern=f"^({'|'.join(ALIASES)})$")] = None  # None: add
    before: Annotated[str | None, Field(alias="from")] = None  # NAME@VERSION that the alias named
    version: Annotated[str, Field(alias="to", pattern=f"^{NAME}@[1-9][0-9]*$")]
    sha256: Sha256  # of `version`
    report: Proof | None = None  # the comparison by which it was promoted
    forced: bool = False  # promoted whatever a comparison says, or without one


@dataclass(frozen=True)
class Registry:
    """What a registry holds.

    Args:
        place: its folder, or its address.
        rows: the history, oldest first.
    """

    place: str
    rows: tuple[HistoryRow, ...]

    @property
    def versions(self) -> dict[str, HistoryRow]:
        """NAME@VERSION -> the row that added it, in the order of the history."""
        return {row.version: row for row in self.rows if row.action == "add"}

    @property
    def aliases(self) -> dict[str, str]:
        """Alias -> the version that it names."""
        return {row.alias: row.version for row in self.rows if row.alias is not None}

    def versions_before(self, alias: str) -> list[str]:
        """Returns the versions to which an alias can go back, the nearest one last."""
        stack: list[str] = []
        for row in self.rows:
            if row.alias == alias and row.action == "rollback":
                stack.pop()
            elif row.alias == alias:
                stack.append(row.version)
        return stack[:-1]

    def find(self, name: str) -> HistoryRow:
        """Returns the row that added the version of this name, or the one that an alias names.

        Raises:
            SpecError: there is none.
        """
        versions = self.versions
        row = versions.get(self.aliases.get(name, name))
        if row is None:
            names = {"aliases": sorted(self.aliases), "versions": list(versions)[-5:]}
            known = "; ".join(f"{what}: {', '.join(n) or 'none'}" for what, n in names.items())
            raise SpecError(
                f"the registry {self.place} has no {name}; {known}. `orchestrator models list` "
                "lists all; `models add` adds a version, `models promote` sets an alias"
            )
        return row


def version_folder(place: str, sha256: str) -> Path:
    """Returns the folder of a version in a registry that is a folder."""
    return Path(place, VERSIONS, sha256)


def load_registry(place: str) -> Registry:
    """Reads the history of a registry; one that was never written to is empty.

    Args:
        place: its folder, or its address.

    Raises:
        SpecError: an address that cannot be used.
        BundleError: a row is missing or damaged, or of a newer version.
        ClusterError: the store does not answer.
    """
    files = _read_remote(place) if is_address(place) else _read_folder(Path(place))
    for number, name in enumerate(sorted(files), 1):
        if name != _row_name(number):
            raise BundleError(
                f"the history of the registry {place} has {name} where {_row_name(number)} is "
                "expected; restore the folder from a backup"
            )
    return Registry(place, tuple(_parse(place, name, files[name]) for name in sorted(files)))


def add_version(
    place: Path, bundle: Path, name: str, why: str, say: Callable[[str], None]
) -> HistoryRow:
    """Copies a bundle into a registry as the next version of a name.

    Args:
        place: folder of the registry.
        bundle: the bundle, verified here.
        name: of the model; a content that has it already stays the version that it is.
        why: for the history.
        say: told of a wait for another process.

    Returns:
        The row that added the version.

    Raises:
        SpecError: a name that cannot be used.
        BundleError: the bundle cannot be used.
        ClusterError: the file system refused a write, or the wait was too long.
    """
    if not re.fullmatch(NAME, name):
        raise SpecError(
            f"{name!r} cannot be the name of a model; give --name with letters, digits and ._-, "
            "60 at most"
        )
    info = load_info(bundle)
    with _changing(place, say) as registry:
        numbers = [0]
        for version, row in registry.versions.items():
            stem, _, number = version.rpartition("@")
            if stem == name and row.sha256 == info.sha256:
                return row
            numbers += [int(number)] if stem == name else []
        stored = version_folder(str(place), info.sha256)
        if not stored.exists():
            with atomic_folder(stored) as draft:
                for file in (*info.files, INFO_FILE):
                    temporary = draft / file
                    shutil.copyfile(bundle / file, temporary)
                    temporary.chmod(0o444)
        if load_info(stored).sha256 != info.sha256:
            raise BundleError(f"{stored} holds another bundle; restore it from a backup")
        row = _make_row("add", why, f"{name}@{max(numbers) + 1}", info.sha256)
        return _append(registry, row)


def promote(
    place: Path,
    name: str,
    alias: str,
    why: str,
    say: Callable[[str], None],
    *,
    report: Path | None = None,
    force: bool = False,
) -> HistoryRow:
    """Has an alias name a version.

    Where the alias names another content, a comparison of the two must say `promote`.

    Args:
        place: folder of the registry.
        name: a version, or another alias for the version that it names.
        alias: one of `ALIASES`.
        why: for the history.
        say: told of a wait for another process.
        report: run folder of the comparison.
        force: whatever a comparison says, or without one.

    Returns:
        The row, in the history.

    Raises:
        SpecError: no such version, the alias names it already, or the comparison does not do.
        BundleError: the version is damaged.
        ClusterError: the file system refused a write, or the wait was too long.
    """
    with _changing(place, say) as registry:
        found, live = registry.find(name), registry.aliases.get(alias)
        if live == found.version:
            raise SpecError(f"{alias} names {found.version} already; nothing was changed")
        content = registry.versions[live].sha256 if live else None
        proof = None
        if report is not None:
            proof = check_proof(report, content, found.sha256, force=force)
            keep_proof(registry.place, report, proof)
        elif content not in (None, found.sha256) and not force:
            raise SpecError(
                f"{alias} names {live}; compare {found.version} with it first: `orchestrator models"
                f" compare {place}:{live} {place}:{found.version} LABELLED`, and name that run by "
                "--report; or --force"
            )
        return _move(
            registry, "promote", alias, found.version, why, {"report": proof, "forced": force}
        )


def roll_back(place: Path, alias: str, why: str, say: Callable[[str], None]) -> HistoryRow:
    """Has an alias name the version before the one that was promoted last; as `promote` does.

    Raises:
        SpecError: there is no version before it.
    """
    with _changing(place, say) as registry:
        before = registry.versions_before(alias)
        if not before:
            raise SpecError(
                f"{alias} has no version before {registry.aliases.get(alias, 'its first')}; "
                f"promote another one: `orchestrator models promote NAME@VERSION --to {alias}`"
            )
        return _move(registry, "rollback", alias, before[-1], why)


@contextmanager
def _changing(place: Path, say: Callable[[str], None]) -> Iterator[Registry]:
    """Yields a registry that nobody else changes meanwhile."""
    place = place.absolute()
    with hold(place / "registry", Wait(_WAIT_S, say, advice="")):
        for left in place.glob("registry/[!_]*/.tmp-*"):  # of writers killed; waiters' are in _lock
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield load_registry(str(place))


def _move(
    registry: Registry,
    action: str,
    alias: str,
    version: str,
    why: str,
    by: Mapping[str, Any] = NOTHING,
) -> HistoryRow:
    sha256 = registry.versions[version].sha256
    if load_info(stored := version_folder(registry.place, sha256)).sha256 != sha256:
        raise BundleError(f"{stored} holds another bundle; restore it from a backup")
    row = _make_row(action, why, version, sha256)
    before = registry.aliases.get(alias)
    return _append(registry, row.model_copy(update={"alias": alias, "before": before, **by}))


def _make_row(action: str, why: str, version: str, sha256: str) -> HistoryRow:
    return HistoryRow.model_validate(
        {
            "action": action,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "who": f"{_user()}@{this_machine().host}",
            "why": why,
            "to": version,
            "sha256": sha256,
        }
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _append(registry: Registry, row: HistoryRow) -> HistoryRow:
    path = Path(registry.place, _HISTORY, _row_name(len(registry.rows) + 1))
    write_text(path, row.model_dump_json(by_alias=True, indent=2) + "\n")
    return row


def _row_name(number: int) -> str:
    return f"{number:06d}.json"


def _read_folder(place: Path) -> dict[str, bytes]:
    found = (place / _HISTORY).glob("*.json")
    return {path.name: path.read_bytes() for path in found if _ROW.fullmatch(path.name)}


def _read_remote(place: str) -> dict[str, bytes]:
    folder = open_folder(place).below(_HISTORY)
    try:
        names = [found.path.decode() for found in folder.walk()]
        rows = filter(_ROW.fullmatch, names)
        return {name: folder.read(name.encode(), _ROW_LIMITS) for name in rows}
    except DataError:  # there is none
        return {}
    except ImageError as error:
        raise BundleError(f"cannot read the history of {place}: {error}; try again") from error


def _parse(place: str, name: str, text: bytes) -> HistoryRow:
    try:
        raw = json.loads(text)
        version = int(raw["schema_version"])
        if version > SCHEMA_VERSION:
            raise BundleError(describe_newer(place, version, SCHEMA_VERSION))
        return HistoryRow.model_validate(raw)
    except (ValueError, TypeError, KeyError) as error:  # pydantic's is a ValueError
        raise BundleError(
            f"row {name} of the history of {place} is damaged; restore the folder from a backup"
        ) from error
