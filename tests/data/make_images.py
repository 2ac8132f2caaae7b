"""Writes one image in many ways, and one text in every tag, for the tests and for fuzzing."""

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

SIDE_PX = 96


def make_chest(width: int = SIDE_PX, height: int = SIDE_PX) -> np.ndarray:
    """Returns a smooth asymmetric uint8 picture [height, width] over nearly the full range."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    x, y = x / width, y / height
    left = np.exp(-(((x - 0.3) / 0.13) ** 2 + ((y - 0.45) / 0.28) ** 2))
    right = np.exp(-(((x - 0.7) / 0.15) ** 2 + ((y - 0.5) / 0.25) ** 2))
    grey = 205 - 150 * left - 120 * right + 40 * np.sin(7 * x + 11 * y) - 50 * (1 - y) * (1 - x)
    return np.clip(grey, 3, 252).astype(np.uint8)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Returns an image written by Pillow."""
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write_picture(grey: np.ndarray, way: str) -> bytes:
    """Returns a uint8 image written in one of `PICTURE_WAYS`."""
    image = Image.fromarray(grey)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    twelve = Image.fromarray(grey.astype(np.uint16) * 16 + 15)
    rgba = image.convert("RGBA")
    quality = {"quality": 98, "subsampling": 0}
    writers = {
        "jpeg": lambda: save(image, "JPEG", **quality),
        "jpeg colour": lambda: save(image.convert("RGB"), "JPEG", **quality),
        "jpeg rgb": lambda: save(image.convert("RGB"), "JPEG", keep_rgb=True, **quality),
        "jpeg progressive": lambda: save(image, "JPEG", progressive=True, **quality),
        "jpeg cmyk": lambda: save(image.convert("RGB").convert("CMYK"), "JPEG", **quality),
        "jpeg exif": lambda: save(
            image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=_exif(6), **quality
        ),
        "png": lambda: save(image, "PNG"),
        "png 16": lambda: save(sixteen, "PNG"),
        "png 12 in 16": lambda: save(twelve, "PNG"),
        "png colour": lambda: save(image.convert("RGB"), "PNG"),
        "png rgba": lambda: save(rgba, "PNG"),
        "png grey alpha": lambda: save(image.convert("LA"), "PNG"),
        "png palette": lambda: save(_palette_image(grey), "PNG"),
        "png exif": lambda: save(image.transpose(Image.Transpose.ROTATE_180), "PNG", exif=_exif(3)),
        "tiff": lambda: save(image, "TIFF"),
        "tiff lzw": lambda: save(image, "TIFF", compression="tiff_lzw"),
        "tiff 16": lambda: save(sixteen, "TIFF"),
        "tiff 16 inverted": lambda: _white_is_zero(
            save(Image.fromarray(65535 - grey.astype(np.uint16) * 257), "TIFF")
        ),
        "tiff cmyk": lambda: save(image.convert("RGB").convert("CMYK"), "TIFF"),
        "tiff turned": lambda: save(
            image.transpose(Image.Transpose.ROTATE_90), "TIFF", tiffinfo={274: 6}
        ),
        "tiff pages": lambda: save(
            image, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))] * 2
        ),
        "bmp": lambda: save(image, "BMP"),
        "gif": lambda: save(image, "GIF"),
        "gif animated": lambda: save(
            image,
            "GIF",
            save_all=True,
            append_images=[Image.new("L", image.size, level) for level in (7, 99)],
        ),
    }
    return writers[way]()


# Largest difference in grey levels from the original that each way may bring: 0 where it keeps
# every level, 1 for rounding, more where the coding itself loses.
PICTURE_WAYS = {
    "jpeg": 4,
    "jpeg colour": 4,
    "jpeg rgb": 4,
    "jpeg progressive": 4,
    "jpeg cmyk": 5,
    "jpeg exif": 4,
    "png": 0,
    "png 16": 0,
    "png 12 in 16": 1,
    "png colour": 0,
    "png rgba": 0,
    "png grey alpha": 0,
    "png palette": 0,
    "png exif": 0,
    "tiff": 0,
    "tiff lzw": 0,
    "tiff 16": 0,
    "tiff 16 inverted": 0,
    "tiff cmyk": 1,
    "tiff turned": 0,
    "tiff pages": 0,
    "bmp": 0,
    "gif": 0,
    "gif animated": 0,
}

DICOM_WAYS = {
    "monochrome2": 0,
    "monochrome1": 0,
    "implicit": 0,
    "big endian": 0,
    "deflated": 0,
    "no preamble": 0,
    "no meta": 0,
    "12 bit": 1,
    "16 bit": 0,
    "12 bit declared 16": 1,
    "windowed": 1,
    "windowed exact": 1,
    "rescaled": 0,
    "signed": 1,
    "signed windowed monochrome1": 1,
    "modality lut": 0,
    "voi lut": 1,
    "rgb": 0,
    "rgb by plane": 0,
    "palette": 0,
    "frames": 0,
    "functional groups": 1,
    "jpeg baseline": 4,
    "jpeg lossless": 0,
    "jpeg lossless 16": 0,
    "jpeg-ls": 0,
    "jpeg-ls 12": 1,
    "jpeg 2000": 0,
    "jpeg 2000 signed": 1,
    "rle": 0,
    "rle 16": 0,
    "rle frames": 0,
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _palette_image(grey: np.ndarray) -> Image.Image:
    """Returns a palette image whose indices run against the grey levels."""
    image = Image.fromarray(255 - grey).convert("P")
    image.putpalette([level for index in range(256) for level in [255 - index] * 3])
    return image


def _white_is_zero(tiff: bytes) -> bytes:
    """Returns a little-endian TIFF with PhotometricInterpretation set from 1 to 0."""
    entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"
    assert tiff.count(entry + b"\x01\x00") == 1
    return tiff.replace(entry + b"\x01\x00", entry + b"\x00\x00")


def make_dataset(pixels: np.ndarray, bits_stored: int, **elements: Any) -> Dataset:
    """Returns a DX data set of grey [rows, columns] pixels, Explicit VR Little Endian."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.3.4"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "P-17"
    ds.Modality = "DX"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated == 16 else "OB"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def to_bytes(ds: Dataset, *, preamble: bool = True, **options: Any) -> bytes:
    """Returns a data set as a DICOM file."""
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True, **options)
    return out.getvalue() if preamble else out.getvalue()[132:]


def encapsulated(ds: Dataset, syntax: str, *frames: bytes) -> bytes:
    """Returns a DICOM file whose pixels are the given compressed frames."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def _compressed(ds: Dataset, syntax: str) -> bytes:
    ds.compress(syntax)
    return to_bytes(ds)


def compress_lossless(ds: Dataset) -> bytes:
    """Returns a DICOM file with its pixels coded as JPEG Lossless by GDCM."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        path.write_bytes(to_bytes(ds))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return path.read_bytes()


def make_lut(first: int, bits: int, entries: np.ndarray) -> Dataset:
    """Returns an item of a modality or VOI LUT sequence."""
    lut = Dataset()
    lut.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    lut.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return lut


def _functional_groups(ds: Dataset) -> Dataset:
    """Moves window and rescale of a data set into functional groups of two frames."""

    def group(center: float) -> Dataset:
        voi, transformation, item = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 4096
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, -100
        item.FrameVOILUTSequence = Sequence([voi])
        item.PixelValueTransformationSequence = Sequence([transformation])
        return item

    ds.NumberOfFrames = 2
    ds.PixelData = ds.PixelData + bytes(len(ds.PixelData))
    ds.SharedFunctionalGroupsSequence = Sequence([group(9999)])
    ds.PerFrameFunctionalGroupsSequence = Sequence([group(2048 - 100), group(-5)])
    return ds


def write_dicom(grey: np.ndarray, way: str) -> bytes:
    """Returns a uint8 image written in one of `DICOM_WAYS`."""
    wide = grey.astype(np.uint16)
    twelve = wide * 16 + 15
    signed = twelve.astype(np.int16) - 2048
    rgb = np.stack([grey] * 3, axis=-1)
    colour = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}
    two_frames = {"NumberOfFrames": 2, "PixelData": grey.tobytes() + bytes(grey.size)}
    ramp = np.arange(256)

    def data_set(pixels: np.ndarray = grey, bits: int = 8, **elements: Any) -> Dataset:
        return make_dataset(pixels, bits, **elements)

    def in_syntax(syntax: str, **options: Any) -> bytes:
        ds = data_set(wide * 257, 16)
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            ds.PixelData = (wide * 257).astype(">u2").tobytes()
        return to_bytes(ds, **options)

    palette = dict.fromkeys(("Red", "Green", "Blue"), (255 - ramp).astype("<u2") * 257)
    writers = {
        "monochrome2": lambda: to_bytes(data_set()),
        "monochrome1": lambda: to_bytes(
            data_set(255 - grey, PhotometricInterpretation="MONOCHROME1")
        ),
        "implicit": lambda: in_syntax(uid.ImplicitVRLittleEndian),
        "big endian": lambda: in_syntax(uid.ExplicitVRBigEndian),
        "deflated": lambda: in_syntax(uid.DeflatedExplicitVRLittleEndian),
        "no preamble": lambda: to_bytes(data_set(), preamble=False),
        "no meta": lambda: _without_meta(to_bytes(data_set())),
        "12 bit": lambda: to_bytes(data_set(twelve, 12)),
        "16 bit": lambda: to_bytes(data_set(wide * 257, 16)),
        "12 bit declared 16": lambda: to_bytes(data_set(twelve, 16)),
        "windowed": lambda: to_bytes(
            data_set(wide * 4 + 1000, 16, WindowCenter=[1510.5, 3], WindowWidth=[1021, 9])
        ),
        "windowed exact": lambda: to_bytes(
            data_set(
                wide * 4 + 1000,
                16,
                WindowCenter=1510,
                WindowWidth=1020,
                VOILUTFunction="LINEAR_EXACT",
            )
        ),
        "rescaled": lambda: to_bytes(
            data_set(255 - grey, RescaleSlope="-2.5", RescaleIntercept="-1024")
        ),
        "signed": lambda: to_bytes(data_set(signed, 12)),
        "signed windowed monochrome1": lambda: to_bytes(
            data_set(
                (-1 - signed).astype(np.int16),
                12,
                PhotometricInterpretation="MONOCHROME1",
                RescaleSlope=2,
                RescaleIntercept=-100,
                WindowCenter=-100,
                WindowWidth=8191,
            )
        ),
        "modality lut": lambda: to_bytes(
            data_set(255 - grey, ModalityLUTSequence=_modality_lut(255 - ramp))
        ),
        "voi lut": lambda: to_bytes(
            data_set(
                signed, 12, VOILUTSequence=Sequence([make_lut(-2048, 10, np.arange(4096) // 4)])
            )
        ),
        "rgb": lambda: to_bytes(data_set(rgb, PlanarConfiguration=0, **colour)),
        "rgb by plane": lambda: to_bytes(
            data_set(rgb, PlanarConfiguration=1, **colour, PixelData=np.stack([grey] * 3).tobytes())
        ),
        "palette": lambda: to_bytes(_with_palette(data_set(255 - grey), palette)),
        "frames": lambda: to_bytes(data_set(**two_frames)),
        "functional groups": lambda: to_bytes(_functional_groups(data_set(twelve, 12))),
        "jpeg baseline": lambda: encapsulated(
            data_set(), uid.JPEGBaseline8Bit, write_picture(grey, "jpeg")
        ),
        "jpeg lossless": lambda: compress_lossless(data_set()),
        "jpeg lossless 16": lambda: compress_lossless(data_set(wide * 257, 16)),
        "jpeg-ls": lambda: _compressed(data_set(), uid.JPEGLSLossless),
        "jpeg-ls 12": lambda: _compressed(data_set(twelve, 12), uid.JPEGLSLossless),
        "jpeg 2000": lambda: _compressed(data_set(wide * 257, 16), uid.JPEG2000Lossless),
        "jpeg 2000 signed": lambda: _compressed(data_set(signed, 12), uid.JPEG2000Lossless),
        "rle": lambda: _compressed(data_set(), uid.RLELossless),
        "rle 16": lambda: _compressed(data_set(wide * 257, 16), uid.RLELossless),
        "rle frames": lambda: _compressed(data_set(**two_frames), uid.RLELossless),
    }
    return writers[way]()


def _without_meta(data: bytes) -> bytes:
    """Returns a DICOM file from its first data set element (0008,0016) on."""
    return data[data.index(b"\x08\x00\x16\x00UI") :]


def _modality_lut(entries: np.ndarray) -> Sequence:
    lut = make_lut(0, 8, entries)
    lut.ModalityLUTType = "US"
    return Sequence([lut])


def _with_palette(ds: Dataset, palette: dict[str, np.ndarray]) -> Dataset:
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for colour, entries in palette.items():
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", entries.tobytes())
    return ds
