"""Decodes JPEG Lossless and JPEG-LS streams by GDCM."""

import ctypes

import gdcm

# It reports what it cannot decode by trace too.
gdcm.Trace.DebugOff()
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()

_CODECS = {"jpeg lossless": gdcm.JPEGCodec, "jpeg-ls": gdcm.JPEGLSCodec}
_PIXEL_DATA = (0x7FE0, 0x0010)


def decode_by_gdcm(
    stream: bytes,
    coding: str,
    size: tuple[int, int],
    layout: tuple[int, int, int, bool],
    photometric: str,
) -> bytes:
    """Returns the samples of a stream, little endian; none where it is damaged.

    Args:
        stream: whole, and safe to hand to GDCM, which ends the process on some malformed ones.
        coding: "jpeg lossless" or "jpeg-ls".
        size: width and height, px.
        layout: samples per pixel, bits allocated, bits stored, and whether two's complement; bits
            above those stored are cleared.
        photometric: photometric interpretation, as in a DICOM header.

    Returns:
        The samples, those of a pixel together, and a byte more where their number of bytes is odd.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    coded, decoded = gdcm.DataElement(gdcm.Tag(*_PIXEL_DATA)), gdcm.DataElement()
    coded.SetValue(fragments.__ref__())
    samples, allocated, stored, is_signed = layout
    codec = _CODECS[coding]()
    codec.SetNumberOfDimensions(2)
    codec.SetDimensions((*size, 1))
    codec.SetPlanarConfiguration(0)  # whatever a header says, streams hold whole pixels
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    codec.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    codec.SetPixelFormat(gdcm.PixelFormat(samples, allocated, stored, stored - 1, int(is_signed)))
    codec.SetNeedOverlayCleanup(allocated != stored)
    if not codec.Decode(coded, decoded):
        return b""
    # GDCM's Python classes give bytes as text alone, which takes a third of the time of decoding
    found = decoded.GetByteValue()
    return ctypes.string_at(int(found.GetVoidPointer()), int(str(found.GetLength())))
