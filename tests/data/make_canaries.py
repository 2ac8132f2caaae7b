"""Writes DICOM files whose every text tag holds a canary, whole or broken at each stage."""

import copy
import warnings
from io import BytesIO

import numpy as np
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.sequence import Sequence

from tests.data.make_images import encapsulated, make_dataset, to_bytes, write_dicom

CANARY = "Canary"
COMPRESSED = ["jpeg baseline", "jpeg lossless 16", "jpeg-ls", "jpeg 2000", "rle 16"]
TEXT_VRS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC",
            "UI", "UR", "UT"}  # fmt: skip


def stream_of(data: bytes) -> tuple[Dataset, bytes]:
    ds = pydicom.dcmread(BytesIO(data))
    return ds, get_frame(ds.PixelData, 0, number_of_frames=1)


def with_syntax(data: bytes, syntax: str) -> bytes:
    """Returns a DICOM file with its TransferSyntaxUID element replaced."""
    start = data.index(b"\x02\0\x10\0UI") + 6
    length = int.from_bytes(data[start : start + 2], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return data[:start] + len(value).to_bytes(2, "little") + value + data[start + 2 + length :]


def with_canaries(ds: Dataset) -> Dataset:
    """Fills every text tag of the dictionary, private tags and nested sequences with canaries."""
    ds = copy.deepcopy(ds)

    def fill(target: Dataset, kept: tuple[int, ...]) -> None:
        for tag, (vr, *_) in DicomDictionary.items():
            group = tag >> 16
            if vr in TEXT_VRS and group > 4 and group not in kept and group < 0x5000:
                # numbers and dates as LO, since pydicom will not write text in them
                written = "LO" if vr in {"AS", "DA", "DS", "DT", "IS", "TM"} else vr
                target.add_new(tag, written, f"{CANARY}{tag:08X}")

    inner, outer = Dataset(), Dataset()
    fill(inner, kept=())
    outer.ReferencedSeriesSequence = Sequence([inner])
    few = Dataset()
    few.PatientName = f"{CANARY}^few"
    fill(ds, kept=(0x0028,))
    sop_class = ds.file_meta.MediaStorageSOPClassUID
    ds.SOPClassUID, ds.PatientID = sop_class, f"{CANARY}-id"
    # A device's name is free text, kept where it holds nothing of the patient's name or id.
    ds.PatientName, ds.ManufacturerModelName = f"{CANARY}^few", f"{CANARY} few"
    ds.RequestAttributesSequence = Sequence([outer, few])
    ds["RequestAttributesSequence"].is_undefined_length = True
    ds.SharedFunctionalGroupsSequence = Sequence([few])
    block = ds.private_block(0x0011, f"{CANARY} CREATOR", create=True)
    block.add_new(0x01, "LO", f"{CANARY} private")
    block.add_new(0x02, "SQ", Sequence([few]))
    ds.file_meta.SourceApplicationEntityTitle = CANARY
    ds.file_meta.ImplementationVersionName = CANARY
    return ds


def make_canary_files(chest: np.ndarray) -> dict[str, bytes]:
    """Returns files full of canaries: a good one, and one made to fail at each stage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = with_canaries(make_dataset(chest, 8))
        files = {"good": to_bytes(ds)}
        for keyword in ("PhotometricInterpretation", "NumberOfFrames", "VOILUTFunction",
                        "WindowCenter", "RescaleSlope", "SOPClassUID"):  # fmt: skip
            broken = copy.deepcopy(ds)
            broken.WindowCenter, broken.WindowWidth = 1, 1
            broken[keyword] = pydicom.DataElement(keyword, "LO", f"{CANARY}{keyword}")
            if keyword == "SOPClassUID":
                del broken.PixelData
            files[keyword] = to_bytes(broken)
        broken = copy.deepcopy(ds)
        broken["Rows"] = pydicom.DataElement("Rows", "LO", CANARY)
        files["Rows"] = to_bytes(broken)
        files["syntax"] = with_syntax(files["good"], f"{CANARY}.1")
        files["header cut"] = files["good"][:50_000]
        files["pixels cut"] = files["good"][:-9]
        for way in COMPRESSED:
            compressed, stream = stream_of(write_dicom(chest, way))
            full = with_canaries(compressed)
            comment = b"\xff\xfe\x00\x0e" + CANARY.encode() * 2
            damaged = stream[:2] + comment + stream[2 : len(stream) // 2]
            files[way] = encapsulated(full, compressed.file_meta.TransferSyntaxUID, damaged)
            twisted = stream[:-400] + CANARY.encode() * 60 + stream[-40:]
            files[f"{way} twisted"] = encapsulated(
                full, compressed.file_meta.TransferSyntaxUID, twisted
            )
    return files
