"""Real X-rays as DICOM, scored; their results held against dciodvfy and put into a real Orthanc."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import config

from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.hospital.export import export_results
from orchestrator.pipelines.score.score import score
from tests.conftest import ROOT, Recorder, keep_in_process
from tests.fixtures.stored import unpack
from tests.hospital.make_run import write_xray
from tests.orthanc import PASSWORD, USER, Orthanc, run_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

NUM_STUDIES, NUM_IMAGES, NUM_HEATMAPS = 160, 200, 40
UTF_8 = {"SpecificCharacterSet": "ISO_IR 192"}
# What originals say besides an id: all of it, little of it, and in other letters.
PEOPLE: list[dict[str, str]] = [
    {},
    {"PatientSex": "", "PatientBirthDate": "", "AccessionNumber": "", "StudyTime": ""},
    {"PatientName": "Yamada^Tarou=山田^太郎", "StudyDescription": "Thorax", **UTF_8},
    {"PatientName": "Müller^Zoë", "SpecificCharacterSet": "ISO_IR 100"},
    {"PatientName": "", "StudyID": "", "ReferringPhysicianName": "", "PatientSex": "O"},
]


@pytest.fixture(scope="module")
def scored(public_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run over 200 full-size X-rays of 160 patients, 40 of whom have two images in a study."""
    folder = tmp_path_factory.mktemp("scored")
    unpack(folder / "v1")
    pictures = sorted((public_data / "fullres").rglob("*.jpeg"))
    for number, path in zip(range(NUM_IMAGES), cycle(pictures), strict=False):
        study = number % NUM_STUDIES
        write_xray(
            folder / "in" / f"{number:03}.dcm",
            number,
            study,
            pixels=np.asarray(Image.open(path).convert("L")),
            **PEOPLE[study % len(PEOPLE)],
        )
    with pytest.MonkeyPatch.context() as patch:
        keep_in_process(patch)
        spec = ScoreSpec(
            input=str(folder / "in"),
            model=str(folder / "v1" / "bundle"),
            out=str(folder / "run"),
            heatmaps=NUM_HEATMAPS,
        )
        result = score(spec, Resources(), Recorder())
    assert result.report["counts"]["scored"] == NUM_IMAGES
    yield SimpleNamespace(run=result.run, folder=folder, inputs=folder / "in")


@pytest.fixture(scope="module")
def exported(scored: SimpleNamespace) -> Path:
    out: Path = scored.folder / "out"
    result = export_results(scored.run, out, None, Recorder())
    assert (result.num_studies, result.num_pictures) == (NUM_STUDIES, NUM_HEATMAPS)
    assert result.written == NUM_STUDIES + NUM_HEATMAPS >= 50 and not result.left_out
    return out


def test_dciodvfy_finds_no_error(exported: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian's package dicom3tools)")
    faults = {}
    for path in sorted(exported.iterdir()):
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert "ComprehensiveSR" in said or "SCImage" in said
        if "Error" in said or done.returncode:
            faults[path.name] = said
    assert not faults


def test_each_is_written_again_by_the_strictest_rules(exported: Path) -> None:
    for path in exported.iterdir():
        read = pydicom.dcmread(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config.settings, "_writing_validation_mode", config.RAISE)
            patch.setattr(config.settings, "reading_validation_mode", config.RAISE)
            read.walk(lambda ds, element: element.value)
            read.save_as(BytesIO(), enforce_file_format=True)
        if path.name.startswith("sc-"):
            assert read.pixel_array.shape == (read.Rows, read.Columns, 3)


def test_each_is_of_its_own_patient_alone(exported: Path, scored: SimpleNamespace) -> None:
    own = {}
    for path in sorted(scored.inputs.iterdir()):
        original = pydicom.dcmread(path, stop_before_pixels=True)
        own.setdefault(original.StudyInstanceUID, original)
    for path in exported.iterdir():
        read = pydicom.dcmread(path)
        original = own[read.StudyInstanceUID]
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate"):
            assert str(read[keyword].value or "") == str(original[keyword].value or ""), keyword
        text = str(read)  # with all sequences
        for study, other in own.items():
            if study != read.StudyInstanceUID:
                assert f"'{other.PatientID}'" not in text
                assert f" {study}." not in text and f" {study}\n" not in text


# --- a real Orthanc -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(scored: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that holds the originals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICOMWEB_USERNAME", USER)
        patch.setenv("DICOMWEB_PASSWORD", PASSWORD)
        patch.setenv("NO_PROXY", "127.0.0.1")
        with run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
            for path in sorted(scored.inputs.iterdir()):
                server.store(path.read_bytes())
            yield server


def results_in(orthanc: Orthanc) -> list[dict[str, Any]]:
    """What a query for our results finds."""
    found = []
    for modality in ("SR", "OT"):
        found += orthanc.ask(f"/dicom-web/instances?Modality={modality}&limit=1000")
    return found


def test_results_killed_midway_and_sent_again_are_there_once(
    orthanc: Orthanc, scored: SimpleNamespace
) -> None:
    command = [sys.executable, "-m", "orchestrator", "export", str(scored.run)]
    process = subprocess.Popen(
        [*command, "--stow", orthanc.dicomweb],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    total = NUM_STUDIES + NUM_HEATMAPS
    until = time.monotonic() + 200
    while len(results_in(orthanc)) < total // 3 and process.poll() is None:
        assert time.monotonic() < until
    process.kill()
    process.communicate()
    assert total // 3 <= len(results_in(orthanc)) < total
    result = export_results(scored.run, None, orthanc.dicomweb, Recorder())
    assert not result.refused and (result.stored or 0) + result.stored_before == total
    found = results_in(orthanc)
    uids = [item["00080018"]["Value"][0] for item in found]
    assert len(uids) == len(set(uids)) == total
    originals = {
        pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID
        for p in scored.inputs.iterdir()
    }
    assert {item["0020000D"]["Value"][0] for item in found} == originals
    statistics = orthanc.ask("/statistics")
    assert statistics["CountInstances"] == NUM_IMAGES + total
    assert statistics["CountStudies"] == NUM_STUDIES == statistics["CountPatients"]

    again = export_results(scored.run, None, orthanc.dicomweb, Recorder())
    assert (again.stored, again.stored_before) == (0, total)
    record = Path(scored.run) / "stored.json"
    assert set(json.loads(record.read_text())[orthanc.dicomweb]) == set(uids)
    record.unlink()  # as from a copy of the run
    export_results(scored.run, None, orthanc.dicomweb, Recorder())
    assert orthanc.ask("/statistics")["CountInstances"] == NUM_IMAGES + total
    for path in Path(scored.run).rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_wrong_password_is_one_line(
    orthanc: Orthanc, scored: SimpleNamespace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(scored.run, run)
    (run / "stored.json").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "export", str(run), "--stow", orthanc.dicomweb],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DICOMWEB_PASSWORD": "canary-wrong"},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 5 and len(errors) == 1, done.stderr
    assert "refuses the credentials" in errors[0] and "DICOMWEB_USERNAME" in errors[0]
    assert "canary" not in done.stdout + done.stderr
    assert not (run / "stored.json").exists()


def test_originals_may_lie_in_the_archive(
    orthanc: Orthanc, scored: SimpleNamespace, tmp_path: Path
) -> None:
    unpack(tmp_path / "v1")
    address = f"dicomweb+{orthanc.dicomweb}?StudyDate=20260131"  # with the results stored there
    with pytest.MonkeyPatch.context() as patch:
        keep_in_process(patch)
        spec = ScoreSpec(
            input=address, model=str(tmp_path / "v1" / "bundle"), out=str(tmp_path / "run")
        )
        run = score(spec, Resources(), Recorder()).run
    counts = json.loads((run / "report.json").read_text())["counts"]
    assert (counts["found"], counts["ignored"]) == (NUM_IMAGES, NUM_STUDIES + NUM_HEATMAPS)
    result = export_results(run, tmp_path / "out", None, Recorder())
    assert (result.num_studies, result.left_out) == (NUM_STUDIES, {})
    read = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    assert len({item.PatientID for item in read}) == NUM_STUDIES
