import hashlib
import hmac

from orchestrator.data.pseudonym import FileNaming, keyed_hash

KEY = b"0123456789abcdef"
ROW = {"root": 0, "path": "a/doe-1.png", "patient_id": "doe", "patient_source": "filename"}


def test_a_keyed_hash_is_hmac_sha256() -> None:
    expected = hmac.new(KEY, "Müller".encode(), hashlib.sha256).hexdigest()[:32]
    assert keyed_hash(KEY, "Müller") == keyed_hash(KEY, "Müller".encode()) == f"hmac:{expected}"


def test_without_a_key_rows_stay_as_they_are() -> None:
    naming = FileNaming()
    assert not naming.hashes
    assert naming.apply(ROW) == ROW


def test_path_and_what_was_read_from_it_are_hashed() -> None:
    naming = FileNaming(KEY)
    assert naming.hashes
    assert naming.apply(ROW) == {
        "root": 0,
        "path": keyed_hash(KEY, "0:a/doe-1.png"),
        "patient_id": keyed_hash(KEY, "doe"),
        "patient_source": "filename",
    }
    from_dicom = ROW | {"patient_source": "dicom"}
    assert naming.apply(from_dicom)["patient_id"] == "doe"  # hashed when it was read
    known = {"root": 1, "path": "a.png", "run": "night-1"}
    assert naming.apply(known) == known | {"path": keyed_hash(KEY, "1:a.png")}


def test_the_key_is_not_shown() -> None:
    assert str(KEY) not in repr(FileNaming(KEY))
