"""What the import contracts in `pyproject.toml` cannot say, and that they do fail where broken."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "orchestrator"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Of Ray, what a room may import besides `cluster/`, which may import all of it.
PARTS_OF_RAY = {
    "pipelines/tune": ("ray.tune",),
    "jobs": ("ray.dashboard.utils", "ray.exceptions", "ray.job_submission", "ray.util.state"),
}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(("room", "parts"), PARTS_OF_RAY.items())
def test_a_room_imports_its_own_parts_of_ray(room: str, parts: tuple[str, ...]) -> None:
    found = {
        name
        for path in (PACKAGE / room).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] == "ray"
    }
    assert found, f"{room} imports nothing of ray; take it off the list"
    assert not [name for name in found if not f"{name}.".startswith(tuple(f"{p}." for p in parts))]


def test_standard_streams_are_written_where_names_are_made_printable() -> None:
    # The supervisor's one line holds a number.
    allowed = {PACKAGE / "cli" / "output.py", PACKAGE / "jobs" / "local_head_supervisor.py"}
    written = {path for path in MODULES if re.search(r"sys\.std(out|err)\.write", path.read_text())}
    assert written == allowed


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_import_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("data/schema.py", "orchestrator.cli.terminal", "Rooms import downward only"),
        ("pipelines/train/release.py", "orchestrator.jobs.view", "Rooms import downward only"),
        ("data/limits.py", "orchestrator.data.decode.images", "No circle among"),
        ("cluster/shards.py", "keras.ops", "in model/ alone"),
        ("pipelines/train/train.py", "ray.train", "Ray in cluster/"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    module: str, planted: str, broken: str, tmp_path: Path
) -> None:
    package = tmp_path / "orchestrator"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "templates"))
    with (package / module).open("a") as file:
        file.write(f"\n\ndef planted() -> None:\n    import {planted}\n")

    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    done = lint(tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if broken in line and "BROKEN" in line]


def test_a_public_class_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: where for name, where in places.items() if len(where) > 1}


# Modules that write by other ways than `runs/atomic.py`, and what.
MAY_WRITE = {
    "cli/demo.py": "an empty mark of a folder that a demo may replace",
    "cluster/nodes.py": "an empty mark that other nodes look for",
    "data/known/prune.py": "a folder's name on its way out",
    "data/listing/remote_tables.py": "a temporary copy",
    "jobs/local_head.py": "locks, and Ray's log",
    "jobs/local_head_supervisor.py": "a lock",
    "model/fit.py": "a temporary folder, which Ray Train copies",
    "pipelines/train/head_loop.py": "the same folder",
    "runs/atomic.py": "what all others write by",
    "runs/lock.py": "a link, which one process alone can make",
}
_WRITES = {"write_text", "write_bytes", "touch", "rename", "replace", "hardlink_to", "symlink_to"}
_COPIES = {"copy", "copy2", "copyfile", "copytree", "move", "rename", "replace", "link"}


def writes_of(path: Path) -> Iterator[str]:
    """Calls that write to another place than the temporary one that `runs/atomic.py` gives."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        target, words = node.func.value, [ast.unparse(argument) for argument in node.args]
        name, on = node.func.attr, ast.unparse(target)
        if on in ("os", "shutil"):
            writes = name in _COPIES and words[1:2] != ["temporary"]
        elif name == "open":
            writes = bool(words) and words[0][:2] in ("'w", "'a", "'x") and on != "temporary"
        else:
            # One argument: the method of a text and of a date take other ones.
            takes = {"touch": 0, "write_text": 1, "write_bytes": 1}.get(name, 1)
            writes = name in _WRITES and len(words) == takes and not on.endswith("temporary")
        if writes:
            yield ast.unparse(node)


def test_what_lasts_is_written_whole_or_not_at_all() -> None:
    found = {str(path.relative_to(PACKAGE)): list(writes_of(path)) for path in MODULES}
    others = {name: calls for name, calls in found.items() if calls and name not in MAY_WRITE}
    assert not others, "write through runs/atomic.py, or say in MAY_WRITE why not"
    assert not [name for name in MAY_WRITE if not found[name]], "take it off the list"


def test_no_module_is_named_utils() -> None:
    assert not [p for p in MODULES if p.stem in ("utils", "util", "helpers", "common")]


@pytest.mark.parametrize("command", ["", "score", "train", "tune"])
def test_help_imports_neither_ray_nor_keras(command: str) -> None:
    arguments = [*command.split(), "--help"]
    code = (
        "import sys\n"
        "from orchestrator.cli.app import app\n"
        f"try:\n    app({arguments!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'ray', 'keras', 'tensorflow', 'openvino'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("folder", ["orchestrator", "tests", "benchmarks"])
def test_no_module_is_over_400_lines(folder: str) -> None:
    modules = list((ROOT / folder).rglob("*.py"))
    assert modules, f"there are no modules in {folder}"
    assert not [path for path in modules if num_lines(path) > 400], "divide it by subject"


def test_a_long_module_says_why_it_is_one() -> None:
    long = [path for path in MODULES if num_lines(path) > 300]
    unsaid = [
        path
        for path in long
        if "300 lines" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert not unsaid, "say why in the docstring, or divide it"
