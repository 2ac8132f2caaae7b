"""A DICOM image as displayed, through pydicom alone."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def by_hand(data: bytes) -> np.ndarray:
    """Returns the first frame as displayed, in 0..255, through pydicom alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(BytesIO(data), force=True)
        if not hasattr(ds.file_meta, "TransferSyntaxUID"):
            ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        stored = pixel_array(ds, index=0)
        if ds.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, ds) >> 8
        if stored.ndim == 3:
            rgb = (stored >> max(ds.BitsStored - 8, 0)).astype(np.uint8)
            return np.asarray(Image.fromarray(rgb).convert("L"), float)
        low, high = shown_range(ds, stored)
        ends = apply_modality_lut(np.array([low, high]), ds).astype(float)
        shown = apply_modality_lut(stored, ds)
        has_lut = "VOILUTSequence" in ds
        if has_lut or usable_window(ds):
            shown = apply_voi_lut(shown, ds)
            if has_lut:
                ends = np.array([0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1])
            else:  # pydicom spreads a window over the range of the stored bits
                ends = apply_modality_lut(np.array(stored_ends(ds)), ds).astype(float)
    grey = np.clip((shown - ends.min()) / (ends.max() - ends.min()), 0, 1) * 255
    return 255 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey


def usable_window(ds: Dataset) -> bool:
    width = ds.get("WindowWidth")
    return width is not None and np.atleast_1d(width)[0] > 0


def stored_ends(ds: Dataset) -> tuple[int, int]:
    half = 1 << (ds.BitsStored - 1)
    return (-half, half - 1) if ds.PixelRepresentation else (0, 2 * half - 1)


def shown_range(ds: Dataset, stored: np.ndarray) -> tuple[int, int]:
    """Returns the declared range, or for 16 bits that of the smallest usual depth.

    Signed values of which none is negative run from zero.
    """
    if ds.BitsStored < 16:
        return stored_ends(ds)
    for bits in (8, 10, 12, 14, 16):
        half = 1 << (bits - 1)
        is_signed = ds.PixelRepresentation and stored.min() < 0
        ends = (-half, half - 1) if is_signed else (0, 2 * half - 1)
        if ends[0] <= stored.min() and stored.max() <= ends[1]:
            return ends
    raise AssertionError("no depth holds the pixels")
