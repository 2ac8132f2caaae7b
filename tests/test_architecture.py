"""The import rules of the package: who may import ray, keras, and whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "orchestrator"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Layer -> layers it may import. A layer is a folder, or a module at the top.
ALLOWED = {
    "errors": set(),
    "run_dir": {"errors"},
    "spec": {"errors", "schedule.ticks"},  # a cron expression is checked where the file is read
    "progress": set(),
    "state": set(),
    "terminal": {"progress"},
    "data": {"errors", "run_dir", "spec", "progress"},
    "evaluation": {"errors", "data.schema"},
    "model": {"data", "evaluation", "errors", "run_dir", "spec", "progress"},
    "cluster": {"model", "data", "evaluation", "errors", "run_dir", "spec", "progress", "state"},
    "schedule": {"errors", "run_dir", "spec", "progress"},
    # What joins the cluster and the schedule, which do not know each other.
    "job_view": {"cluster", "schedule", "errors", "run_dir"},
    "job_run": {"job_view", "cluster", "schedule", "errors", "run_dir", "spec"},
    "cluster_store": {"cluster", "schedule", "errors", "run_dir", "spec"},
}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer.endswith("cli") or layer in ("__init__", "__main__"):
        return
    for name in imports_of(path):
        if not name.startswith("orchestrator.") or name == "orchestrator.__version__":
            continue
        parts = name.split(".")[1:]
        if parts[0] == layer:
            continue
        dotted = ".".join(parts[:2])
        assert parts[0] in ALLOWED[layer] or dotted in ALLOWED[layer], f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "only_in"),
    [("ray", "cluster"), ("keras", "model"), ("tensorflow", "model")],
)
def test_heavy_packages_have_one_importer(package: str, only_in: str) -> None:
    for path in MODULES:
        if any(name.split(".")[0] == package for name in imports_of(path)):
            assert layer_of(path) == only_in, f"{path} imports {package}"


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
