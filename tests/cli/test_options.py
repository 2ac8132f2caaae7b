"""Flags are fields: none missing, none besides, each with its default; what is given wins."""

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import app as cli
from orchestrator.cli.kinds import KINDS, command_of
from orchestrator.cli.options import SpecCommand
from orchestrator.config.fields import Span
from orchestrator.config.forms import DecodeLimits
from orchestrator.config.specs import SPECS, IngestSpec, Resources, TrainSpec
from orchestrator.errors import SpecError
from orchestrator.model.reproduce import reproduce
from orchestrator.runs.life_cycle import open_run

TOP: Any = typer.main.get_command(cli.app)


class Asked(Exception):
    """What a kind was asked to run, in place of running it."""

    def __init__(self, spec: Any, resources: Resources, run_folder: Path | None) -> None:
        self.spec, self.resources, self.run_folder = spec, resources, run_folder


Ask = Callable[..., Asked]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls a command in a working folder of its own; returns what it would have run."""
    monkeypatch.chdir(tmp_path)

    def run(spec: Any, resources: Resources, _: object, run_folder: Path | None) -> None:
        raise Asked(spec, resources, run_folder)

    for kind, row in KINDS.items():
        monkeypatch.setitem(KINDS, kind, replace(row, run=run))

    def call(*arguments: str) -> Asked:
        found = CliRunner().invoke(cli.app, list(arguments)).exception
        assert isinstance(found, BaseException)
        if not isinstance(found, Asked):
            raise found
        return found

    return call


def find_command(kind: str) -> Any:
    """The command of a kind, which may be in a group of commands."""
    found = TOP
    for word in command_of(kind).split():
        found = found.commands[word]
    return found


def show_help(kind: str, columns: int) -> str:
    words = [*command_of(kind).split(), "--help"]
    return CliRunner().invoke(cli.app, words, env={"COLUMNS": str(columns)}).output


def shown(kind: str) -> dict[str, str]:
    """The rows of a help page by their flag."""
    page = show_help(kind, 250)
    found = (re.match(r"│ (--[a-z-]+)(.*)│$", line) for line in page.splitlines())
    return {row[1]: row[2] for row in found if row}


def test_every_kind_has_a_command_and_every_command_of_a_spec_a_kind() -> None:
    groups = {"": TOP, "models-": TOP.commands["models"]}
    made = {
        prefix + name
        for prefix, group in groups.items()
        for name, command in group.commands.items()
        if isinstance(command, SpecCommand)
    }
    assert made == set(KINDS)
    assert set(KINDS) - set(SPECS) == {"ingest"}
    assert all(KINDS[kind].spec is SPECS[kind] for kind in SPECS)


@pytest.mark.parametrize("kind", KINDS)
def test_flags_are_the_fields_of_the_spec(kind: str) -> None:
    spec = KINDS[kind].spec
    fields = {*spec.model_fields, *Resources.model_fields}
    if "limits" in fields:
        fields |= {*DecodeLimits.model_fields}
    fields -= {"limits"} | spec.UNUSED
    fields -= {"gpus_per_worker"} if kind in ("ingest", "quantize") else set()
    common = {"as_json"} | ({"config", "resume"} if kind in SPECS else set())
    params = {param.name: param for param in find_command(kind).params}
    assert set(params) == fields | common
    for name in fields:
        flag = f"--{name.replace('_', '-')}"
        positional = isinstance(params[name], typer.core.TyperArgument)
        assert params[name].opts == [name if positional else flag]
        assert params[name].help.endswith(".")


def test_what_a_kind_does_not_use_are_fields_that_it_has() -> None:
    for row in KINDS.values():
        assert set(row.spec.model_fields) >= row.spec.UNUSED


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_shows_its_default_and_its_choices_or_range(kind: str) -> None:
    rows = shown(kind)
    rows.pop("--help")
    assert len(rows) >= 10
    spec = KINDS[kind].spec
    for flag, row in rows.items():
        assert "[default: " in row, flag
        field = spec.model_fields.get(flag[2:].replace("-", "_"))
        if field is None or field.default is None or isinstance(field.default, bool):
            assert "[default: None]" not in row
            continue
        default = field.default
        if isinstance(default, Span):
            default = f"{default.low:g}:{default.high:g}"
        elif isinstance(default, tuple):
            default = ", ".join(default)
        assert f"[default: {default}]" in row


@pytest.mark.parametrize("kind", KINDS)
def test_no_flag_is_cut_short_on_a_narrow_terminal(kind: str) -> None:
    page = show_help(kind, 80)
    assert max(map(len, page.splitlines())) == 80
    assert "…" not in page
    assert not re.search(r"│ +[^<│]*> ", page)  # a type that is folded
    assert set(re.findall(r"^│ (--[a-z-]+) ", page, re.MULTILINE)) == set(shown(kind))


@pytest.mark.parametrize(
    ("kind", "flag", "parts"),
    [
        ("train", "--features", ["<cached|live>", "[default: cached]"]),
        ("train", "--test-time-views", ["<1|3>", "[default: 1]"]),
        ("train", "--lr", ["<float|auto> [0<x<=10]", "[default: 0.001]"]),
        ("train", "--views", ["<int> [1<=x<=100]", "[default: 4]"]),
        ("train", "--patience", ["<int> [x>=1]", "[default: 8]"]),
        ("train", "--objective", ["<metric>", "[default: auroc]"]),
        ("train", "--max-pixels", ["<int> [x>=1]", "[default: 50000000]"]),
        ("train", "--workers", ["<int|min-max>", "[default: (as many as fit)]"]),
        ("train", "--merge-val", ["[default: (off)]"]),
        ("tune", "--lr", ["<range|list>", "[default: 0.0001:0.01]"]),
        ("tune", "--views", ["[default: 4]"]),
        ("tune", "--time-budget", ["<duration>", "[default: (no limit)]"]),
        ("tune", "--config", ["[default: (jobs/tune.yaml without DATA)]"]),
        ("compare", "--max-bytes", ["<int> [x>=1]"]),
        ("score", "--model", ["<path>", "[default: (the newest bundle in models/)]"]),
    ],
)
def test_types_choices_ranges_and_defaults_are_in_words(
    kind: str, flag: str, parts: list[str]
) -> None:
    row = shown(kind)[flag]
    for part in parts:
        assert part in row


def test_a_flag_that_is_not_given_leaves_the_job_files_value(ask: Ask) -> None:
    Path("j.yaml").write_text(
        "{name: j, kind: train, args: {data: x, epochs: 7, merge_val: true, backbone: tiny, "
        "limits: {max_frames: 2}}, resources: {workers: 3}}"
    )
    plain = ask("train", "-c", "j.yaml")
    assert (plain.spec.epochs, plain.spec.merge_val, plain.spec.backbone) == (7, True, "tiny")
    assert (plain.spec.limits.max_frames, plain.resources.workers) == (2, 3)
    # 100 epochs are the spec's default, and given here all the same.
    given = ask("train", "-c", "j.yaml", "--epochs", "100", "--max-bytes", "9", "--workers", "1")
    assert (given.spec.epochs, given.spec.merge_val) == (100, True)
    assert (given.spec.limits.max_frames, given.spec.limits.max_bytes) == (2, 9)
    assert given.resources == Resources(workers=1)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "backbone": "tiny",
            "views": 2,
            "merge_val": True,
            "lr": 0.00125,
            "alpha": 0.3,
            "class_map": ["a, b=NORMAL", "COVID=none"],
            "limits": {"max_frames": 3},
            "population": "children, 'one' site",
            "accept_error": 0.02,
            "calibration": "none",
            "finetune": "top:3",
        },
    ],
)
def test_the_command_in_a_model_card_asks_for_the_same_training(
    fields: dict[str, Any], ask: Ask
) -> None:
    spec = TrainSpec(data="DATA", **fields)
    stored = spec.model_dump(mode="json", exclude={"out", "overwrite", "data"})
    info: Any = SimpleNamespace(recalibration=None, training=stored)
    program, *words = shlex.split(reproduce(info))
    assert program == "orchestrator"
    asked = ask(*words).spec
    assert asked == spec.model_copy(update={"data": str(Path("DATA").absolute())})


def test_without_flags_the_spec_has_its_own_defaults(ask: Ask) -> None:
    asked = ask("train", "x")
    assert asked.spec == TrainSpec(data=str(Path("x").absolute()))
    assert asked.resources == Resources()


def test_values_come_to_the_spec_as_its_types(ask: Ask) -> None:
    asked = ask(
        *("train", "x", "--test-time-views", "3", "--lr", "auto", "--alpha", "0.3", "--overwrite"),
        *("--objective", "log_loss", "--max-seconds", "2.5", "--gpus-per-worker", "1"),
    )
    spec = asked.spec
    assert (spec.test_time_views, spec.lr, spec.alpha, spec.overwrite) == (3, "auto", 0.3, True)
    assert (spec.objective, spec.limits.max_seconds) == ("log_loss", 2.5)
    assert asked.resources.gpus_per_worker == 1
    here = str(Path.cwd())
    spec = ask("score", "a", "b", "s3://c/d", "--model", "m", "--model", "n").spec
    assert spec.input == (f"{here}/a", f"{here}/b", "s3://c/d")
    assert spec.model == (f"{here}/m", f"{here}/n")
    spec = ask("score", "a", "--class-map", "a, b=NORMAL", "--class-map", "COVID=none").spec
    assert spec.class_map == ("a, b=NORMAL", "COVID=none")
    assert ask("train", "x", "--class-map", "A=NORMAL,B=none").spec.class_map == (
        "A=NORMAL",
        "B=none",
    )
    assert ask("compare", "x", "--backbones", "tiny, VGG16").spec.backbones == ("tiny", "VGG16")
    ingested = ask("ingest", "x", "y", "--workers", "2")
    assert (ingested.spec.image_size, ingested.resources.gpus_per_worker) == (None, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "x", "--features", "warm"], "Input should be 'cached' or 'live'"),
        (["train", "x", "--test-time-views", "2"], "Input should be 1 or 3"),
        (["tune", ".", "--search", "genetic"], "Input should be 'tpe', 'random' or 'grid'"),
        (["score", "x", "--engine", "torch"], "'auto', 'openvino' or 'keras'"),
        (["train", "x", "--views", "0"], "greater than or equal to 1"),
        (["train", "x", "--epochs", "many"], "valid integer"),
        (["compare", "x", "--max-bytes", "0"], "limits.max_bytes='0'"),
        (["train", "x", "--workers", "0"], "workers='0'"),
        (["score", "x", "--class-map", "VIRUS"], "expected NAME=CLASS with one of the classes"),
        (["score", "x", "--table", "excel"], "'nih', 'chexpert', 'rsna', 'mimic' or 'padchest'"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_right(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["orchestrator", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err


def test_find_lr_takes_of_a_trainings_job_file_what_it_uses(ask: Ask) -> None:
    Path("t.yaml").write_text(
        "{name: t, kind: train, args: {data: x, out: models/m, overwrite: true, features: live, "
        "finetune: all, lr: 0.5, gamma: 1.5}}"
    )
    spec = ask("find-lr", "-c", "t.yaml", "--views", "3").spec
    assert (spec.gamma, spec.views, spec.data) == (1.5, 3, str(Path("x").absolute()))
    assert (spec.out, spec.overwrite, spec.features, spec.finetune) == (
        None,
        False,
        "cached",
        "none",
    )
    Path("t.yaml").write_text("{name: t, kind: tune, args: {data: x}}")
    with pytest.raises(SpecError, match="is a tune job; run it with `orchestrator tune`"):
        ask("find-lr", "-c", "t.yaml")


def leave_unfinished(kind: str, spec: Any) -> Path:
    """A run that its work has left by an exception."""
    folder = Path("runs", kind).absolute()
    with (
        pytest.raises(RuntimeError),
        open_run(kind, folder, spec, Resources(workers=2)),
    ):
        raise RuntimeError("killed")
    return folder


@pytest.mark.parametrize("kind", SPECS)
def test_a_run_is_continued_by_its_own_command_and_refused_by_others(kind: str, ask: Ask) -> None:
    data = str(Path.cwd())
    required = {"input": [data]} if kind == "score" else {"data": data}
    required |= {"model": data} if kind in ("recalibrate", "quantize") else {}
    required |= {"live": data, "candidate": data} if kind == "models-compare" else {}
    spec = SPECS[kind].model_validate(required | {"seed": 5})
    folder = leave_unfinished(kind, spec)
    asked = ask(*command_of(kind).split(), "--resume", f"runs/{kind}", "--workers", "1")
    assert asked.spec == spec.model_copy(update={"out": str(folder)})
    assert (asked.resources.workers, asked.run_folder) == (1, folder)
    for other in set(SPECS) - {kind}:
        with pytest.raises(SpecError, match=f"is a run of {kind}; continue it with `orchestrator"):
            ask(*command_of(other).split(), "--resume", f"runs/{kind}")
    for besides in ([data], ["-c", f"runs/{kind}/spec.yaml"]):
        with pytest.raises(SpecError, match="leave out -c and the data"):
            ask(*command_of(kind).split(), *besides, "--resume", f"runs/{kind}")


def test_an_ingest_is_continued_by_the_same_command(ask: Ask) -> None:
    leave_unfinished("ingest", IngestSpec(input="x", out="y", image_size=64))
    message = "is a run of ingest; continue it with the same `orchestrator ingest` command"
    with pytest.raises(SpecError, match=message):
        ask("train", "--resume", "runs/ingest")
