"""Scoring many files: peak memory of all processes, time, and that no file is lost or doubled.

Small generated JPEG files, some of them bad, go through the whole command: listing, decoding, a
small network, tables, report. Memory is the proportional set size (PSS) of the command and of every
process below it, sampled from /proc; the first two numbers of images are the bar of flat memory.
The second night is the same command again with `--only-new`, which finds every file known.

    python -m benchmarks.scale                           # 2,000 and 20,000 files
    python -m benchmarks.scale --images 100000 --bad 0.01
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from PIL import Image

from benchmarks.score import make_bundle

FILES_A_FOLDER = 1000
SOURCE_PX, MODEL_PX = 96, 64
SAMPLE_S = 0.5


def make_files(folder: Path, count: int, bad: float) -> int:
    """Writes small X-ray-like files, each of its own content; returns how many are bad."""
    rng = np.random.default_rng(0)
    every = round(1 / bad) if bad else 0
    changed_s = time.time() - 3600  # a file changed this minute is known by its content alone
    num_bad = 0
    for index in range(count):
        path = folder / f"{index // FILES_A_FOLDER:04d}" / f"{index:07d}.jpeg"
        if index % FILES_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        coarse = rng.integers(0, 256, (12, 12), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(coarse).resize((SOURCE_PX, SOURCE_PX)).save(sink, "jpeg")
        data = sink.getvalue()
        if every and index % every == 0:
            num_bad += 1
            data = (b"", b"Dear colleague", data[: len(data) // 2])[num_bad % 3]
        path.write_bytes(data)
        os.utime(path, (changed_s, changed_s))
    return num_bad


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
    """One run of the command: seconds, peak memory, report."""

    seconds: float
    peak_bytes: int
    report: dict[str, Any]


def run_score(files: Path, model: Path, root: Path) -> Measured:
    """Runs `orchestrator score --only-new` as a user would."""
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "score"]
    command += [str(files), "--model", str(model), "--out-root", str(root), "--only-new", "--json"]
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
        return Measured(seconds, memory.peak_bytes, json.loads(out.read()))


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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="2000,20000", help="numbers of files, by commas")
    parser.add_argument("--bad", type=float, default=0.01, help="share of files that are bad")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one otherwise")
    options = parser.parse_args()
    print(f"{options.backbone} at {MODEL_PX} px, {os.cpu_count()} cores")
    titles = ("files", "scored", "rejected", "seconds", "peak PSS MiB", "/ first", "again s")
    print("".join(f"{title:>14}" for title in titles))
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        model = Path(scratch, "model")
        make_bundle(model, options.backbone, MODEL_PX)
        first_bytes = 0
        for count in map(int, options.images.split(",")):
            files, root = Path(scratch, f"files-{count}"), Path(scratch, f"runs-{count}")
            num_bad = make_files(files, count, options.bad)
            night = run_score(files, model, root)
            check_rows(Path(night.report["out"]), count, num_bad)
            again = run_score(files, model, root)
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
