"""The command line as a user meets it: exit codes, one-line errors, JSON on standard output."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app as cli
from orchestrator.errors import BundleError, ClusterError, DataError, SpecError
from tests.conftest import ROOT


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
        (["train", "nowhere", "--lr", "-1"], 2, "lr='-1': Input should be greater than 0"),
        (["train", "nowhere", "--backbone", "vgg20"], 2, "unknown backbone 'vgg20'"),
        (["train", "-c", "nope.yaml"], 2, "cannot read nope.yaml: No such file"),
        (["train"], 2, "data is required"),
        (["score", "."], 2, "no model was named and there is none under"),
        (["score", ".", "--model", "nowhere"], 4, "nowhere does not exist; expected a bundle"),
        (["score", ".", "--only-new"], 2, "only_new needs out_root"),
        (["score", "--resume", "nowhere"], 2, "nowhere holds no run; name a folder such as"),
        (["score", ".", "--resume", "x"], 2, "--resume takes its spec from the run; leave out"),
        (["score"], 2, "input is required"),
        (["score", ".", "--threshold", "f1"], 2, "a rule needs labelled images: `orchestrator rec"),
        (["score", ".", "--threshold", "1.5"], 2, "threshold='1.5': Input should be less than or"),
        (["recalibrate", "nowhere"], 2, "data is required"),
        (["recalibrate", "nowhere", "x"], 4, "nowhere does not exist; expected a bundle"),
        (["quantize", "m"], 2, "data is required"),
        (["recalibrate", "m", "x", "--threshold", "f1-shifted"], 2, "in training alone; give f1"),
        (["find-lr", "nowhere", "--backbone", "vgg20"], 2, "unknown backbone 'vgg20'"),
        (["compare", "nowhere", "--limit", "3"], 2, "limit='3': Input should be greater than"),
        (["compare", "nowhere", "--backbones", "vgg19,vgg20"], 2, "unknown backbone 'vgg20'"),
        (["compare"], 2, "data is required"),
        (["inspect", "."], 4, "holds no bundle.json"),
        (["train", "nowhere", "--backbone", "tiny", "--weights", "none"], 3, "does not exist"),
        (["find-lr", "nowhere"], 3, "does not exist; name a folder of X-rays"),
        (["compare", "nowhere"], 3, "does not exist; name a folder of X-rays"),
        (["tune", "nowhere"], 3, "does not exist; name your folder of X-rays"),
        (["ingest", "nowhere", "out"], 3, "does not exist; name a folder of X-rays"),
        (["submit", "nope.yaml"], 2, "cannot read nope.yaml: No such file"),
        (["schedule", "run", "--jobs", "nowhere"], 2, "--jobs nowhere is not a folder"),
        (["cluster", "check", "nope.yaml"], 2, "cannot read nope.yaml: No such file"),
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
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: j, kind: train, args: {data: d, epoch: 3}}", "unknown key epoch"),
        ("{name: j, kind: train, args: {data: d, epochs: [3]}}", "epochs=[3]"),
        ("{name: j, kind: train, args: {data: !!python/name:os.system }}", "line 1: the tag"),
        (
            "{name: j, kind: train, args: {data: d, backbone: resnet9}}",
            "unknown backbone 'resnet9'",
        ),
    ],
)
def test_a_bad_job_file_is_one_line_and_exit_2(
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("j.yaml").write_text(text)
    code, out, err = call(capsys, monkeypatch, "train", "-c", "j.yaml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no files"),
        (["NORMAL/a.jpg", "NORMAL/b.jpg"], "all labelled images are NORMAL"),
        (["a.jpg", "b.jpg"], "no image has a label"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_one_line_and_exit_3(
    files: list[str],
    message: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    image = next(phantoms.rglob("*.jpeg")).read_bytes()
    Path("in").mkdir()
    for name in files:
        path = Path("in", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    arguments = ["train", "in", "--backbone", "tiny", "--weights", "none", "--image-size", "64"]
    code, out, err = call(capsys, monkeypatch, *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (3, "", 1)
    assert message in errors[0]
    assert "Traceback" not in err


def _change_a_byte(bundle: Path) -> None:
    data = bytearray((bundle / "openvino.bin").read_bytes())
    data[1000] ^= 1
    (bundle / "openvino.bin").write_bytes(data)


def _add_a_pickle(bundle: Path) -> None:
    (bundle / "weights.pkl").write_bytes(b"x")


def _name_an_h5_model(bundle: Path) -> None:
    described = json.loads((bundle / "bundle.json").read_text())
    (bundle / "model.keras").rename(bundle / "model.h5")
    described["files"]["model.h5"] = described["files"].pop("model.keras")
    (bundle / "bundle.json").write_text(json.dumps(described))


def _add_a_lambda(bundle: Path) -> None:
    """Puts a Lambda layer into the network and fixes the hashes, as a forger would."""
    source = bundle / "model.keras"
    with zipfile.ZipFile(source) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    config = json.loads(contents["config.json"])
    config["config"]["layers"][1]["class_name"] = "Lambda"
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(source, "w") as new:
        for name, data in contents.items():
            new.writestr(name, data)
    described = json.loads((bundle / "bundle.json").read_text())
    entry = described["files"]["model.keras"]
    entry["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    entry["size_bytes"] = source.stat().st_size
    (bundle / "bundle.json").write_text(json.dumps(described))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_change_a_byte, "openvino.bin differs from what bundle.json records"),
        (_add_a_pickle, "holds weights.pkl, a kind of file that can run code"),
        (_name_an_h5_model, "does not list model.keras"),
        (_add_a_lambda, "Lambda"),
        (lambda bundle: (bundle / "bundle.json").write_text("{}"), "schema_version None"),
    ],
)
def test_a_spoilt_bundle_is_one_line_and_exit_4(
    spoil: Callable[[Path], object],
    message: str,
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.bundle, "bundle")
    spoil(tmp_path / "bundle")
    for arguments in (["score", ".", "--model", "bundle"], ["inspect", "bundle"]):
        code, out, err = call(capsys, monkeypatch, *arguments)
        assert (code, out, err.count("\n")) == (4, "", 1)
        assert message in err
    assert not Path("runs").exists()


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
def test_ingest_takes_the_size_of_the_newest_model(
    trained: SimpleNamespace,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, size_px in ((trained.folder, 64), (tmp_path, 150)):
        monkeypatch.chdir(folder)
        out = str(tmp_path / f"set{size_px}")
        code, shown, _ = call(capsys, monkeypatch, "ingest", str(phantoms), out, "--json")
        assert (code, json.loads(shown)["size_px"]) == (0, size_px)


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
    assert "Sensitivity (recall)" in shown
    assert str(out / "report.html") in shown
    assert "rejected" in shown


def test_inspect_and_a_small_scoring_need_neither_ray_nor_keras(
    trained: SimpleNamespace, phantoms: Path, tmp_path: Path
) -> None:
    image = str(next(phantoms.rglob("*.jpeg")))
    out = str(tmp_path / "run")
    calls = [["inspect", str(trained.bundle)]]
    calls += [["score", image, "--model", str(trained.bundle), "--out", out]]
    code = (
        "import sys\n"
        "from orchestrator.cli.app import app\n"
        f"for call in {calls}:\n"
        "    try:\n        app([*call, '--json'])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "sys.exit(str({'keras', 'tensorflow', 'ray'} & set(sys.modules) or '') or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"backbone": "tiny"' in done.stdout
    assert '"scored": 1' in done.stdout


@pytest.mark.parametrize("words", [["ingest", "in", "out"], ["jobs", "list"], ["jobs", "plan"]])
def test_a_cluster_that_is_gone_is_one_line_and_exit_5_soon(
    words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpeg").write_bytes(b"no image")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "j.yaml").write_text("{name: j, kind: score, args: {input: ../in}}")
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
        )
    assert time.monotonic() - began < 30
    assert (done.returncode, done.stdout) == (5, "")
    problem, *kept = done.stderr.splitlines()
    assert problem.startswith(f"error: no Ray cluster answers at {address} (Connection refused)")
    assert len(kept) == (words[0] == "ingest")  # where what is done is kept
