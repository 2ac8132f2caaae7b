"""Column names and Arrow schemas of every table the product writes.

Paths are bytes on disk and text in tables. `escape_path` is the one rule between them: printable
characters stand for themselves, a backslash becomes two, and every other byte (control characters,
invalid UTF-8, separators and direction marks that could mislead a reader) becomes `\\xNN`.
`unescape_path` gives the bytes back exactly.
"""

import re
from collections.abc import Sequence

import pyarrow as pa

CLASS_NAMES = ("NORMAL", "PNEUMONIA")  # label 0, label 1
SPLITS = ("train", "val", "test")

# One row per file found. `root` indexes the list of input roots kept in the schema's metadata;
# `path` is relative to it, escaped. `code` and `message` are set when the listing itself already
# rejects the file (a FIFO, a link out of the root); `shard` is the unit of retry and of resume.
MANIFEST = pa.schema(
    [
        ("row", pa.int64()),
        ("shard", pa.int32()),
        ("root", pa.int16()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("label", pa.int8()),
        ("patient_id", pa.string()),
        ("patient_source", pa.string()),  # "column" | "dicom" | "filename"
        ("split", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
ROOTS_KEY = b"orchestrator.roots"  # JSON list of escaped roots in the manifest's metadata

# What decoding adds to a manifest row. `phash` is the hash of `perceptual.py`; `grey_rule` and
# `decode_notes` are words of `decode/rules.py`: one, and any number joined by commas or null.
DECODED = pa.schema(
    [
        ("sha256", pa.string()),
        ("phash", pa.int64()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("grey_rule", pa.string()),
        ("decode_notes", pa.string()),
    ]
)


def dicom_fields(names: Sequence[str]) -> list[pa.Field]:
    """Returns the columns that hold facts of DICOM headers, named as in `DicomFacts`."""
    return [pa.field(name, pa.float32() if name == "age_years" else pa.string()) for name in names]


PREDICTIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("root", pa.int16()),
        ("path", pa.string()),
        ("patient_id", pa.string()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("grey_rule", pa.string()),
        ("decode_notes", pa.string()),
        # `in_scope`, or words of `evaluation.scope.SCOPE_CODES` joined by commas; null where the
        # model does not say what it is for
        ("scope", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),  # calibrated, of PNEUMONIA
        ("predicted", pa.int8()),
        # By the review rule, null without one: log-odds by which the call is clear, "accept" or
        # "review", and words of `evaluation.review_rule.REVIEW_REASONS` joined by commas
        ("margin", pa.float32()),
        ("decision", pa.string()),
        ("review_reason", pa.string()),
    ]
)


def predictions_schema(num_models: int, dicom: Sequence[str] = ()) -> pa.Schema:
    """Schema of a run's predictions: with several models one more column for each.

    Args:
        num_models: models of the run. `probability` is the mean of theirs, which are in
            `probability_1` and so on; `logit` is null, since it is no one network's.
        dicom: the columns kept of DICOM headers.
    """
    numbers = range(1, num_models + 1) if num_models > 1 else ()
    columns = [pa.field(f"probability_{n}", pa.float32()) for n in numbers]
    return pa.schema([*PREDICTIONS, *columns, *dicom_fields(dicom)])


REJECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("root", pa.int16()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("label", pa.int8()),
        ("code", pa.string()),
        ("message", pa.string()),
        # As in the predictions; null where the file could not be decoded, but for an id that the
        # listing gives. Runs of earlier versions lack them
        ("patient_id", pa.string()),
        ("sha256", pa.string()),
    ]
)

# One row per image that a shadow has scored: its own result, and the live model's beside it.
SHADOW = pa.schema(
    [
        ("row", pa.int64()),
        ("root", pa.int16()),
        ("path", pa.string()),
        ("label", pa.int8()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),  # calibrated, of PNEUMONIA
        ("threshold", pa.float64()),
        ("predicted", pa.int8()),
        ("live_probability", pa.float32()),
        ("live_predicted", pa.int8()),
    ]
)

# One row per file that an earlier run has scored under another name, or before it was scored in
# another state. `root` and `path` are this run's; `run` is the folder of the earlier one and
# `run_row` the row there. Runs of earlier versions have a row of each file that was known, `code`
# being set where it was rejected and `run_row` a rejected row.
KNOWN = pa.schema(
    [
        ("root", pa.int16()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("sha256", pa.string()),
        # "content": same bytes | "restored": same path, size and time, and scored in another state
        # since | "file": same path, size and time, in runs of earlier versions
        ("matched", pa.string()),
        ("run", pa.string()),
        ("run_row", pa.int64()),
        ("code", pa.string()),
    ]
)


def images_schema(size_px: int, dicom: Sequence[str] = ()) -> pa.Schema:
    """Schema of an ingested data set: manifest columns, decode columns, one uint8 image tensor.

    Args:
        size_px: height and width of the stored images, px.
        dicom: the columns kept of DICOM headers.

    Returns:
        `MANIFEST` + `DECODED` + `dicom` + `image`, a fixed-shape uint8 tensor [size_px, size_px];
        null where the row was rejected.
    """
    image = pa.field("image", pa.fixed_shape_tensor(pa.uint8(), [size_px, size_px]))
    return pa.schema([*MANIFEST, *DECODED, *dicom_fields(dicom), image])


_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def escape_path(path: bytes) -> str:
    """Returns a path as printable text from which `unescape_path` gives the same bytes back.

    Args:
        path: a file name or path as the operating system has it.

    Returns:
        Printable text; ordinary names are unchanged.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    out = []
    for character in text:
        if character == "\\":
            out.append("\\\\")
        elif character.isprintable():
            out.append(character)
        else:  # surrogates from invalid UTF-8 are not printable either
            raw = character.encode("utf-8", "surrogateescape")
            out.extend(f"\\x{byte:02x}" for byte in raw)
    return "".join(out)


def unescape_path(text: str) -> bytes:
    """Returns the bytes that `escape_path` was given.

    Args:
        text: an escaped path.

    Returns:
        The path as the operating system has it.
    """

    def replace(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        return b"\\" if code == b"\\" else bytes([int(code[1:], 16)])

    return _ESCAPED.sub(replace, text.encode("utf-8"))
