"""Feeds seeded mutations of valid files of every format to the decoder and counts what happens.

    python benchmarks/fuzz_decode.py --mutations 20000

Every mutation must end as a decoded image or as an `ImageError` with a known code, within the time
and memory that a run gives it, without a word of the file in the message or on stderr. Files are
decoded in a child process, so that a crash or a hang is counted and the run goes on. Prints a line
for each format and exits 1 where any mutation crashed, hung, leaked or raised something else.

Cost: about ten minutes on one core for 20,000 mutations of each of the 20 groups of files.
"""

import argparse
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator.data.decode.decoder_process import limit_memory
from orchestrator.data.decode.images import REJECTION_CODES, Limits, decode
from orchestrator.errors import ImageError
from tests.data.field.dicom_streams import STREAM_WAYS, STRUCTURE_WAYS
from tests.data.field.dicom_values import BIT_WAYS, RANGE_WAYS, VOI_WAYS
from tests.data.field.pictures import JPEG_WAYS, OTHER_WAYS, PNG_WAYS, TIFF_WAYS
from tests.data.make_images import (
    DICOM_WAYS,
    PICTURE_WAYS,
    make_chest,
    write_dicom,
    write_picture,
)

# Ways that break a rule, so that mutations start beyond the checks of it.
FIELD_WAYS = {
    "ranges": RANGE_WAYS,
    "lookup": VOI_WAYS,
    "bits": BIT_WAYS,
    "structure": STRUCTURE_WAYS,
    "streams": STREAM_WAYS,
    "png": PNG_WAYS,
    "jpeg": JPEG_WAYS,
    "tiff": TIFF_WAYS,
    "bmp and gif": OTHER_WAYS,
}
SIZE_PX = 64
LIMITS = Limits()  # the product's own, and its limit on memory below: nothing stricter
CANARY = b"CANARY-Doe^Jane"
CANARIES = (b"CANARY", b"Doe^Jane", b"P-17")
INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00", b"\xff\xff", b"\xff\xff\xff\xff")
HEADER_BYTES = 700
MAX_SEED_BYTES = 1 << 16  # the large texts of a PNG are left out: mutations would hit little else


def build_seeds() -> dict[str, list[bytes]]:
    """Returns valid files by format, with a canary where the format has room for text."""
    grey = make_chest(72, 56)
    seeds: dict[str, list[bytes]] = {}
    for way in PICTURE_WAYS:
        seeds.setdefault(way.split()[0], []).append(write_picture(grey, way))
    seeds["jpeg"] = [jpeg[:2] + _jpeg_comment() + jpeg[2:] for jpeg in seeds["jpeg"]]
    seeds["png"] = [png[:33] + _png_text() + png[33:] for png in seeds["png"]]
    for way in DICOM_WAYS:
        data = write_dicom(grey, way)  # holds a patient's name and id
        is_compressed = way.split()[0] in ("jpeg", "jpeg-ls", "rle")
        words = way.split()[: 2 if way.startswith("jpeg ") else 1]
        kind = "dicom " + (" ".join(words) if is_compressed else "native")
        seeds.setdefault(kind, []).append(data)
    for group, ways in FIELD_WAYS.items():
        written = [way.write(grey) for way in ways.values()]
        seeds[f"field {group}"] = [data for data in written if len(data) <= MAX_SEED_BYTES]
    return seeds


def _jpeg_comment() -> bytes:
    return b"\xff\xfe" + (len(CANARY) + 2).to_bytes(2, "big") + CANARY


def _png_text() -> bytes:
    body = b"tEXtComment\0" + CANARY
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """Returns one of the seeds after one to four random changes, half of them in the header."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        end = min(len(data), HEADER_BYTES) if rng.random() < 0.5 else len(data)
        at, length = rng.randrange(max(end, 1)), rng.choice((1, 2, 4, 16, 64, 1024))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            value = rng.choice(INTERESTING)
            data[at : at + len(value)] = value
        elif kind == 2:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        elif rng.random() < 0.2:
            del data[at:]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.7:
        return _with_checksums(bytes(data))
    return bytes(data)


def _with_checksums(png: bytes) -> bytes:
    """Returns a PNG with its checksums made right, so that changes get past them."""
    out, position = bytearray(png[:8]), 8
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        body = png[position + 4 : position + 8 + length]
        out += png[position : position + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        position += 12 + length
    return bytes(out)


def mutation(kind: str, seeds: list[bytes], seed: int, index: int) -> bytes:
    """Returns mutation number `index` of a format; the same for the same arguments."""
    return mutate(seeds, random.Random(f"{seed}/{kind}/{index}"))


def judge(data: bytes) -> str:
    """Returns "decoded", a rejection code, or a word for what must not happen."""
    try:
        image = decode(data, SIZE_PX, LIMITS, b"key")
    except ImageError as error:
        if error.code not in REJECTION_CODES or error.__context__ or error.__cause__:
            return "BAD ERROR"
        leaks = any(word.decode() in error.message for word in CANARIES)
        return "LEAK" if leaks else error.code
    except Exception as error:
        return f"ESCAPED {type(error).__name__}"
    if image.pixels.shape != (SIZE_PX, SIZE_PX) or image.pixels.dtype != "uint8":
        return "BAD RESULT"
    return "decoded"


def work(sender: Connection, kind: str, seeds: list[bytes], seed: int, indices: range) -> None:
    """Child process: judges mutations and sends (index, None) before and the verdict after."""
    limit_memory(LIMITS.max_memory)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in indices:
        data = mutation(kind, seeds, seed, index)
        sender.send((index, None))
        sender.send((index, judge(data)))


def run_format(
    kind: str, seeds: list[bytes], seed: int, num_mutations: int, limit_s: float
) -> Iterator[tuple[int, str, float]]:
    """Yields (index, verdict, seconds) of every mutation, starting a new child after each loss."""
    context = multiprocessing.get_context("fork")
    index = 0
    while index < num_mutations:
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, kind, seeds, seed, range(index, num_mutations))
        child = context.Process(target=work, args=arguments)
        child.start()
        sender.close()
        started_s = time.monotonic()
        try:
            while index < num_mutations:
                if not receiver.poll(limit_s):
                    yield index, "HANG", limit_s
                    index += 1
                    break
                index, verdict = receiver.recv()
                if verdict is None:
                    started_s = time.monotonic()
                    continue
                yield index, verdict, time.monotonic() - started_s
                index += 1
        except EOFError:
            child.join()
            yield index, f"CRASH {child.exitcode}", time.monotonic() - started_s
            index += 1
        child.kill()
        child.join()


def fuzz_format(kind: str, seeds: list[bytes], options: argparse.Namespace) -> int:
    """Runs one format, prints its line and returns how many mutations failed."""
    counts: Counter[str] = Counter()
    num_failed = 0
    slowest_s = 0.0
    with tempfile.TemporaryFile() as printed:
        with stderr_to(printed.fileno()):
            results = run_format(kind, seeds, options.seed, options.mutations, options.limit_s)
            for index, verdict, seconds in results:
                counts[verdict] += 1
                slowest_s = max(slowest_s, seconds)
                if verdict[0].isupper():
                    num_failed += 1
                    print(f"{kind} {index}: {verdict}", flush=True)
                    if options.save:
                        path = options.save / f"{kind.replace(' ', '_')}_{index}"
                        path.write_bytes(mutation(kind, seeds, options.seed, index))
        printed.seek(0)
        noise = printed.read()
    if any(word in noise for word in CANARIES):
        print(f"{kind}: text of a file on stderr")
        num_failed += 1
    summary = ", ".join(f"{code} {count}" for code, count in counts.most_common())
    print(
        f"{kind:20} {sum(counts.values()):6} mutations, slowest {slowest_s * 1000:5.0f} ms, "
        f"{len(noise):6} bytes on stderr: {summary}",
        flush=True,
    )
    return num_failed


@contextmanager
def stderr_to(descriptor: int) -> Iterator[None]:
    """Sends file descriptor 2, which C libraries write to, elsewhere for a while."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def main() -> int:
    """Runs every format; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000, help="per format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=45.0, help="per file, as in a run")
    parser.add_argument("--only", default="", help="formats whose name contains this")
    parser.add_argument("--save", type=Path, help="folder for the mutations that failed")
    options = parser.parse_args()
    chosen = {kind: seeds for kind, seeds in build_seeds().items() if options.only in kind}
    num_failed = sum(fuzz_format(kind, seeds, options) for kind, seeds in chosen.items())
    print("failed:", num_failed)
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
