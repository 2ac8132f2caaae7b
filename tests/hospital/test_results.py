import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.data.parquet import open_parquet, write_parquet
from orchestrator.data.pseudonym import HASHED
from orchestrator.errors import ClusterError, DataError
from orchestrator.hospital.results import RunFacts, find_studies
from orchestrator.pipelines.review.scored_run import open_scored
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.data.make_images import make_chest, write_picture
from tests.hospital.make_run import make_run, write_xray


def test_a_study_has_the_result_of_its_highest_image(tmp_path: Path) -> None:
    for number, study in enumerate((1, 1, 2)):
        write_xray(tmp_path / "in" / f"{number}.dcm", number, study)
    shutil.copy(tmp_path / "in" / "0.dcm", tmp_path / "in" / "copy.dcm")
    run = make_run(tmp_path / "run", tmp_path / "in", [0.2, 0.9, 0.4, 0.2], decision="review")
    studies, left_out = find_studies(open_scored(run.path), Recorder())
    assert [[i.probability for i in s.images] for s in studies] == [
        pytest.approx([0.2, 0.9]),
        pytest.approx([0.4]),
    ]
    assert studies[0].highest.original.sop_uid == "1.2.826.0.1.1.1.1"
    assert studies[0].needs_review and not left_out.total()


def test_each_image_without_a_result_is_counted_by_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(4):
        write_xray(folder / f"{number}.dcm", number)
    write_xray(folder / "4.dcm", 4, SeriesInstanceUID="")
    write_xray(folder / "5.dcm", 5, 9)
    write_xray(folder / "6.dcm", 6, 9, PatientID="MRN-another")
    (folder / "7.png").write_bytes(write_picture(make_chest(), "png"))
    run = make_run(tmp_path / "run", folder, [0.5] * 8)
    (folder / "0.dcm").unlink()
    write_xray(folder / "1.dcm", 11)
    studies, left_out = find_studies(open_scored(run.path), Recorder())
    assert [study.images[0].original.study_uid[-1] for study in studies] == ["2", "3"]
    expected = {"gone": 1, "changed": 1, "unusable": 1, "two_patients": 2, "not_dicom": 1}
    assert dict(left_out) == expected


def test_storage_that_is_gone_is_no_missing_file(tmp_path: Path) -> None:
    write_xray(tmp_path / "in" / "a.dcm", 1)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.5])
    (tmp_path / "in").rename(tmp_path / "unmounted")
    with pytest.raises(ClusterError, match="storage of the input is gone"):
        find_studies(open_scored(run.path), Recorder())


def test_hashed_paths_lead_to_no_original(tmp_path: Path) -> None:
    write_xray(tmp_path / "in" / "a.dcm", 1)
    run = make_run(tmp_path / "run", tmp_path / "in", [0.5])
    part = run.predictions / "part-00000.parquet"
    table = open_parquet(part).read()
    place = table.schema.get_field_index("path")
    write_parquet(part, table.set_column(place, "path", pa.array([HASHED + "0" * 32])))
    with pytest.raises(DataError, match=r"paths of .* were hashed"):
        find_studies(open_scored(run.path), Recorder())


def test_a_run_without_an_id_of_its_own_goes_by_its_name(tmp_path: Path) -> None:
    write_xray(tmp_path / "in" / "a.dcm", 1)
    make_run(tmp_path / "night-1", tmp_path / "in", [0.5], hashes=["aa", "bb"])
    RunDir(tmp_path / "night-1").status.unlink()
    facts = RunFacts.of(open_scored(tmp_path / "night-1"))
    assert (facts.uuid, facts.hashes) == ("night-1", ("aa", "bb"))
