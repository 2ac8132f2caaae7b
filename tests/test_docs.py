"""README, docs/ and the headers of shipped files: links, commands, flags, files, tables, codes.

Each statement that a machine can hold against the program is held against it.
"""

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.config.job import Job
from orchestrator.data import schema
from orchestrator.data.decode.images import REJECTION_CODES
from orchestrator.data.decode.rules import DECODE_NOTES, GREY_RULES
from orchestrator.data.limits import Limits
from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.review_rule import REVIEW_REASONS
from orchestrator.evaluation.scope import SCOPE_CODES
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Files whose header comments say how to use them.
SHIPPED = [
    *sorted((ROOT / "jobs").glob("*.yaml")),
    ROOT / "cluster.yaml",
    ROOT / "deploy" / "cluster-aws.yaml",
]
# Documented commands that need neither images nor a model nor Ray.
WITHOUT_DATA = (
    ("--version",),
    ("--help",),
    ("cluster", "check"),
    ("cluster", "kuberay"),
    ("jobs", "validate"),
    ("schedule", "list"),
    ("schedule", "next"),
)
ROOM = re.compile(r"(?:orchestrator|docs|jobs|deploy|tests|benchmarks)/[\w./-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- links --------------------------------------------------------------------------------------


def prose(path: Path) -> str:
    """Returns a page without its fenced blocks."""
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", prose(page))
        waiting += [(page.parent / name).resolve() for name in links if "://" not in name]
    assert set(PAGES) <= seen


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_of_the_project_exist(page: Path) -> None:
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        if ROOM.fullmatch(span):
            assert (ROOT / span).exists(), span


# --- commands -----------------------------------------------------------------------------------


def leaves(
    command: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the words and the command of every command of the program."""
    command = command or typer.main.get_command(app)
    for name, found in getattr(command, "commands", {}).items():
        if not found.hidden:
            yield from leaves(found, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


def words_of(line: str) -> list[list[str]]:
    """Returns the arguments of each call of `orchestrator` in a shell line."""
    calls: list[list[str]] = []
    current: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in ("|", "&&", ";", ">", "||"):
            current.append(word)
            continue
        while current and re.fullmatch(r"\w+=\S*", current[0]):
            current = current[1:]  # an environment variable
        if current and current[0].rpartition("/")[2] == "orchestrator":
            calls.append(current[1:])
        current = []
    return calls


def in_blocks(page: Path) -> list[list[str]]:
    """Returns the arguments of every call of `orchestrator` in the shell blocks of a page."""
    return [
        call
        for kind, block in FENCE.findall(page.read_text())
        if kind == "sh"
        for line in block.replace("\\\n", " ").splitlines()
        for call in words_of(line)
    ]


def documented(path: Path) -> list[list[str]]:
    """Returns the arguments of every call of `orchestrator` that a page or a header shows."""
    text = path.read_text()
    if path.suffix == ".md":
        spans = re.findall(r"`(orchestrator [^`\n]+)`", prose(path))
        blocks = [block for kind, block in FENCE.findall(text) if not kind]
        samples = [line for block in blocks for line in re.findall(r"(?m)^\$ (.+)$", block)]
        return in_blocks(path) + [call for line in spans + samples for call in words_of(line)]
    header = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    shown = re.findall(r"(?<!`)\borchestrator +(?! )[^`\n]+", header.replace("\\\n", " "))
    shown += re.findall(r"`(orchestrator [^`]+)`", header)
    # What follows a gap explains.
    lines = [re.split(r" {3,}", line.strip())[0] for line in shown]
    return [call for line in lines for call in words_of(line)]


def parse(words: list[str]) -> None:
    """Parses arguments as the program would; runs nothing."""
    command, rest = typer.main.get_command(app), list(words)
    name = "orchestrator"
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"no command {name} in {' '.join(words)}"
        command = command.commands[name]
    try:
        command.make_context(name, rest)
    except Exception as error:
        kind = type(error).__name__
        # `--help` ends the parsing; a name alone, as in a table, lacks what a call would need.
        if not (kind == "Exit" or (kind == "MissingParameter" and not rest)):
            raise AssertionError(f"{' '.join(words)}: {kind}: {error}") from error


@pytest.mark.parametrize("path", [*PAGES, *SHIPPED], ids=page_id)
def test_documented_commands_and_flags_exist(path: Path) -> None:
    for words in documented(path):
        parse(words)


def test_the_parser_of_this_test_refuses_what_does_not_exist() -> None:
    for words in (
        ["no-such"],
        ["train", "x", "--no-such"],
        ["jobs", "no-such"],
        ["score", "--seed"],
    ):
        with pytest.raises(AssertionError):
            parse(words)
    assert words_of("A=1 .venv/bin/orchestrator jobs list --limit 3 | cat  # text") == [
        ["jobs", "list", "--limit", "3"]
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_flags_that_are_named_alone_exist(page: Path) -> None:
    known = {flag for _, command in leaves() for p in command.params for flag in p.opts}
    known |= {flag for p in typer.main.get_command(app).params for flag in p.opts} | {"--help"}
    for span in re.findall(r"`(--[a-z][^`\n]*)`", prose(page)):
        for flag in re.findall(r"(?<!\S)--[a-z-]+", span):
            assert flag in known, flag


def test_every_command_is_documented() -> None:
    shown = {tuple(words) for path in PAGES for words in documented(path)}
    for path, _ in leaves():
        assert any(words[: len(path)] == path for words in shown), " ".join(path)


def test_documented_commands_without_data_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})  # the shipped jobs ask for two
    calls = {tuple(words) for page in PAGES for words in in_blocks(page)}
    ran = set()
    for words in sorted(calls):
        kind = next((kind for kind in WITHOUT_DATA if words[: len(kind)] == kind), None)
        if kind is not None:
            done = CliRunner().invoke(app, list(words))
            assert done.exit_code == 0, f"{' '.join(words)}: {done.output}"
            ran.add(kind)
    assert ran == set(WITHOUT_DATA)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_job_files_that_are_shown_are_valid(page: Path) -> None:
    for kind, block in FENCE.findall(page.read_text()):
        if kind == "yaml":
            Job.model_validate(yaml.safe_load(block))


def test_pre_commit_runs_what_make_check_runs() -> None:
    target = (ROOT / "Makefile").read_text().partition("\ncheck: setup\n")[2].partition("\n\n")[0]
    checks = [line.strip().replace("$(BIN)/", ".venv/bin/") for line in target.splitlines()]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == checks
    assert len(checks) >= 3


# --- tables -------------------------------------------------------------------------------------


def rows_under(page: Path, heading: str) -> list[list[str]]:
    """Returns the cells of the first table under a heading, without its header."""
    text = page.read_text().partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_troubleshooting_names_every_rejection_code_and_no_other() -> None:
    rows = rows_under(ROOT / "docs" / "troubleshooting.md", "## Rejection codes")
    assert [row[0].strip("`") for row in rows] == list(REJECTION_CODES)
    assert all(len(row) == 3 and all(row) for row in rows)


def test_exit_codes_are_those_of_the_program() -> None:
    kinds = [OrchestratorError, *OrchestratorError.__subclasses__()]
    expected = {0, *(kind.exit_code for kind in kinds)}
    expected |= {128 + signal.SIGINT, 128 + signal.SIGTERM}
    rows = rows_under(ROOT / "docs" / "troubleshooting.md", "## Exit codes")
    assert {int(row[0]) for row in rows} == expected
    shown = re.findall(r"(?m)^\| ([\d, ]+) \|", (ROOT / "README.md").read_text())
    assert {int(code) for codes in shown for code in codes.split(", ")} == expected - {1}


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("### predictions", schema.PREDICTIONS),
        ("### rejected.parquet", schema.REJECTED),
        ("### manifest.parquet", schema.MANIFEST),
        ("### known.parquet", schema.KNOWN),
    ],
)
def test_columns_and_types_are_those_of_the_tables(heading: str, expected: pa.Schema) -> None:
    rows = rows_under(ROOT / "docs" / "scoring.md", heading)
    shown = [(row[0].strip("`"), pa.type_for_alias(row[1])) for row in rows]
    assert shown == [(field.name, field.type) for field in expected]


@pytest.mark.parametrize(
    ("heading", "words"),
    [("## From stored values to grey", GREY_RULES), ("### Notes", DECODE_NOTES)],
)
def test_formats_names_every_grey_rule_and_note(heading: str, words: dict[str, str]) -> None:
    rows = rows_under(ROOT / "docs" / "formats.md", heading)
    assert [row[0].strip("`") for row in rows] == list(words)


def test_scoring_names_every_code_of_an_image_out_of_scope() -> None:
    rows = rows_under(ROOT / "docs" / "scoring.md", "## Images out of scope")
    assert [row[0].strip("`") for row in rows] == list(SCOPE_CODES)


def test_scoring_names_every_reason_for_a_review() -> None:
    rows = rows_under(ROOT / "docs" / "scoring.md", "## What a person should look at")
    assert rows[0][0] == "`--accept-error 0.02`"
    named = re.findall(r"(?m)^\| `([a-z_]+)` \| (.*) \|$", (ROOT / "docs/scoring.md").read_text())
    assert set(REVIEW_REASONS.items()) <= set(named)


def test_limits_on_one_file_are_the_defaults() -> None:
    rows = rows_under(ROOT / "docs" / "formats.md", "## Limits on one file")
    shown = {row[0].strip("`"): float(row[1].split()[0].replace(",", "")) for row in rows}
    limits = vars(Limits())
    assert shown == {f"--{name.replace('_', '-')}": value for name, value in limits.items()}
