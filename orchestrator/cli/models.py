"""`orchestrator models`: the versions of a registry, and which of them are live."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import complete_bundle, complete_version
from orchestrator.cli.options import JsonFlag, run_command, switch
from orchestrator.cli.output import print_columns, print_json, print_result, tell
from orchestrator.cli.request import Request
from orchestrator.errors import BundleError, SpecError

if TYPE_CHECKING:
    from orchestrator.registry.history import HistoryRow, Registry

app = typer.Typer(
    no_args_is_help=True, help="Keep versions of models, and say which of them are live."
)

_ALIASES = "production, staging or shadow"
RegistryPlace = Annotated[
    str,
    typer.Option(
        "--registry",
        metavar="<path>",
        help="Folder of the registry; an address, such as s3://bucket/models, can be read.",
        show_default="models",
    ),
]
Why = Annotated[str, typer.Option("--reason", metavar="<text>", help="Why; kept in the history.")]
Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help=f"A version such as lite0@3, or {_ALIASES}.",
        autocompletion=complete_version,
    ),
]
Bundle = typer.Argument(
    metavar="BUNDLE",
    help="Bundle folder, or a version such as models:production.",
    autocompletion=complete_bundle,
)


@app.command("list")
def list_versions(registry: RegistryPlace = "models", as_json: JsonFlag = False) -> None:
    """List the versions, and which of them the aliases name."""
    from orchestrator.registry.history import load_registry

    found = load_registry(registry)
    if as_json:
        versions = {name: _as_json(row) for name, row in found.versions.items()}
        print_json({"versions": versions, "aliases": found.aliases})
        return
    rows = [
        [name, ", ".join(_aliases_of(found, name)) or "-", row.sha256[:12], row.when, row.who]
        for name, row in found.versions.items()
    ]
    heads = ["version", "live as", "sha256", "added", "by"]
    print_columns(
        heads, rows, empty=f"{registry} has no version yet; add one: `orchestrator models add`"
    )


@app.command()
def show(version: Version, registry: RegistryPlace = "models", as_json: JsonFlag = False) -> None:
    """Verify a version's hashes and describe it."""
    from orchestrator.cli.summaries import bundle_summary
    from orchestrator.registry.history import load_registry
    from orchestrator.registry.reference import open_model

    found = load_registry(registry)
    row = found.find(version)
    model = open_model(f"{registry}:{row.version}")
    aliases = _aliases_of(found, row.version)
    body = {"version": row.version, "aliases": aliases, "added": _as_json(row)}
    body |= {"folder": str(model.folder), "bundle": model.info.model_dump(mode="json")}
    lines = bundle_summary(model.folder, model.info)
    live = f"live as {', '.join(aliases)}" if aliases else "not live"
    lines.insert(0, f"{row.version}: {live}; added {row.when} by {row.who}: {row.why}")
    print_result(body, lines, as_json=as_json)


@app.command()
def add(
    bundle: Annotated[str, Bundle],
    reason: Why,
    name: Annotated[
        str | None,
        typer.Option(metavar="<name>", help="Name of the model.", show_default="the folder's"),
    ] = None,
    registry: RegistryPlace = "models",
    as_json: JsonFlag = False,
) -> None:
    """Copy a bundle into the registry as the next version of its name; it is not live yet."""
    from orchestrator.registry.history import add_version
    from orchestrator.registry.reference import open_model

    named = name or Path(bundle.partition("?")[0]).absolute().name
    row = add_version(_writable(registry), open_model(bundle).folder, named, reason, tell)
    line = f"{row.version} is {row.sha256[:12]}; `orchestrator models promote {row.version} --to "
    print_result(_as_json(row), [line + "production` makes it live"], as_json=as_json)


@app.command()
def promote(
    version: Version,
    to: Annotated[str, typer.Option("--to", metavar="<alias>", help=f"{_ALIASES.capitalize()}.")],
    reason: Why,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="<run>",
            help="Run folder of `models compare` of the version that is live now with this one; "
            "needed where the alias names another model.",
            show_default="none",
        ),
    ] = None,
    force: Annotated[
        bool, switch("--force", help="Promote without a comparison that says so.")
    ] = False,
    registry: RegistryPlace = "models",
    as_json: JsonFlag = False,
) -> None:
    """Make a version live under an alias; runs that have begun keep the version they have."""
    from orchestrator.registry.history import promote as promote_version

    place = _writable(registry)
    row = promote_version(place, version, _alias(to), reason, tell, report=report, force=force)
    _tell_move(row, as_json)


@run_command(app, "models-compare", name="compare")
def compare(request: Request) -> None:
    """Judge on labelled X-rays whether a candidate may take the live model's place."""
    from orchestrator.cli.summaries import models_compare_summary

    result = request.run()
    body = result.report | {"out": str(result.run)}
    print_result(body, models_compare_summary(result), as_json=request.as_json)


@app.command()
def rollback(
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help=f"{_ALIASES.capitalize()}.")],
    reason: Why,
    registry: RegistryPlace = "models",
    as_json: JsonFlag = False,
) -> None:
    """Go back to the version that was live before the last promotion."""
    from orchestrator.registry.history import roll_back

    row = roll_back(_writable(registry), _alias(alias), reason, tell)
    _tell_move(row, as_json)


@app.command()
def history(
    alias: Annotated[
        str | None,
        typer.Argument(metavar="[ALIAS]", help=f"{_ALIASES.capitalize()}.", show_default="all"),
    ] = None,
    registry: RegistryPlace = "models",
    as_json: JsonFlag = False,
) -> None:
    """Show what was added, promoted and rolled back: who, when, why, from and to."""
    from orchestrator.registry.history import load_registry

    rows = load_registry(registry).rows
    if alias is not None:
        rows = tuple(row for row in rows if row.alias == _alias(alias))
    if as_json:
        print_json({"history": [_as_json(row) for row in rows]})
        return
    heads = ["when", "who", "action", "alias", "from", "to", "compared", "why"]
    cells = [
        [r.when, r.who, r.action, r.alias or "-", r.before or "-", r.version, _compared(r), r.why]
        for r in rows
    ]
    print_columns(heads, cells, empty=f"{registry} has no history yet")


@app.command()
def verify(bundle: Annotated[str, Bundle], as_json: JsonFlag = False) -> None:
    """Verify hashes and the graph's classes, and replay the golden images on both engines."""
    from orchestrator.model.golden import TOLERANCE, describe_difference, replay_bundle
    from orchestrator.registry.reference import open_model

    model = open_model(bundle)
    replays = replay_bundle(model.folder, model.info)
    lines = [
        f"{model.version or model.folder}: {len(model.info.files)} files as recorded, "
        f"sha256 {model.info.sha256}; the network has Keras's own classes alone"
    ]
    lines += [
        f"{found}: {found.difference:.1e} of the scale from {found.against}, at most "
        f"{found.tolerance:.0e}: {'ok' if found.ok else 'FAIL'}"
        for found in replays
    ]
    body = {"sha256": model.info.sha256, "version": model.version, "tolerance": TOLERANCE}
    shown = [{**vars(found), "ok": found.ok} for found in replays]
    finite = [entry | {"difference": _finite(entry["difference"])} for entry in shown]
    print_result(body | {"replays": finite}, lines, as_json=as_json)
    for found in replays:
        if not found.ok:
            raise BundleError(describe_difference(model.folder, found))


@app.command()
def diff(
    first: Annotated[str, Bundle],
    second: Annotated[str, Bundle],
    as_json: JsonFlag = False,
) -> None:
    """Show what differs between two bundles: training, data, calibration, threshold, metrics."""
    from orchestrator.registry.reference import diff_models, open_model

    found = diff_models(open_model(first).info, open_model(second).info)
    if as_json:
        print_json({name: list(values) for name, values in found.items()})
        return
    rows = [[name, *map(_shown, values)] for name, values in found.items()]
    print_columns(["", first, second], rows, empty="the bundles are the same")


def _writable(registry: str) -> Path:
    from orchestrator.config.addresses import is_address

    if is_address(registry):
        raise SpecError(
            f"the registry at {registry} can be read, not changed; change the folder that it is a "
            "copy of"
        )
    return Path(registry).resolve()


def _alias(text: str) -> str:
    from orchestrator.registry.history import ALIASES

    if text not in ALIASES:
        raise SpecError(f"{text!r} is no alias; expected {_ALIASES}")
    return text


def _aliases_of(registry: "Registry", version: str) -> list[str]:
    return sorted(alias for alias, named in registry.aliases.items() if named == version)


def _as_json(row: "HistoryRow") -> dict[str, Any]:
    return row.model_dump(mode="json", by_alias=True)


def _tell_move(row: "HistoryRow", as_json: bool) -> None:
    before = f" (was {row.before})" if row.before else ""
    print_result(_as_json(row), [f"{row.alias} is now {row.version}{before}"], as_json=as_json)


def _compared(row: "HistoryRow") -> str:
    said = [row.report.verdict] if row.report else []
    return ", ".join([*said, *(["forced"] if row.forced else [])]) or "-"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: Any) -> str:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
