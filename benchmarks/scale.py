"""Scoring many files: peak memory of all processes, time, and that no file is lost or doubled.

Small generated JPEG files, some of them bad, go through the whole command: listing, decoding, a
small network, tables, report. Memory is the proportional set size (PSS) of the command and of every
process below it, sampled from /proc; the first two numbers of images are the bar of flat memory.
The second night is the same command again with `--only-new`, which finds every file known.

`--known` measures a night without news over a large archive: real files of one byte, which the
listing looks at, and a finished run that says it has scored them. The first night reads that run
into the index, the second is measured against its bars.

`--dicom-columns` makes the files DICOM, in folders of their classes, and gives the command the flag
of that name: tables and report then hold what the headers say.

    python -m benchmarks.scale                           # 2,000 and 20,000 files
    python -m benchmarks.scale --images 100000 --bad 0.01
    python -m benchmarks.scale --known 1000000
    python -m benchmarks.scale --dicom-columns --images 2000,100000
    python -m benchmarks.scale --simulate                # see benchmarks.simulation
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from benchmarks.score import make_bundle
from benchmarks.simulation import simulate
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import (
    LISTED_KEY,
    iter_shards,
    open_manifest_file,
    write_listed,
)
from orchestrator.data.parquet import write_parquet
from orchestrator.data.schema import CLASS_NAMES, PREDICTIONS
from orchestrator.runs.run_dir import RunDir

FILES_A_FOLDER = 1000
SOURCE_PX, MODEL_PX = 96, 64
SAMPLE_S = 0.5
MOST_NIGHT_S, MOST_NIGHT_BYTES = 15, 1_000_000  # the bars of a night without news


def make_files(folder: Path, count: int, bad: float, *, as_dicom: bool = False) -> int:
    """Writes small X-ray-like files, each of its own content; returns how many are bad."""
    make = DicomMaker() if as_dicom else make_jpeg
    rng = np.random.default_rng(0)
    every = round(1 / bad) if bad else 0
    changed_s = time.time() - 3600  # a file changed this minute is known by its content alone
    num_bad = 0
    for index in range(count):
        path = folder / f"{index // FILES_A_FOLDER:04d}" / f"{index:07d}.jpeg"
        if as_dicom:
            of_class = CLASS_NAMES[index // FILES_A_FOLDER % 2]
            path = path.parent / of_class / f"{index:07d}.dcm"
        if index % FILES_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        data = make(coarse.resize((SOURCE_PX, SOURCE_PX)))
        if every and index % every == 0:
            num_bad += 1
            data = (b"", b"Dear colleague", data[: len(data) // 2])[num_bad % 3]
        path.write_bytes(data)
        os.utime(path, (changed_s, changed_s))
    return num_bad


def make_jpeg(image: Image.Image) -> bytes:
    """Returns an image as a JPEG file."""
    sink = io.BytesIO()
    image.save(sink, "jpeg")
    return sink.getvalue()


class DicomMaker:
    """Makes DICOM files that differ in what their headers say: one header, changed in places."""

    def __init__(self) -> None:
        data_set = Dataset()
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data_set.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
        data_set.SOPInstanceUID = data_set.StudyInstanceUID = "1.2.840.99.1000000"
        data_set.SeriesInstanceUID = "1.2.840.99.1000000"
        data_set.Modality, data_set.PresentationIntentType = "DX", "FOR PRESENTATION"
        data_set.Manufacturer, data_set.ManufacturerModelName = "Maker", "Model 00"
        data_set.PatientID, data_set.PatientAge, data_set.PatientSex = "ID0000000", "000Y", "F"
        data_set.ViewPosition, data_set.BodyPartExamined = "PA", "CHEST"
        data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
        data_set.Rows = data_set.Columns = SOURCE_PX
        data_set.BitsAllocated = data_set.BitsStored = 8
        data_set.HighBit, data_set.PixelRepresentation = 7, 0
        data_set.PixelData = bytes(SOURCE_PX * SOURCE_PX)
        sink = io.BytesIO()
        data_set.save_as(sink, enforce_file_format=True)
        self._header = sink.getvalue()[: -SOURCE_PX * SOURCE_PX]
        self._made = 0

    def __call__(self, image: Image.Image) -> bytes:
        """Returns an image as a DICOM file."""
        number = self._made
        self._made += 1
        changes = {
            b"99.1000000": b"99.%d" % (1_000_000 + number),
            b"ID0000000": b"ID%07d" % (number // 3),
            b"000Y": b"%03dY" % (number % 95),
            b"CS\2\0F ": b"CS\2\0M " if number % 2 else b"CS\2\0F ",
            b"Model 00": b"Model %02d" % (number % 20),
        }
        header = self._header
        for old, new in changes.items():
            header = header.replace(old, new)
        return header + image.tobytes()


class Memory:
    """Samples the memory of a process and of all below it, in a thread.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, family(self._pid))))


def family(pid: int) -> list[int]:
    """Returns a process and every process below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, in parentheses, may hold anything; the parent is the second field after it.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def pss_bytes(pid: int) -> int:
    """Returns a process's proportional set size, 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


@dataclass(frozen=True)
class Measured:
    """One run of the command: seconds, peak memory, bytes written to disk, report."""

    seconds: float
    peak_bytes: int
    written_bytes: int
    report: dict[str, Any]


def run_score(files: Path, model: Path, root: Path, *flags: str) -> Measured:
    """Runs `orchestrator score --only-new` as a user would."""
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "score"]
    command += [str(files), "--model", str(model), "--out-root", str(root), "--only-new", "--json"]
    command += flags
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        memory = Memory(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - started
        memory.stop()
        out.seek(0)
        errors.seek(0)
        if code:
            sys.exit(f"orchestrator score ended with {code}:\n{errors.read()[-2000:]}")
        # Whole pages of all files, temporary ones included, in the kernel's units of 512 bytes.
        blocks = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before
        return Measured(seconds, memory.peak_bytes, 512 * blocks, json.loads(out.read()))


def check_rows(run: Path, count: int, num_bad: int) -> None:
    """Ends the benchmark where a file has no row, or two."""
    paths: list[str] = []
    sizes = []
    for name in ("predictions", "rejected.parquet"):
        found = ds.dataset(run / name, format="parquet").to_table(columns=["path"])
        sizes.append(found.num_rows)
        paths += found["path"].to_pylist()
    if sizes != [count - num_bad, num_bad] or len(set(paths)) != count:
        sys.exit(f"{count} files, {num_bad} bad: {sizes} rows, {len(set(paths))} distinct paths")


def make_archive(folder: Path, count: int) -> None:
    """Adds files of one byte, in folders of a thousand."""
    changed_s = time.time() - 3600
    for index in range(count):
        path = folder / f"{index // FILES_A_FOLDER:04d}" / f"{index:07d}.jpeg"
        if index % FILES_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        os.utime(path, (changed_s, changed_s))


def say_scored(run: RunDir, files: Path) -> None:
    """Writes the tables of a finished run anew, as if it had scored every file of a folder."""
    listed = list_inputs([files])
    metadata = {**listed.metadata, LISTED_KEY: str(time.time_ns()).encode()}
    write_listed(listed.rows(), listed.roots, metadata, run.manifest, 10_000)
    rng = np.random.default_rng(0)
    for shard, table in enumerate(iter_shards(open_manifest_file(run.manifest))):
        given: dict[str, Any] = {name: table[name] for name in ("row", "root", "path")}
        given["sha256"] = [rng.bytes(32).hex() for _ in range(len(table))]
        given["probability"] = rng.random(len(table), np.float32)
        nulls = {f.name: pa.nulls(len(table), f.type) for f in PREDICTIONS if f.name not in given}
        scored = pa.table(given | nulls).select(PREDICTIONS.names).cast(PREDICTIONS)
        write_parquet(run.predictions / f"part-{shard:05d}.parquet", scored)


def measure_known(scratch: Path, model: Path, count: int) -> bool:
    """Prints a night without news over an archive that is known; returns whether it is in time."""
    files, root = scratch / "files", scratch / "runs"
    make_files(files, 1, 0)
    first = run_score(files, model, root)
    make_archive(files / "archive", count)
    say_scored(RunDir(Path(first.report["out"])), files)
    nights = [run_score(files, model, root) for _ in range(3)]
    for night in nights:
        counts = night.report["counts"]
        if (counts["found"], counts["scored_before"]) != (count + 1, count + 1):
            sys.exit(f"{count + 1} files, all known: {counts}")
    titles = ("known files", "night", "seconds", "MB written", "peak PSS MiB")
    print("".join(f"{title:>14}" for title in titles))
    for name, night in zip(("indexing", "no news", "no news"), nights, strict=True):
        print(
            f"{count:>14,}{name:>14}{night.seconds:>14.1f}{night.written_bytes / 1e6:>14.2f}"
            f"{night.peak_bytes / 2**20:>14.0f}"
        )
    slowest = max(night.seconds for night in nights[1:])
    most = max(night.written_bytes for night in nights[1:])
    met = slowest < MOST_NIGHT_S and most < MOST_NIGHT_BYTES
    print(
        f"bars of a night without news: under {MOST_NIGHT_S} s and {MOST_NIGHT_BYTES / 1e6:g} MB "
        f"written: {'met' if met else 'MISSED'}"
    )
    return met


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="2000,20000", help="numbers of files, by commas")
    parser.add_argument("--bad", type=float, default=0.01, help="share of files that are bad")
    parser.add_argument("--known", type=int, help="known files of a night without news")
    parser.add_argument("--dicom-columns", action="store_true", help="of DICOM files with labels")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one otherwise")
    parser.add_argument("--simulate", action="store_true", help="the driver with stub workers")
    options = parser.parse_args()
    if options.simulate:
        simulate()
        return
    print(f"{options.backbone} at {MODEL_PX} px, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        model = Path(scratch, "model")
        make_bundle(model, options.backbone, MODEL_PX)
        if options.known:
            sys.exit(not measure_known(Path(scratch), model, options.known))
        titles = ("files", "scored", "rejected", "seconds", "peak PSS MiB", "/ first", "again s")
        print("".join(f"{title:>14}" for title in titles))
        first_bytes = 0
        for count in map(int, options.images.split(",")):
            files, root = Path(scratch, f"files-{count}"), Path(scratch, f"runs-{count}")
            num_bad = make_files(files, count, options.bad, as_dicom=options.dicom_columns)
            flags = ["--dicom-columns"] if options.dicom_columns else []
            night = run_score(files, model, root, *flags)
            check_rows(Path(night.report["out"]), count, num_bad)
            again = run_score(files, model, root, *flags)
            counts, known = night.report["counts"], again.report["counts"]
            if known["scored_before"] + known["rejected_before"] != count:
                sys.exit(f"the second night found {known} of {count} files")
            first_bytes = first_bytes or night.peak_bytes
            print(
                f"{count:>14,}{counts['scored']:>14,}{counts['rejected']:>14,}"
                f"{night.seconds:>14.1f}{night.peak_bytes / 2**20:>14.0f}"
                f"{night.peak_bytes / first_bytes:>14.2f}{again.seconds:>14.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
