"""A model as a user names it: a bundle's folder or address, or a version in a registry.

`models:production` and `models:lite0@3` name versions of the registry in the folder `models`;
`s3://bucket/models:production` one of a registry at an address. What lies at an address is copied
once to `models/fetched/`, each content under its hash.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.addresses import is_address
from orchestrator.data.limits import Limits
from orchestrator.data.listing.addresses import check_address, open_folder
from orchestrator.errors import BundleError, ClusterError, ImageError
from orchestrator.model.bundle import BundleInfo, check_name, load_info, parse_info
from orchestrator.model.bundle_folder import INFO_FILE
from orchestrator.registry.history import (
    ALIASES,
    NAME,
    VERSIONS,
    load_registry,
    version_folder,
)
from orchestrator.runs.atomic import atomic_folder

_REFERENCE = re.compile(rf"(.+):({'|'.join(ALIASES)}|{NAME}@[1-9][0-9]*)", re.DOTALL)
_LIMITS = Limits(max_bytes=8 << 30)  # of one file of a bundle


@dataclass(frozen=True)
class Model:
    """A verified bundle, and what it was asked for by.

    Args:
        name: to ask for the same again: a version, never an alias; or the bundle's folder or
            address.
        folder: the bundle, links resolved.
        info: what it says of itself.
        version: NAME@VERSION in a registry; None for a bundle that was named itself.
    """

    name: str
    folder: Path
    info: BundleInfo
    version: str | None = None


def open_model(text: str) -> Model:
    """Returns the bundle that a user's text names, every hash verified.

    Args:
        text: a folder, an address, or REGISTRY:ALIAS or REGISTRY:NAME@VERSION.

    Raises:
        SpecError: the registry has no such alias or version, or an address cannot be used.
        BundleError: the bundle, or the registry's history, cannot be used.
        ClusterError: a store does not answer, or the file system refused a write.
    """
    matched = _REFERENCE.fullmatch(text)
    if matched is None:
        folder = _fetch(text) if is_address(text) else Path(text)
        info = load_info(folder)
        folder = folder.resolve()
        return Model(text if is_address(text) else str(folder), folder, info)
    place = matched[1] if is_address(text) else str(Path(matched[1]).resolve())
    row = load_registry(place).find(matched[2])
    if is_address(place):
        folder = _fetch(place, f"{VERSIONS}/{row.sha256}")
    else:
        folder = version_folder(place, row.sha256)
    info = load_info(folder)
    if info.sha256 != row.sha256:
        raise BundleError(
            f"{row.version} of the registry {place} was {row.sha256[:12]} when it was added and is "
            f"{info.sha256[:12]} now; restore the registry from a backup"
        )
    return Model(f"{place}:{row.version}", folder, info, row.version)


def pin_model(text: str) -> str:
    """Returns a text that names the same version for good, as `Model.name`; no bundle is read.

    Raises:
        SpecError: the registry has no such alias or version.
        BundleError: the registry's history cannot be used.
        ClusterError: a store does not answer.
    """
    matched = _REFERENCE.fullmatch(text)
    if matched is None:
        return text
    return f"{matched[1]}:{load_registry(matched[1]).find(matched[2]).version}"


def is_alias(text: str) -> bool:
    """Returns whether a text names what an alias of a registry names by now."""
    return text.rpartition(":")[2] in ALIASES and _REFERENCE.fullmatch(text) is not None


def _fetch(address: str, below: str = "") -> Path:
    """Copies a bundle from an address, unless its content is there; returns its folder."""
    check_address(address)
    remote = open_folder(address)
    if below:
        remote = remote.below(below)

    def read(name: str) -> bytes:
        try:
            return remote.read(name.encode(), _LIMITS)
        except ImageError as error:
            raise BundleError(
                f"cannot read {name} of the bundle at {address}: {error.message}"
            ) from error

    description = read(INFO_FILE)
    info = parse_info(description, f"{address}/{INFO_FILE}")
    fetched = Path("models", "fetched", info.sha256).absolute()
    if fetched.exists():
        return fetched
    for name in info.files:
        check_name(address, name)  # before anything is written under it
    try:
        with atomic_folder(fetched) as draft:
            for name in info.files:
                temporary = draft / name
                temporary.write_bytes(read(name))
            temporary = draft / INFO_FILE
            temporary.write_bytes(description)
            load_info(draft)
    except ClusterError:
        if not fetched.exists():  # by another process, meanwhile
            raise
    return fetched


def diff_models(first: BundleInfo, second: BundleInfo) -> dict[str, tuple[Any, Any]]:
    """Returns what two bundles say of themselves and differ in, by the field's dotted name.

    Args:
        first: of one bundle.
        second: of the other one.
    """
    measured = {"evidence": {"subgroups", "shifts"}}  # long lists, of other images each
    before, after = (
        dict(_flatten(info.model_dump(mode="json", exclude=measured))) for info in (first, second)
    )
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
