"""Everything that is wrong with a launcher file, and how to fix it.

Ray's own schema is applied first. It lets through what makes `ray up` fail half-way, or come up
open to the network, without GPUs or with other packages on every machine: the rest is for that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from orchestrator.launcher.file import Finding, Launcher, launcher_schema, unknown_keys
from orchestrator.launcher.machines import MACHINE_CHECKS, check_jobs
from orchestrator.launcher.own_machines import check_own_machines
from orchestrator.launcher.safety import SAFETY_CHECKS, check_token_file


@dataclass(frozen=True)
class Checked:
    """Result of a check.

    Args:
        faults: what must be fixed before `ray up`.
        notes: what is still to be filled in, of a file in which nothing is yet.
    """

    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def check_launcher(launcher: Launcher, jobs: Path | None) -> Checked:
    """Returns everything that is wrong with a launcher file.

    Args:
        launcher: the file.
        jobs: folder of job files that the cluster is to run; None for none.
    """
    faults = [_of_schema(error) for error in _schema_errors(launcher)]
    for check in (*MACHINE_CHECKS, check_own_machines, *SAFETY_CHECKS, _blanks):
        faults += check(launcher)
    faults += check_jobs(launcher, jobs)
    # A file in which nothing is filled in speaks of no cluster yet, and needs no token.
    open_ends = [*_examples(launcher), *check_token_file(launcher)]
    notes = open_ends if launcher.is_template else []
    return Checked(faults if launcher.is_template else faults + open_ends, notes)


def _schema_errors(launcher: Launcher) -> list[ValidationError]:
    given = dict(launcher.given)
    if launcher.provider == "local":
        given.pop("min_workers", None)  # Ray takes it for this provider, before its own schema
    errors: Iterable[ValidationError] = Draft7Validator(launcher_schema()).iter_errors(given)
    return sorted(errors, key=lambda error: list(map(str, error.absolute_path)))


def _of_schema(error: ValidationError) -> Finding:
    """Ray's schema in plain words."""
    where = ".".join(map(str, error.absolute_path)) or "top level"
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(known))
        return unknown_keys(where, unknown, known)
    return Finding(where, error.message, f"expected {error.validator} {error.validator_value!r}")


def _blanks(launcher: Launcher) -> Iterator[Finding]:
    for where, found in launcher.blanks().items():
        yield Finding(where, f"{', '.join(found)} is not filled in", "write your own value")


def _examples(launcher: Launcher) -> Iterator[Finding]:
    for where, found in launcher.examples().items():
        yield Finding(
            where,
            f"{', '.join(dict.fromkeys(found))} is reserved for examples",
            "write your own value",
        )
