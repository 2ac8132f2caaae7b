"""The command line as a user meets it: exit codes, one-line errors, JSON on standard output."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.errors import BundleError, ClusterError, DataError, SpecError


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Runs `orchestrator ARGUMENTS` in this process; returns exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["orchestrator", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    code = end.value.code
    return (code if isinstance(code, int) else 0), shown.out, shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nowhere", "--lr", "-1"], 2, "lr=-1.0: Input should be greater than 0"),
        (["train", "nowhere", "--backbone", "vgg20"], 2, "unknown backbone 'vgg20'"),
        (["train", "-c", "nope.yaml"], 2, "cannot read nope.yaml: No such file"),
        (["train"], 2, "data is required"),
        (["score", "."], 2, "no model was named and there is none under"),
        (["score", ".", "--model", "nowhere"], 4, "nowhere does not exist; expected a bundle"),
        (["inspect", "."], 4, "holds no bundle.json"),
        (["train", "nowhere", "--backbone", "tiny", "--weights", "none"], 3, "does not exist"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = call(capsys, monkeypatch, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {e.__name__: e.exit_code for e in (SpecError, DataError, BundleError, ClusterError)}
    assert codes == {"SpecError": 2, "DataError": 3, "BundleError": 4, "ClusterError": 5}


def test_a_job_file_of_another_kind_names_the_right_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "j.yaml").write_text("{name: j, kind: score, args: {input: x}}")
    code, _, err = call(capsys, monkeypatch, "train", "-c", str(tmp_path / "j.yaml"))
    assert code == 2
    assert "is a score job; run it with `orchestrator score`" in err


def test_version_and_help() -> None:
    runner = CliRunner()
    assert runner.invoke(cli.app, ["--version"]).output.strip() == "0.1.0"
    help_text = runner.invoke(cli.app, ["--help"]).output
    for command in ("train", "score", "ingest", "inspect", "demo", "doctor"):
        assert command in help_text


@pytest.mark.ray
def test_score_prints_one_json_object_and_progress_apart(
    trained: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained.folder)
    monkeypatch.setattr(sys, "argv", ["orchestrator", "score", str(phantoms), "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert end.value.code == 0
    report = json.loads(shown.out)
    assert report["counts"]["found"] == report["counts"]["scored"] == 160
    assert Path(report["out"]).parent == trained.folder / "runs"
    assert "scoring: 160 images" in shown.err


@pytest.mark.ray
def test_score_ends_with_tables_of_counts_and_metrics(
    trained: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    code, shown, _ = call(
        capsys,
        monkeypatch,
        *("score", str(phantoms), "--model", str(trained.bundle), "--out", str(out)),
    )
    assert code == 0
    assert "sensitivity (recall)" in shown
    assert str(out / "report.html") in shown
    assert "rejected" in shown


def test_inspect_needs_no_keras(trained: SimpleNamespace) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli import app\n"
        f"try:\n    app(['inspect', {str(trained.bundle)!r}, '--json'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "sys.exit(str({'keras', 'tensorflow', 'ray'} & set(sys.modules) or '') or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backbone"] == "tiny"
