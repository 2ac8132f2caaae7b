"""The DICOM objects themselves: what they say, of whom, and that they are the same each time."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from orchestrator.errors import DataError, SpecError
from orchestrator.hospital import export
from orchestrator.hospital.export import export_results
from orchestrator.hospital.results import RunFacts, find_studies
from orchestrator.pipelines.review.scored_run import open_scored
from tests.conftest import Recorder
from tests.hospital.make_run import HASH, make_run, write_xray


def values(item: Dataset) -> Iterator[tuple[str, object]]:
    """Yields name and value of each content item that has one, from the root."""
    name = item.ConceptNameCodeSequence[0].CodeMeaning
    if "MeasuredValueSequence" in item:
        yield name, float(item.MeasuredValueSequence[0].NumericValue)
    elif "ConceptCodeSequence" in item:
        yield name, item.ConceptCodeSequence[0].CodeMeaning
    elif "ReferencedSOPSequence" in item:
        yield name, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    elif "TextValue" in item:
        yield name, item.TextValue
    for child in item.get("ContentSequence", ()):
        yield from values(child)


def encode(made: Dataset) -> bytes:
    sink = BytesIO()
    made.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def test_a_report_holds_the_result_of_its_study_and_every_image(tmp_path: Path) -> None:
    from orchestrator.hospital.structured_report import build_report

    for number, study in enumerate((1, 1, 2)):
        write_xray(tmp_path / "in" / f"{number}.dcm", number, study)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.2, 0.9, 0.4], decision="review")
    scored = open_scored(run.path)
    first, second = find_studies(scored, Recorder())[0]
    facts = RunFacts.of(scored)
    report = pydicom.dcmread(BytesIO(encode(build_report(first, facts))))
    found = list(values(report))
    assert [value for name, value in found if name == "Probability"] == [0.9, 0.2, 0.9]
    assert [value for name, value in found if name == "Threshold Value"] == [0.5] * 3
    calls = [value for name, value in found if name == "Pneumonia"]
    assert calls == ["Present", "Absent", "Present"]
    assert ("Algorithm Version", f"sha256:{HASH}") in found
    (comment,) = [value for name, value in found if name == "Comment"]
    assert "Research use only" in str(comment) and "(0.200, 0.900)" in str(comment)
    assert "leaves it to a person" in str(comment)
    sources = [value for name, value in found if name == "Source of Measurement"]
    own = ["1.2.826.0.1.1.1.0", "1.2.826.0.1.1.1.1"]
    assert sources == [*own, *own]
    assert (report.PatientID, report.StudyInstanceUID) == ("MRN-1", "1.2.826.0.1.1")
    assert report.SeriesInstanceUID not in ("1.2.826.0.1.1.1", facts.uid("pictures", "x"))
    other = encode(build_report(second, facts))
    assert b"MRN-1" not in other and b"Doe-1" not in other and b"1.2.826.0.1.1." not in other
    assert encode(build_report(second, RunFacts.of(open_scored(run.path)))) == other


def test_a_picture_has_its_notice_burned_in_above_the_heat_map(tmp_path: Path) -> None:
    from orchestrator.hospital.secondary_capture import build_picture

    write_xray(tmp_path / "in" / "0.dcm", 0)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.9], heatmaps=[0])
    scored = open_scored(run.path)
    (study,), _ = find_studies(scored, Recorder())
    heatmap = study.images[0].heatmap
    assert heatmap is not None
    facts = RunFacts.of(scored)
    made = pydicom.dcmread(BytesIO(encode(build_picture(heatmap, study.images[0], facts))))
    drawn = np.asarray(Image.open(heatmap).convert("RGB"))
    strip = made.Rows - drawn.shape[0]
    assert strip > 30 and (made.pixel_array[strip:] == drawn).all()
    notice = made.pixel_array[:strip]
    assert 0.02 < (notice[..., 0] > 200).mean() < 0.3  # letters on a dark strip
    assert (notice[:, -4:] < 40).all()  # none is cut
    assert (made.BurnedInAnnotation, made.PatientID) == ("YES", "MRN-0")
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.826.0.1.0.1.0"


def test_a_second_export_adds_none_and_changes_none(tmp_path: Path) -> None:
    for number in range(3):
        write_xray(tmp_path / "in" / f"{number}.dcm", number)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.2, 0.9, 0.4], heatmaps=[1])
    out = tmp_path / "out"
    first = export_results(run.path, out, None, Recorder())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    next(out.glob("sr-*")).unlink()
    again = export_results(run.path, out, None, Recorder())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (first.num_studies, first.num_pictures, len(before)) == (3, 1, 4)
    assert (first.written, first.present, again.written, again.present) == (4, 0, 1, 3)


def test_a_study_whose_missing_image_is_found_later_keeps_its_one_report(tmp_path: Path) -> None:
    data = [write_xray(tmp_path / "in" / f"{n}.dcm", n, study=7) for n in range(2)]
    run = make_run(tmp_path / "run", tmp_path / "in", [0.2, 0.9], heatmaps=[0, 1])
    (tmp_path / "in" / "0.dcm").unlink()
    first = export_results(run.path, tmp_path / "out", None, Recorder())
    assert (first.num_studies, first.num_pictures, first.left_out) == (1, 1, {"gone": 1})
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "in" / "0.dcm").write_bytes(data[0])
    again = export_results(run.path, tmp_path / "out", None, Recorder())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert (again.num_studies, again.written, again.left_out) == (1, 0, {"late": 1})
    # Elsewhere, where both are there from the first, all is as ever: the objects have their UIDs.
    whole = export_results(run.path, tmp_path / "whole", None, Recorder())
    assert (whole.written, whole.num_faults) == (3, 0)
    (report,) = (tmp_path / "out").glob("sr-*")
    assert (tmp_path / "whole" / report.name).exists()
    report.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"sr-.* cannot be read as a structured report; remove it"):
        export_results(run.path, tmp_path / "out", None, Recorder())


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'xray-orchestrator\[dicom\]'"):
        export_results(tmp_path, tmp_path, None, Recorder())
