import warnings
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from orchestrator.hospital.originals import derive_uid, read_original
from tests.data.make_canaries import CANARY, with_canaries
from tests.data.make_images import make_chest, make_dataset, to_bytes
from tests.hospital.make_run import write_xray


def test_a_result_is_of_the_patient_and_study_of_its_original(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎"
    data = write_xray(tmp_path / "a.dcm", 1, 7, PatientName=name, SpecificCharacterSet="ISO_IR 192")
    original = read_original(data)
    assert original is not None
    assert (original.study_uid, original.sop_uid) == ("1.2.826.0.1.7", "1.2.826.0.1.7.1.1")
    result = Dataset()
    original.identify(result)
    assert (result.PatientID, result.PatientName, result.AccessionNumber) == ("MRN-7", name, "A7")
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert "StudyDescription" not in result


def test_what_is_no_valid_value_is_left_empty_but_an_id_makes_it_unusable(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = write_xray(tmp_path / "a", 1, PatientSex="U", PatientBirthDate="2.1.70")
        nameless = write_xray(tmp_path / "b", 2, PatientID="", PatientName="")
        wrong = [
            write_xray(tmp_path / "c", 3, PatientID="7" * 65),
            write_xray(tmp_path / "d", 4, PatientID="MRN\\4"),
            write_xray(tmp_path / "e", 5, StudyInstanceUID="1.02.3"),
            write_xray(tmp_path / "f", 6, SeriesInstanceUID=""),
        ]
    read = read_original(odd)
    assert read is not None and read.identity["PatientSex"] == ""
    assert read.identity["PatientBirthDate"] == ""
    assert read_original(nameless) is not None
    assert [read_original(data) for data in wrong] == [None] * 4


@pytest.mark.filterwarnings("error")
def test_no_damaged_header_is_quoted(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = with_canaries(make_dataset(make_chest(32, 32), 8))
        other = with_canaries(make_dataset(make_chest(32, 32), 8, SpecificCharacterSet="?"))
        files = [to_bytes(good), to_bytes(good)[:900], to_bytes(other)]
    assert [read_original(data) for data in files] == [None] * 3
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err


def test_a_uid_is_the_same_for_the_same_parts_alone() -> None:
    first = derive_uid("run", "report", "1.2.3")
    assert first == derive_uid("run", "report", "1.2.3") and len(first) <= 64
    assert (
        len({first, derive_uid("other", "report", "1.2.3"), derive_uid("run", "report1.2.3")}) == 3
    )
