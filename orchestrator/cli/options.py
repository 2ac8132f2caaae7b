"""The options of a command, made from the spec of its kind: a field is a flag.

A command is declared by the name of its kind alone; its options are made when it is called, since
that takes pydantic and the specs. A value reaches the spec as the text that was given, so that a
flag and a job file are checked by the same rules; what was not given is left to the job file.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.cli.request import Request, resolve

if TYPE_CHECKING:
    from orchestrator.config.fields import Form

_REPEATED = ("path", "name=class")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Typer's names of types, and `Span`'s, which is a reference in its schema.
_TYPES = {"integer": "int", "number": "float", "string": "str", "array": "list", None: "range"}


def switch(*names: str, help: str) -> Any:
    """Returns the option of a flag that takes no value and is off unless given."""
    return typer.Option(*names, metavar="", help=help, show_default="off")


JsonFlag = Annotated[bool, switch("--json", help="Print one JSON object and nothing else.")]


class SpecCommand(TyperCommand):
    """A command that is a name and a line of help until its options are asked for."""

    build: Callable[[], TyperCommand]

    @functools.cached_property
    def whole(self) -> TyperCommand:
        """The command with its options."""
        return self.build()

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Makes the context of the whole command."""
        return self.whole.make_context(*args, **extra)

    @property
    def params(self) -> Any:
        """The options, for whoever looks at the command without calling it."""
        return self.whole.params

    @params.setter
    def params(self, _: Any) -> None:
        pass  # Typer's own, made from a function without parameters


def run_command(
    app: typer.Typer, kind: str, *, name: str | None = None, default_job: Path | None = None
) -> Callable[[Callable[[Request], None]], Callable[[Request], None]]:
    """Declares the command of a kind; the function it decorates is given the `Request`.

    Args:
        app: that the command belongs to.
        kind: a key of `KINDS`.
        name: of the command within `app`; the kind's otherwise.
        default_job: job file that is read where neither data nor a file is named.
    """

    def declare(function: Callable[[Request], None]) -> Callable[[Request], None]:
        def build() -> Any:
            alone = typer.Typer(add_completion=False)
            alone.command(name or kind)(_with_options(function, kind, default_job))
            return typer.main.get_command(alone)

        def unbuilt() -> None: ...

        unbuilt.__doc__ = function.__doc__
        made = type(kind, (SpecCommand,), {"build": staticmethod(build)})
        app.command(name or kind, cls=made)(unbuilt)
        return function

    return declare


# --- from fields to options -----------------------------------------------------------------------


def list_fields(kind: str) -> dict[str, dict[str, Any]]:
    """Returns the JSON schema of every field that is a flag of a kind's command, by name.

    Those of the spec, the limits in it as fields of their own, and of the resources; in the order
    of the help page, without those that the kind does not use.
    """
    from orchestrator.cli.kinds import KINDS
    from orchestrator.config.fields import PANELS
    from orchestrator.config.specs import Resources

    row = KINDS[kind]
    fields = _describe(row.spec) | _describe(Resources)
    unused = row.spec.UNUSED if row.on_gpus else row.spec.UNUSED | {"gpus_per_worker"}
    order = (None, *PANELS)
    used = [(name, shown) for name, shown in fields.items() if name not in unused]
    return dict(sorted(used, key=lambda item: order.index(item[1].get("panel"))))


def _describe(form: "type[Form]") -> dict[str, dict[str, Any]]:
    from orchestrator.data.limits import Limits

    schema = form.model_json_schema()
    fields: dict[str, dict[str, Any]] = dict(schema["properties"])
    if fields.pop("limits", None):
        for name, shown in schema["$defs"]["DecodeLimits"]["properties"].items():
            fields[name] = shown | {"default": getattr(Limits(), name)}
    return fields


def _with_options(
    function: Callable[[Request], None], kind: str, default_job: Path | None
) -> Callable[..., None]:
    """Returns the function as Typer is to call it: with a parameter for every field."""
    from orchestrator.config.specs import SPECS

    fields = list_fields(kind)
    # What a job file may hold need not be given.
    fallback = None if kind in SPECS else inspect.Parameter.empty
    first = [name for name, shown in fields.items() if shown.get("positional")]

    def command(ctx: typer.Context, **values: Any) -> None:
        def stated(name: str) -> bool:
            # A value that equals the default may be meant to win over a job file's.
            source = ctx.get_parameter_source(name)
            return source is not None and source.name != "DEFAULT"

        given = {name: _as_choice(values[name], fields[name]) for name in fields if stated(name)}
        common = {name: values[name] for name in ("config", "resume") if name in values}
        as_json = values["as_json"]
        function(resolve(kind, given, **common, default_job=default_job, as_json=as_json))

    parameters = [
        inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context),
        *(_parameter(name, fields[name], fallback) for name in first),
        *_common_parameters(kind, default_job),
        *(_parameter(name, shown) for name, shown in fields.items() if name not in first),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = function.__doc__
    return command


def _common_parameters(kind: str, default_job: Path | None) -> Iterator[inspect.Parameter]:
    """Yields the options that a command of a kind has beside its fields."""
    from orchestrator.config.specs import SPECS

    if kind in SPECS:
        config = typer.Option(
            "--config",
            "-c",
            metavar="<file>",
            help="Job file; flags win over it.",
            show_default=f"{default_job} without DATA" if default_job else "none",
        )
        resume = typer.Option(
            "--resume",
            metavar="<run>",
            help="Continue the unfinished run in this folder.",
            show_default="none",
        )
        for name, info in (("config", config), ("resume", resume)):
            yield inspect.Parameter(
                name, _KEYWORD, default=None, annotation=Annotated[Path | None, info]
            )
    yield inspect.Parameter("as_json", _KEYWORD, default=False, annotation=JsonFlag)


def _parameter(name: str, shown: Mapping[str, Any], fallback: Any = None) -> inspect.Parameter:
    """Returns the parameter of a field; `fallback` is the default of one that has none."""
    from orchestrator.cli.completion import completer_of

    flag = f"--{name.replace('_', '-')}"
    forms = _forms(shown)
    look: dict[str, Any] = {
        "help": shown["description"],
        "rich_help_panel": shown.get("panel"),
        "show_default": shown.get("words", True),
        "autocompletion": completer_of(name, shown.get("enum", ())),
    }
    default: Any = _default_text(shown["default"]) if "default" in shown else fallback
    # Paths and names may hold commas, so several of them are given by repeating the option.
    repeated = any(form.get("items", {}).get("format") in _REPEATED for form in forms)
    annotation: Any = list[str] if repeated else str
    if shown.get("positional"):
        info = typer.Argument(metavar=shown.get("metavar"), **look)
    elif forms[0].get("type") == "boolean":
        annotation, default = bool, False
        info = switch(flag, help=shown["description"])
        info.rich_help_panel = shown.get("panel")
    else:
        info = typer.Option(flag, metavar=_metavar(shown, forms), **look)
    return inspect.Parameter(
        name, _KEYWORD, default=default, annotation=Annotated[annotation, info]
    )


def _forms(shown: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what a field may be, without null: the arms of a union, or itself."""
    arms = shown.get("anyOf") or shown.get("oneOf") or [shown]
    return [arm for arm in arms if arm.get("type") != "null"]


def _metavar(shown: Mapping[str, Any], forms: list[Mapping[str, Any]]) -> str:
    """Returns what stands for a value: its type or choices, and its range."""
    if "metavar" in shown:
        return str(shown["metavar"])
    names = [str(name) for name in shown.get("enum", ())]
    limits = ""
    for form in forms if not names else ():
        form = form.get("items", form) if form.get("items", {}).get("format") else form
        names.append(form.get("const") or form.get("format") or _TYPES[form.get("type")])
        limits = limits or _limits(form)
    return f"<{'|'.join(names)}>{limits}"


def _limits(form: Mapping[str, Any]) -> str:
    """Returns the range of a number as Typer writes it, empty where there is none."""
    low, high = form.get("minimum"), form.get("maximum")
    above, below = form.get("exclusiveMinimum"), form.get("exclusiveMaximum")
    start = f"{low}<=" if low is not None else f"{above}<" if above is not None else ""
    end = f"<={high}" if high is not None else f"<{below}" if below is not None else ""
    if start and not end:
        start, end = "", f">={low}" if low is not None else f">{above}"
    return f" [{start}x{end}]" if start or end else ""


def _default_text(default: Any) -> str | None:
    """Returns a default as it would be given on a command line."""
    if isinstance(default, dict):
        return f"{default['low']:g}:{default['high']:g}"
    if isinstance(default, list):
        return ", ".join(map(str, default))
    return None if default is None else str(default)


def _as_choice(value: Any, shown: Mapping[str, Any]) -> Any:
    """Returns the choice that a text stands for; a choice may be a number."""
    return next((choice for choice in shown.get("enum", ()) if str(choice) == value), value)
