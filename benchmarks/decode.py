"""How fast files of radiograph size are decoded, beside pydicom's handlers and plain Pillow.

Phantoms are written in every coding. Of a DICOM file each decoder makes the stored pixels, header
read and nothing converted; `decode` is the product's whole way from the file to a grey square. Of a
JPEG picture each makes the square. Rates are of CPU time on one core, medians of rounds in which
the decoders take turns, and ratios are paired by round. Exits 1 where pixels differ or a handler of
pydicom's is faster. A coding that cannot be written here (extra `dev`) is left out and named.

    python -m benchmarks.decode
    python -m benchmarks.decode --rows 4300 --columns 4300 --rounds 5
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder, pixel_array

from orchestrator.data.decode.dicom import read_format
from orchestrator.data.decode.dicom_header import read_header
from orchestrator.data.decode.dicom_pixels import decode_pixels
from orchestrator.data.decode.images import Limits, decode
from orchestrator.data.decode.pictures import decode_picture
from orchestrator.data.limits import Stopwatch
from orchestrator.data.phantoms import draw_phantoms
from tests.data.make_images import compress_lossless, encapsulated, make_dataset, to_bytes

LIMITS = Limits()
_PHANTOM_PX, _NOISE_12_BIT = 400, 8  # noise is added at full size, as a detector has it
_QUALITY = 90
_TIED = 0.95  # two ways to one decoder differ by so much: in their copies, and from run to run
_SCALED_LEVELS = 4  # a scaled JPEG is averaged before rounding, not after
Decode = Callable[[bytes], Any]

COMPRESSED: dict[str, tuple[uid.UID, dict[str, Any]]] = {
    "JPEG 2000": (uid.JPEG2000Lossless, {}),
    "JPEG 2000, lossy 10:1": (uid.JPEG2000, {"j2k_cr": [10]}),
    "JPEG-LS": (uid.JPEGLSLossless, {}),
    "JPEG-LS, within 2": (uid.JPEGLSNearLossless, {"jls_error": 2}),
    "RLE": (uid.RLELossless, {}),
}


def draw(rows: int, columns: int) -> dict[int, np.ndarray]:
    """Returns one phantom by its depth in bits: uint8 and uint16 [rows, columns]."""
    small = Image.fromarray(draw_phantoms(_PHANTOM_PX)[1].astype(np.float32))
    large = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC)) * 16
    noise = np.random.default_rng(0).normal(0, _NOISE_12_BIT, large.shape)
    deep = np.clip(large + noise, 0, 4095).astype(np.uint16)
    return {12: deep, 8: (deep >> 4).astype(np.uint8)}


def write_dicom(phantoms: dict[int, np.ndarray]) -> dict[str, tuple[uid.UID, bytes]]:
    """Returns transfer syntaxes and files by name; says which cannot be written."""
    files = {}
    for bits, pixels in phantoms.items():
        native = make_dataset(pixels, bits)
        files[f"uncompressed, {bits} bits"] = (uid.ExplicitVRLittleEndian, to_bytes(native))
        files[f"JPEG Lossless, {bits} bits"] = (uid.JPEGLosslessSV1, compress_lossless(native))
        for name, (syntax, options) in COMPRESSED.items():
            data_set = make_dataset(pixels, bits)
            try:
                data_set.compress(syntax, **options)
            except RuntimeError as error:  # none of pydicom's encoders is installed
                print(f"left out: {name}, {bits} bits: {error}")
                continue
            files[f"{name}, {bits} bits"] = (syntax, to_bytes(data_set))
    stream = save_jpeg(phantoms[8])
    data = encapsulated(make_dataset(phantoms[8], 8), uid.JPEGBaseline8Bit, stream)
    files["JPEG baseline, 8 bits"] = (uid.JPEGBaseline8Bit, data)
    return files


def save_jpeg(pixels: np.ndarray) -> bytes:
    """Returns pixels, uint8 [H, W] or [H, W, 3], as a JPEG file."""
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def decode_stored(data: bytes) -> np.ndarray:
    """Returns the stored pixels of a DICOM file by the product."""
    header = read_header(data, LIMITS, Stopwatch(LIMITS.max_seconds))
    return decode_pixels(header, read_format(header, LIMITS)).values


def decode_by_pydicom(data: bytes, handler: str) -> np.ndarray:
    """Returns the stored pixels of a DICOM file by one of pydicom's handlers."""
    return pixel_array(BytesIO(data), index=0, raw=True, decoding_plugin=handler)


def decode_square(data: bytes, size_px: int) -> np.ndarray:
    """Returns a JPEG picture as a grey square by the product, as before hashes are taken of it."""
    picture = decode_picture(data, size_px, LIMITS, Stopwatch(LIMITS.max_seconds))
    return np.asarray(picture.grey.image)


def decode_by_pillow(data: bytes, size_px: int, is_draft: bool) -> np.ndarray:
    """Returns a JPEG picture as a grey square by Pillow, in draft mode at a smaller scale."""
    image = Image.open(BytesIO(data))
    drafted = image.draft("L", (2 * size_px, 2 * size_px)) if is_draft else None
    box = drafted[1] if drafted else None
    square = image.convert("L").resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    return np.asarray(square)


def time_in_turn(data: bytes, decoders: dict[str, Decode], rounds: int) -> dict[str, list[float]]:
    """Returns the CPU seconds of each decoder in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            started = time.process_time()
            decoder(data)
            seconds[name].append(time.process_time() - started)
    return seconds


def compare(
    name: str, data: bytes, decoders: dict[str, Decode], whole: Decode | None, rounds: int
) -> tuple[float, int]:
    """Prints a row: the first decoder beside the others.

    Returns:
        The ratio of its rate to the fastest other's, and by how many levels pixels differ at most.
    """
    own, *others = decoders
    pixels = {key: decoder(data).astype(int) for key, decoder in decoders.items()}
    differ = max(int(np.abs(pixels[own] - pixels[other]).max()) for other in others)
    timed = decoders | ({"whole": whole} if whole else {})
    seconds = time_in_turn(data, timed, rounds)
    rates = {key: 1 / statistics.median(found) for key, found in seconds.items()}
    ratios = {
        other: statistics.median(
            theirs / ours for theirs, ours in zip(seconds[other], seconds[own], strict=True)
        )
        for other in others
    }
    beside = ", ".join(f"{other} {rates[other]:.1f}" for other in others)
    cells = [name, f"{len(data) / 1e6:.1f}", f"{rates[own]:.1f}", beside]
    cells += [f"{min(ratios.values()):.2f}", str(differ)]
    cells += [f"{rates['whole']:.1f}"] if whole else []
    print(f"| {' | '.join(cells)} |", flush=True)
    return min(ratios.values()), differ


def main() -> None:
    """Prints both tables; fails where pixels differ or one of pydicom's handlers is faster."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--columns", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224, help="of the square, px")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    phantoms = draw(options.rows, options.columns)
    passed = True
    files = write_dicom(phantoms)
    print("| DICOM | MB | product | pydicom, by handler | / fastest | differ | `decode` |")
    print("|---|---|---|---|---|---|---|")
    for name, (syntax, data) in files.items():
        handlers = get_decoder(syntax).available_plugins if syntax.is_compressed else ("",)
        decoders: dict[str, Decode] = {"product": decode_stored}
        decoders |= {
            handler or "its own": partial(decode_by_pydicom, handler=handler)
            for handler in handlers
        }
        whole = partial(decode, size_px=options.size, limits=LIMITS)
        ratio, differ = compare(name, data, decoders, whole, options.rounds)
        passed &= ratio >= _TIED and not differ
    print("\n| JPEG picture | MB | product | Pillow | / fastest | differ |")
    print("|---|---|---|---|---|---|")
    grey = phantoms[8]
    for name, pixels in {"grey": grey, "colour": np.stack([grey] * 3, axis=-1)}.items():
        for peer, is_draft in {"with draft": True, "without draft": False}.items():
            decoders = {"product": partial(decode_square, size_px=options.size)}
            decoders[peer] = partial(decode_by_pillow, size_px=options.size, is_draft=is_draft)
            _, differ = compare(name, save_jpeg(pixels), decoders, None, options.rounds)
            passed &= differ <= (0 if is_draft else _SCALED_LEVELS)
    print(f"same pixels, and no handler of pydicom's faster: {'kept' if passed else 'MISSED'}")
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
