"""Names the content of a file that cannot be decoded, from its first bytes."""

from orchestrator.data.limits import rejection
from orchestrator.errors import ImageError

_IMAGES = {
    b"\0\0\0\x0cJXL ": "A JPEG XL image",
    b"\xff\x0a": "A JPEG XL image",
    b"\0\0\0\x0cjP  ": "A JPEG 2000 image",
    b"\xff\x4f\xff\x51": "A JPEG 2000 image",
    b"8BPS": "A Photoshop document",
    **{b"P%d\n" % kind: "A PBM, PGM, PPM or PAM image" for kind in range(1, 8)},
    b"\x93NUMPY": "A NumPy array",
    b"\x89HDF": "An HDF5 file",
    b"v/1\x01": "An OpenEXR image",
}
_OTHERS = {
    b"\x1f\x8b": "A gzip file, not unpacked",
    b"PK\x03\x04": "A zip archive, not unpacked",
    b"7z\xbc\xaf": "A 7-Zip archive, not unpacked",
    b"BZh": "A bzip2 file, not unpacked",
    b"\xfd7zXZ": "An xz file, not unpacked",
    b"(\xb5/\xfd": "A Zstandard file, not unpacked",
    b"%PDF": "A PDF document",
    b"version https://git-lfs": "A Git LFS pointer in place of the file: run git lfs pull",
    b"\0\x05\x16\x07": "A companion file of macOS",
    b"\0\0\0\x01Bud1": "A folder's settings of macOS",
}
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<svg")
_BRANDS = {b"avif": "An AVIF image", b"avis": "An AVIF image"}


def reject_unknown(data: bytes) -> ImageError:
    """Returns the error for content that is none of the formats decoded here.

    Args:
        data: the whole file.
    """
    for start, name in _IMAGES.items():
        if data.startswith(start):
            return rejection("unsupported_format", name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return rejection("unsupported_format", "A WebP image")
    if data[4:8] == b"ftyp":
        return rejection("unsupported_format", _BRANDS.get(data[8:12], "A HEIC image or a film"))
    if data[344:347] in (b"n+1", b"ni1"):
        return rejection("unsupported_format", "A NIfTI volume")
    for start, name in _OTHERS.items():
        if data.startswith(start):
            return rejection("not_an_image", name)
    if data[257:262] == b"ustar":
        return rejection("not_an_image", "A tar archive, not unpacked")
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        return rejection("not_an_image", "A web page or XML text, perhaps an error message")
    return rejection("not_an_image", "The content is of no known image format")
