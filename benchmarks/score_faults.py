"""What scoring loses when a worker is killed or a file is corrupt: the product and its peers.

The same files as `benchmarks.score`, and as many seconds as it takes. A worker is killed (SIGKILL)
on the way: the process under the command that has computed longest, or the command itself where it
is all there is. Then one file in the middle is cut short. What counts is how the command ends and
how many images have a row in what it leaves.

    python -m benchmarks.score_faults --images 400
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as ds

from benchmarks.score import SOURCE, make_bundle
from benchmarks.score_peers import make_images

PEERS = ("product", "loop", "ray_data")


def run_peer(options: argparse.Namespace, peer: str, scratch: Path, kill_after: float) -> str:
    """Runs a peer; returns how it ended, the rows that it left and the seconds it took."""
    out = Path(tempfile.mkdtemp(dir=scratch))
    words = ["--peer", peer, "--folder", scratch / "images", "--model", scratch / "model"]
    words += ["--size", options.size, "--out", out]
    command = [sys.executable, "-m", "benchmarks.score", *map(str, words)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if kill_after:
        time.sleep(kill_after)
        if process.poll() is not None:
            return "was done before a worker could be killed"
        os.kill(busiest(process.pid), signal.SIGKILL)
    code = process.wait()
    ended = "ended well" if code == 0 else f"failed ({code})"
    return f"{ended}, {count_rows(out, peer)} rows, {time.perf_counter() - started:.0f} s"


def busiest(pid: int) -> int:
    """Returns the process under `pid` that has computed longest, or `pid` where it has no workers.

    Ray's own services and the decoders are no workers.
    """
    seconds: dict[int, int] = {}
    parents: dict[int, int] = {}
    for entry in (each for each in Path("/proc").iterdir() if each.name.isdigit()):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        parents[int(entry.name)] = int(fields[1])
        if line.startswith(b"ray::") and b"IDLE" not in line:
            seconds[int(entry.name)] = int(fields[11]) + int(fields[12])

    def is_under(one: int) -> bool:
        while one > 1:
            if one == pid:
                return True
            one = parents.get(one, 0)
        return False

    return max((one for one in seconds if is_under(one)), key=seconds.__getitem__, default=pid)


def count_rows(out: Path, peer: str) -> int:
    """Returns the rows of the Parquet tables of predictions."""
    folder = out / "run" / "predictions" if peer == "product" else out
    files = [str(p) for p in folder.rglob("*.parquet") if "few" not in p.parts]
    return ds.dataset(files).count_rows() if files else 0


def main() -> None:
    """Prints a row for each peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--backbone", default="EfficientNetB5")
    parser.add_argument("--source", type=Path, default=SOURCE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        make_images(options.source, scratch / "images", options.images)
        make_bundle(scratch / "model", options.backbone, options.size)
        files = sorted((scratch / "images").rglob("*.jpeg"))
        middle = files[len(files) // 2]
        for peer in PEERS:
            started = time.perf_counter()
            print(f"{peer}: undisturbed: {run_peer(options, peer, scratch, 0.0)}", flush=True)
            late = (time.perf_counter() - started) * 0.6
            print(f"{peer}: a killed worker: {run_peer(options, peer, scratch, late)}", flush=True)
            whole = middle.read_bytes()
            middle.write_bytes(whole[: len(whole) // 3])
            print(f"{peer}: a corrupt file: {run_peer(options, peer, scratch, 0.0)}", flush=True)
            middle.write_bytes(whole)


if __name__ == "__main__":
    main()
