from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import DataError
from tests.data.known.runs import make_nights


def prune(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["runs", "prune", *arguments])


def test_prune_names_what_goes_before_it_goes(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    make_nights(root, tmp_path / "in", 14)
    done = prune("--keep", "2", str(root))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"removing {root / 'r1'}"
    assert lines[-2:] == [
        f"removing 2 more, the last of them {root / 'r12'}",
        "12 finished scoring runs go, 2 stay",
    ]
    assert "indexing what 14 runs" in done.stderr
    assert sorted(path.name for path in root.iterdir()) == ["_known", "r13", "r14"]
    assert prune("--keep", "2", str(root)).stdout == "0 finished scoring runs go, 2 stay\n"


def test_prune_keeps_one_at_least_and_needs_a_folder(tmp_path: Path) -> None:
    make_nights(tmp_path / "runs", tmp_path / "in", 2)
    assert prune(str(tmp_path / "runs")).exit_code == 2  # how many to keep is never guessed
    assert prune("--keep", "0", str(tmp_path / "runs")).exit_code == 2
    assert (tmp_path / "runs" / "r1").is_dir()
    assert isinstance(prune("--keep", "1", str(tmp_path / "none")).exception, DataError)
