"""What the shell completes: names of backbones, bundles, jobs and schedules, and choices.

Completion looks at files, never at a cluster. Whatever goes wrong completes nothing: a shell shows
an error in the middle of the line that is being typed.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

Completer = Callable[..., list[str]]


def _quiet(complete: Completer) -> Completer:
    @functools.wraps(complete)
    def safe(*args: Any, **named: Any) -> list[str]:
        try:
            return complete(*args, **named)
        except Exception:
            return []

    return safe


def completer_of(name: str, choices: Sequence[Any]) -> Completer | None:
    """Returns what completes a field, None for the shell's own completion of files.

    Args:
        name: of the field.
        choices: values it may have, where they are few.
    """
    if choices:
        return lambda incomplete: [str(choice) for choice in choices]
    return _OF_FIELDS.get(name)


@_quiet
def complete_backbone(incomplete: str) -> list[str]:
    """Names of the registry, for the last of several that commas separate."""
    from orchestrator.model.backbones import REGISTRY

    given, comma, _ = incomplete.rpartition(",")
    return [given + comma + name for name in REGISTRY]


@_quiet
def complete_backbones(incomplete: str) -> list[str]:
    """Names of the registry, and the word for all of them where it can stand alone."""
    return [*complete_backbone(incomplete), *([] if "," in incomplete else ["all"])]


@_quiet
def complete_bundle(incomplete: str) -> list[str]:
    """Bundles under models/, and what the aliases of the registry there name."""
    from orchestrator.model.bundle_folder import list_bundles

    bundles = sorted(str(bundle) for bundle in list_bundles(Path("models")))
    if not Path("models", "registry").is_dir():
        return bundles
    from orchestrator.registry.history import load_registry

    return [*(f"models:{alias}" for alias in load_registry("models").aliases), *bundles]


@_quiet
def complete_version(ctx: typer.Context, incomplete: str) -> list[str]:
    """Versions and aliases of a registry."""
    from orchestrator.registry.history import load_registry

    registry = load_registry(ctx.params.get("registry") or "models")
    return [*registry.aliases, *registry.versions]


@_quiet
def complete_job(incomplete: str) -> list[str]:
    """Ids of this user's submits, the newest first."""
    from orchestrator.runs.state import job_records_folder

    records = job_records_folder().glob("*.json")
    newest = sorted(records, key=lambda record: record.stat().st_mtime_ns, reverse=True)
    return [record.stem for record in newest]


@_quiet
def complete_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    """Jobs of the ledger, and those of the job folder that have a schedule."""
    from orchestrator.runs.state import schedule_ledger
    from orchestrator.schedule.job_folder import JobFolder
    from orchestrator.schedule.ledger import list_job_names

    jobs = JobFolder(ctx.params.get("jobs") or Path("jobs")).load().jobs
    known = list_job_names(ctx.params.get("ledger") or schedule_ledger())
    return sorted({*jobs, *known})


_OF_FIELDS = {
    "backbone": complete_backbone,
    "backbones": complete_backbones,
    **dict.fromkeys(("model", "shadow", "live", "candidate"), complete_bundle),
}
