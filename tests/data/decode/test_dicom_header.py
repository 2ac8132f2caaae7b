"""Nested headers, the keyed patient id, and that no other text of a header gets out."""

import hashlib
import hmac
import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from orchestrator.data.decode.images import decode
from orchestrator.errors import ImageError
from tests.data.decode.decoded import KEY, LIMITS, rejected
from tests.data.make_canaries import CANARY, COMPRESSED, make_canary_files
from tests.data.make_images import SIDE_PX, make_dataset, to_bytes, write_dicom


def expected_hash(message: bytes) -> str:
    return "hmac:" + hmac.new(KEY, message, hashlib.sha256).hexdigest()[:32]


def test_undefined_length_sequences_are_stepped_over(chest):
    ds = make_dataset(chest, 8)
    inner = Dataset()
    inner.PatientID = "inner"
    inner.Rows = 7
    middle = Dataset()
    middle.OtherPatientIDsSequence = Sequence([inner, inner])
    middle["OtherPatientIDsSequence"].is_undefined_length = True
    ds.ReferencedStudySequence = Sequence([middle, middle])
    ds["ReferencedStudySequence"].is_undefined_length = True
    for item in ds.ReferencedStudySequence:
        item.is_undefined_length_sequence_item = True
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        ds.file_meta.TransferSyntaxUID = syntax
        image = decode(to_bytes(ds), SIDE_PX, LIMITS, KEY)
        assert (image.pixels == chest).all()
        assert image.patient_id == expected_hash(b"P-17")


def test_endless_nesting_is_rejected(chest):
    data = write_dicom(chest, "implicit")
    start = data.index(b"\x08\0\x16\0")
    nested = (b"\x08\0\x40\x11" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4) * 5000
    assert "nested" in rejected(data[:start] + nested + data[start:]).message


def test_patient_id_is_a_keyed_hash(chest):
    ds = make_dataset(chest, 8)
    assert decode(to_bytes(ds), 8, LIMITS).patient_id is None
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17")
    ds.PatientID = "P-17 "  # padding does not count
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17")
    ds.IssuerOfPatientID = "St. Elsewhere"
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id == expected_hash(b"P-17\0St. Elsewhere")
    ds.PatientID = ""
    assert decode(to_bytes(ds), 8, LIMITS, KEY).patient_id is None
    other = decode(write_dicom(chest, "rle"), 8, LIMITS, b"another key").patient_id
    assert other is not None
    assert other != expected_hash(b"P-17")


@pytest.fixture(scope="module")
def canary_files(chest: np.ndarray) -> dict[str, bytes]:
    return make_canary_files(chest)


def test_no_text_of_a_header_gets_out(canary_files, caplog, capfd, recwarn):
    assert canary_files["good"].count(CANARY.encode()) > 4500
    recwarn.clear()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()
    num_rejected = 0
    for name, data in canary_files.items():
        try:
            text = repr(decode(data, SIDE_PX, LIMITS, KEY))
        except ImageError as error:
            num_rejected += 1
            text = str(error) + repr(pickle.loads(pickle.dumps(error))) + error.code
            assert error.__context__ is None
        else:
            assert name == "good" or name.endswith("twisted")
        assert CANARY not in text
    assert num_rejected >= len(canary_files) - 1 - len(COMPRESSED)
    printed = capfd.readouterr()
    warned = " ".join(str(warning.message) for warning in recwarn)
    assert CANARY not in caplog.text + printed.out + printed.err + warned


def test_a_process_that_logs_everything_prints_no_header_text(canary_files, tmp_path):
    for number, data in enumerate(canary_files.values()):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    program = """
import logging, pathlib, sys, traceback, warnings
logging.basicConfig(level=logging.DEBUG)
from orchestrator.data.decode.images import Limits, decode
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        print(decode(path.read_bytes(), 8, Limits(), b"key"))
    except Exception:
        traceback.print_exc()
"""
    command = [sys.executable, "-W", "always", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.count("ImageError") > 10
    assert "hmac:" in done.stdout
    assert CANARY not in done.stdout + done.stderr
