"""Bad files, odd names and patient data, from the folder to the run's tables and report."""

import contextlib
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import uid
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data.decode.rules import GREY_RULES
from orchestrator.data.manifest import load_manifest
from orchestrator.data.schema import CLASS_NAMES, unescape_path
from orchestrator.hospital.audit import write_audit_bundle
from orchestrator.hospital.export import export_results
from orchestrator.pipelines.review.corrections import import_corrections
from orchestrator.pipelines.review.worklist import write_worklist
from orchestrator.pipelines.score.score import score
from tests.conftest import Recorder
from tests.data.field.bombs import BOMBS
from tests.data.make_canaries import CANARY, make_canary_files, with_syntax
from tests.data.make_images import (
    DICOM_WAYS,
    PICTURE_WAYS,
    make_chest,
    make_dataset,
    save,
    to_bytes,
    write_dicom,
    write_picture,
)

pytestmark = pytest.mark.ray


class Deleter(Recorder):
    """Deletes a file after the listing and before the first read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def begin(self, label: str, total: int, unit: str) -> None:
        super().begin(label, total, unit)
        self._path.unlink()


def run_score(
    trained: SimpleNamespace,
    source: Path,
    out: Path,
    recorder: Recorder,
    resources: Resources | None = None,
    **fields: Any,
) -> Any:
    spec = ScoreSpec(input=str(source), model=str(trained.bundle), out=str(out), **fields)
    return score(spec, resources or Resources(), recorder)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def write_good(folder: Path) -> None:
    rng = np.random.default_rng(5)
    for index in range(20):
        noisy = make_chest() // 2 + rng.integers(0, 120, (96, 96), dtype=np.uint8)
        (folder / f"good{index:02}.png").write_bytes(save(Image.fromarray(noisy), "PNG"))


def _without_pixels(chest: np.ndarray) -> bytes:
    data_set = make_dataset(chest, 8)
    del data_set.PixelData
    return to_bytes(data_set)


def _directory() -> bytes:
    data_set = make_dataset(make_chest(), 8)
    del data_set.PixelData
    sop_class = uid.MediaStorageDirectoryStorage
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID = sop_class
    return to_bytes(data_set)


def write_bad(folder: Path, outside: Path) -> dict[bytes, str | None]:
    """Writes one of each bad file; returns the expected code by raw path, None where it is good."""
    chest = make_chest()
    jpeg, png = write_picture(chest, "jpeg"), write_picture(chest, "png")
    crc = bytearray(png)
    crc[png.index(b"IDAT") + 20] ^= 0xFF
    bomb_header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + bomb_header
    bomb = png[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    (outside / "secret.png").write_bytes(png)
    contents: dict[bytes, tuple[bytes, str | None]] = {
        b"zero.jpg": (b"", "empty_file"),
        b"half.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        b"crc.png": (bytes(crc), "damaged"),
        b"text.jpg": (b"Dear colleague,\n", "not_an_image"),
        b"precincts.dcm": (BOMBS["precincts"](), "too_many_parts"),
        b"strips.tif": (BOMBS["strips"](), "too_many_parts"),
        b"bomb.png": (bomb, "too_many_pixels"),
        b"moving.gif": (write_picture(chest, "gif animated"), None),
        b"pages.tif": (write_picture(chest, "tiff pages"), None),
        b"latin\xe9.png": (png, None),
        b"new\nline.png": (png, None),
        b"<img onerror=alert(1)>.png": (png, None),
        b"<img onerror=alert(2)>.jpg": (b"", "empty_file"),
        b"=cmd.png": (png, None),
        b'quote".png': (png, None),
        b"no-preamble.dcm": (write_dicom(chest, "no preamble"), None),
        b"no-pixels.dcm": (_without_pixels(chest), "dicom_not_an_image"),
        b"syntax.dcm": (
            with_syntax(write_dicom(chest, "monochrome2"), uid.HTJ2KLossless),
            "dicom_syntax",
        ),
        b"huge.dcm": (
            to_bytes(make_dataset(chest[:4, :4], 8, Rows=65535, Columns=65535)),
            "too_many_pixels",
        ),
        b"DICOMDIR": (_directory(), "dicom_directory"),
        b"deleted.png": (png, "missing_file"),
    }
    root = os.fsencode(folder)
    for name, (data, _) in contents.items():
        Path(os.fsdecode(root + b"/" + name)).write_bytes(data)
    (folder / "loop").symlink_to(folder)
    (folder / "out.png").symlink_to(outside / "secret.png")
    os.mkfifo(folder / "pipe.png")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(folder / "socket.png"))
    expected = {name: code for name, (_, code) in contents.items()}
    expected |= {
        b"loop": "link_loop",
        b"out.png": "link_outside_root",
        b"pipe.png": "not_a_file",
        b"socket.png": "not_a_file",
    }
    if os.geteuid() != 0:
        (folder / "locked.png").write_bytes(png)
        (folder / "locked.png").chmod(0)
        expected[b"locked.png"] = "unreadable"
    return expected


@pytest.fixture(scope="module")
def hostile(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run over 20 good files among every kind of bad one, and a clean run of the good ones."""
    folder, outside, clean, runs = (tmp_path_factory.mktemp(n) for n in ("in", "out", "ok", "runs"))
    write_good(clean)
    write_good(folder)
    expected = write_bad(folder, outside)
    result = run_score(trained, folder, runs / "bad", Deleter(folder / "deleted.png"))
    return SimpleNamespace(
        run=result.run,
        report=result.report,
        expected=expected,
        clean=run_score(trained, clean, runs / "clean", Recorder()).run,
    )


def test_every_file_has_exactly_one_row_with_its_code(hostile: SimpleNamespace) -> None:
    scored = rows_of(hostile.run / "predictions")
    rejected = rows_of(hostile.run / "rejected.parquet")
    found: dict[bytes, str | None] = {unescape_path(row["path"]): None for row in scored}
    found |= {unescape_path(row["path"]): row["code"] for row in rejected}
    good = {b"good%02d.png" % index: None for index in range(20)}
    assert found == hostile.expected | good
    assert len(scored) + len(rejected) == len(found) == hostile.report["counts"]["found"]
    assert all(row["message"].endswith(".") and "\n" not in row["message"] for row in rejected)


def test_good_rows_equal_those_of_a_clean_run(hostile: SimpleNamespace) -> None:
    keys = (
        "path",
        "sha256",
        "grey_rule",
        "logit",
        "probability",
        "predicted",
        "width_px",
        "height_px",
    )
    kept = [{k: r[k] for k in keys} for r in rows_of(hostile.run / "predictions")]
    clean = [{k: r[k] for k in keys} for r in rows_of(hostile.clean / "predictions")]
    assert [row for row in kept if row["path"].startswith("good")] == clean


def test_odd_names_are_escaped_in_tables_and_in_the_report(hostile: SimpleNamespace) -> None:
    paths = {row["path"] for row in rows_of(hostile.run / "predictions")}
    assert {"latin\\xe9.png", "new\\x0aline.png", "=cmd.png", 'quote".png'} <= paths
    html = (hostile.run / "report.html").read_text()
    assert "<img onerror" not in html
    assert "&lt;img onerror=alert(2)&gt;.jpg" in html
    manifest = load_manifest(hostile.run / "manifest.parquet").table
    assert set(manifest["path"].to_pylist()) >= paths


# What the probability may move, per kind of writing: the pixels differ by the stated grey levels.
TOLERANCE = 0.02
LOSSY_TOLERANCE = 0.05


def test_one_image_in_many_ways_scores_alike(trained: SimpleNamespace, tmp_path: Path) -> None:
    chest = make_chest()
    folder = tmp_path / "ways"
    folder.mkdir()
    for way in PICTURE_WAYS:
        (folder / f"picture {way}").write_bytes(write_picture(chest, way))
    for way in DICOM_WAYS:
        (folder / f"dicom {way}").write_bytes(write_dicom(chest, way))
    result = run_score(trained, folder, tmp_path / "run", Recorder())
    assert rows_of(result.run / "rejected.parquet") == []
    rows = {row["path"]: row["probability"] for row in rows_of(result.run / "predictions")}
    assert len(rows) == len(PICTURE_WAYS) + len(DICOM_WAYS) >= 16
    decoding = result.report["decoding"]
    assert sum(decoding["grey_rules"].values()) == len(rows)
    assert set(decoding["grey_rules"]) == set(GREY_RULES) - {"pixel_range"}
    assert decoding["notes"] == {}
    reference = rows["picture png"]
    for path, probability in rows.items():
        kind, way = path.split(" ", 1)
        levels = (PICTURE_WAYS if kind == "picture" else DICOM_WAYS)[way]
        allowed = 1e-6 if levels == 0 else TOLERANCE if levels == 1 else LOSSY_TOLERANCE
        assert probability == pytest.approx(reference, abs=allowed), path


def test_no_header_text_reaches_run_logs_or_terminal(
    trained: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    folder = tmp_path / "in"
    folder.mkdir()
    files = make_canary_files(make_chest())
    for number, data in enumerate(files.values()):
        of_class = folder / CLASS_NAMES[number % 2]  # so that the report compares groups too
        of_class.mkdir(exist_ok=True)
        (of_class / f"{number:02}.dcm").write_bytes(data)
    recorder = Recorder()
    runs = tmp_path / "runs"
    # By a worker, whose logs are searched too.
    result = run_score(
        trained,
        folder,
        runs / "run",
        recorder,
        Resources(workers=1),
        dicom_columns=True,
        heatmaps=3,
    )
    counts = result.report["counts"]
    assert counts["found"] == len(files)
    assert counts["rejected"] >= len(files) - 6
    scored = rows_of(result.run / "predictions")
    for row in scored:
        assert row["patient_id"].startswith("hmac:")
        assert row["modality"] == row["view_position"] == row["body_part"] == "OTHER"
        assert row["manufacturer"] is row["device_model"] is row["age_years"] is None
    for part in ("subgroups", "scope", "drift", "heatmaps"):
        assert result.report[part], part
    worklist = write_worklist(result.run, 20, recorder)
    answers = [f"{row['row']},{row['sha256']},PNEUMONIA,\n" for row in scored]
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("row,sha256,answer,reviewed_at\n" + "".join(answers))
    corrected = import_corrections(result.run, corrections)
    metrics = runs / "orchestrator.prom"
    drawn = CliRunner().invoke(
        app, ["runs", "report", str(runs), "--metrics-file", str(metrics)], catch_exceptions=False
    )
    exported = export_results(result.run, runs / "dicom", None, recorder)
    assert exported.left_out == {"unusable": counts["scored"]}  # their UIDs are canaries too
    audit = write_audit_bundle(result.run, tmp_path / "audit.zip")
    with zipfile.ZipFile(audit.path) as archive:
        archive.extractall(runs / "audit")
    held = {path for path in (runs / "audit").rglob("*") if path.is_file()}
    assert len(held) == len(audit.files) == 8
    for word in ("hmac:", str(folder)):
        assert not [path for path in held if word.encode() in path.read_bytes()], word
    made = [worklist.page, corrected.corrections, metrics, runs / "report.html", result.run]
    assert all(path.exists() for path in made)
    shown = capfd.readouterr()
    said = "\n".join(recorder.lines) + drawn.output + repr((result, corrected, exported, audit))
    assert CANARY not in said + shown.out + shown.err
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    searched = 0
    for place in (runs, logs):
        for path in place.rglob("*"):
            if path.is_file():
                searched += 1
                assert CANARY.encode() not in path.read_bytes(), path
    assert searched > 10


def test_hashed_paths_leave_no_name_behind(trained: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "ward"
    folder.mkdir(parents=True)
    (folder / "person7_virus_1.png").write_bytes(write_picture(make_chest(), "png"))
    (folder / "jane-doe.jpg").write_bytes(b"no image")
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    fields = {"hash_paths": True, "patient_key_file": str(key)}
    first = run_score(trained, tmp_path / "in", tmp_path / "run", Recorder(), **fields)
    again = run_score(trained, tmp_path / "in", tmp_path / "again", Recorder(), **fields)
    other = run_score(trained, tmp_path / "in", tmp_path / "other", Recorder(), hash_paths=True)
    (row,) = rows_of(first.run / "predictions")
    assert row["path"].startswith("hmac:")
    assert row["patient_id"].startswith("hmac:")
    assert row["path"] == rows_of(again.run / "predictions")[0]["path"]
    assert row["path"] != rows_of(other.run / "predictions")[0]["path"]
    for path in first.run.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(name in content for name in (b"jane-doe", b"person7", b"ward")), path
