"""What decides the results of a run, and whether an unfinished run has the same."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.config.fields import STORED, decides_results
from orchestrator.config.yaml_file import load_yaml
from orchestrator.errors import SpecError
from orchestrator.runs.atomic import digest
from orchestrator.runs.run_dir import SCHEMA_VERSION, RunDir

NOTHING: Mapping[str, Any] = MappingProxyType({})


def identify(spec: BaseModel, others: Mapping[str, Any] = NOTHING) -> str:
    """Returns the digest of what decides a run's results.

    What is at its default is left out, so that a field that a later version adds changes no digest.

    Args:
        spec: its fields that decide the results count.
        others: as `open_run` takes them.
    """
    aside = {name for name, field in type(spec).model_fields.items() if not decides_results(field)}
    return digest([spec.model_dump(exclude=aside, exclude_defaults=True), dict(others)])


def holds_unfinished(run: RunDir, spec: BaseModel, others: Mapping[str, Any] = NOTHING) -> bool:
    """Returns whether an unfinished run of this spec and these others is in a folder."""
    status = run.load_status()
    if run.success.exists() or status.get("spec_digest") is None:
        return False
    if status.get("schema_version", 1) == SCHEMA_VERSION:
        return bool(status["spec_digest"] == identify(spec, others))
    # Of an earlier version: its digest is of other fields, so what it has stored is compared.
    if not run.spec.exists():
        return True  # nothing was begun
    stored = status.get("terms") or {}
    if any(stored.get(name, value) != value for name, value in others.items()):
        return False
    try:
        args = load_yaml(run.spec, "the spec of a run").get("args")
        return identify(type(spec).model_validate(args, context=STORED)) == identify(spec)
    except (SpecError, ValidationError):
        return False
