"""Reads job files and command-line flags into the forms of `specs.py` and `job.py`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from orchestrator.config.addresses import hide_secrets, is_address
from orchestrator.config.fields import STORED, PathMarker
from orchestrator.config.forms import DecodeLimits
from orchestrator.config.job import Job
from orchestrator.config.specs import SPECS, Resources
from orchestrator.config.yaml_file import load_yaml
from orchestrator.errors import SpecError, printable

FormT = TypeVar("FormT", bound=BaseModel)


# What `--weights` and `--model` accept besides paths; these words are never resolved as paths.
WEIGHT_WORDS = ("auto", "imagenet", "offline", "none", "file")


_FORM_NAMES = ("constrained-", "literal[")  # pydantic's, of the forms a field may take


def load_job(path: Path) -> Job:
    """Reads a job file; paths in it become absolute.

    Args:
        path: a YAML file in the one form.

    Returns:
        The job, its `args` still a mapping: flags may complete it.

    Raises:
        SpecError: as `load_yaml` does; an unknown key or a value of the wrong type.
    """
    raw = load_yaml(path, "keys name, kind, args")
    job = _validated(Job, raw, str(path))
    folder = path.resolve().parent
    args = dict(job.args)
    for key in _path_fields(SPECS[job.kind]):
        if key in args:
            args[key] = _resolve_paths(args[key], folder)
    weights = args.get("weights")
    if isinstance(weights, str) and weights not in WEIGHT_WORDS:
        args["weights"] = resolve_path(weights, folder)
    return job.model_copy(update={"args": args})


def build_spec(
    form: type[FormT], flags: Mapping[str, Any], job: Job | None = None, *, stored: bool = False
) -> FormT:
    """Returns a checked spec from a job's `args` and the flags that were given; a flag wins.

    Args:
        form: the spec's class.
        flags: flag name (underscores) to value; None means not given.
        job: the job file, when one was named.
        stored: it is the spec of a run, perhaps by an earlier version, that is gone on with.

    Raises:
        SpecError: an unknown key, a wrong type or a value out of range.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    for key in _path_fields(form):
        if key in given:
            given[key] = _resolve_paths(given[key], Path.cwd())
    args = job.args if job else {}
    nested = {k: v for k, v in given.items() if k in DecodeLimits.model_fields}
    if nested and "limits" in form.model_fields:
        given = {k: v for k, v in given.items() if k not in nested}
        given["limits"] = {**(args.get("limits") or {}), **nested}
    source = job.name if job else "command line"
    return _validated(form, {**args, **given}, source, STORED if stored else None)


def build_resources(flags: Mapping[str, Any], job: Job | None = None) -> Resources:
    """Returns the resources of a job file with the flags that were given on top."""
    stored = job.resources.model_dump() if job else {}
    given = {key: value for key, value in flags.items() if value is not None}
    return _validated(Resources, {**stored, **given}, job.name if job else "command line")


def dump_yaml(kind: str, name: str, spec: BaseModel, resources: Resources) -> str:
    """Returns a resolved spec in the one YAML form, so that it can be run again with `-c`."""
    body = {
        "name": name,
        "kind": kind,
        "args": spec.model_dump(mode="json", exclude_none=True),
        "resources": resources.model_dump(mode="json", exclude_none=True),
    }
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def dump_job(job: Job) -> str:
    """Returns a job in the one YAML form."""
    body = job.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def resolve_path(text: str, folder: Path) -> str:
    """Returns `text` absolute; an address with a scheme stays as it is.

    Args:
        text: a path or an address; `~` and leading `..` are resolved.
        folder: what a relative path is relative to, absolute and without links.
    """
    if is_address(text):
        return text
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # `~name` of no user: a file of that name
        path = path.expanduser()
    # Only those at the start: further on, `..` after a link leads elsewhere.
    while path.parts[:1] == ("..",):
        path, folder = Path(*path.parts[1:]), folder.parent
    return str(folder / path)


def _resolve_paths(value: Any, folder: Path) -> Any:
    """Resolves a path or a list of them; anything else is left for the form to refuse."""
    if isinstance(value, str):
        return resolve_path(value, folder)
    if isinstance(value, list | tuple):
        return [resolve_path(v, folder) if isinstance(v, str) else v for v in value]
    return value


def _path_fields(form: type[BaseModel]) -> list[str]:
    """Names of the fields annotated as paths."""
    found = []
    for name, field in form.model_fields.items():
        marked = any(isinstance(m, PathMarker) for m in field.metadata)
        if marked or "PathMarker" in repr(field.annotation):
            found.append(name)
    return found


def _validated(
    form: type[FormT], values: dict[str, Any], source: str, context: str | None = None
) -> FormT:
    """Builds a form; turns pydantic's report into one line."""
    try:
        return form.model_validate(values, context=context)
    except ValidationError as error:
        parts: dict[str, list[str]] = {}  # what is wrong -> every way to fix it
        seen: set[str] = set()
        for item in error.errors(include_url=False):
            # A field of several forms names the form in the location: "constrained-float".
            places = [str(p) for p in item["loc"] if not str(p).startswith(_FORM_NAMES)]
            key = ".".join(places)
            # To pydantic a list lacks those of its items that are wrong.
            if item["type"] == "too_short" and any(each.startswith(f"{key}.") for each in seen):
                continue
            seen.add(key)
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "missing":
                parts[f"{key} is required"] = []
            elif item["type"] == "extra_forbidden":
                known = ", ".join(_form_at(form, places[:-1]).model_fields)
                parts[f"unknown key {key}; known: {known}"] = []
            elif places:
                shown = _shown(item["input"], places)
                parts.setdefault(f"{key}={shown}: ", []).append(message)
            else:  # of the form as a whole
                parts[message] = []
        lines = [what + " or ".join(dict.fromkeys(messages)) for what, messages in parts.items()]
        text = printable(f"{source}: " + "; ".join(lines))
        raise SpecError(text if len(text) <= 2000 else text[:1997] + "...") from error


def _shown(value: Any, places: list[str]) -> str:
    """What was received, for a message; no secret of an address."""
    shown = repr(hide_secrets(value) if isinstance(value, str) else value)
    # The path of a webhook may be its secret, and what is within a list is not looked into.
    if {"webhook", "apprise"} & set(places) or (not isinstance(value, str) and is_address(shown)):
        return "..."
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _form_at(form: type[BaseModel], places: list[str]) -> type[BaseModel]:
    """Class of the form that stands at a place within another."""
    for place in places:
        field = form.model_fields.get(place)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        form = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), form)
    return form
