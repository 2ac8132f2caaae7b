"""How long one table over many nights takes to answer, and how much memory.

Makes finished runs of rows in which every image differs, a part of them scored again by the last
run, and asks `latest` in a process of its own, its start and its imports included. The bars are
those of ten million rows on two cores: 10 s and 2 GiB.

    python -m benchmarks.sql
    python -m benchmarks.sql --rows 1000000 --shard-rows 256
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.manifest import write_listed
from orchestrator.data.schema import PREDICTIONS
from orchestrator.runs.run_dir import RunDir

QUERIES = (
    "SELECT label, count(*) AS n FROM latest GROUP BY label ORDER BY label",
    "SELECT run_id, count(*) AS n FROM predictions GROUP BY run_id ORDER BY run_id",
)
_AGAIN = 0.05  # share of the rows that the last run scores again


def make_runs(root: Path, num_rows: int, shard_rows: int, num_runs: int) -> int:
    """Writes the runs and returns how many images differ."""
    rng = np.random.default_rng(0)
    each = num_rows // num_runs
    first = [night * each for night in range(num_runs)]
    again = int(_AGAIN * num_rows)
    first[-1] -= again  # the last run begins with images of the one before it
    for night, start in enumerate(first):
        run = RunDir(root / f"night-{night:03d}")
        run.predictions.mkdir(parents=True)
        for shard, row in enumerate(range(0, each, shard_rows)):
            count = min(shard_rows, each - row)
            numbers = np.arange(start + row, start + row + count)
            columns = {
                "row": np.arange(row, row + count),
                "root": np.zeros(count, np.int16),
                "path": [f"studies/2026/{n // 1000:06d}/IM-{n:09d}.dcm" for n in numbers],
                "sha256": [_digest(n) for n in numbers],
                "patient_id": [f"hmac:{_digest(n // 3)[:32]}" for n in numbers],
                "label": (numbers % 3 == 0).astype(np.int8),
                "logit": rng.normal(size=count).astype(np.float32),
                "probability": rng.random(count, np.float32),
                "predicted": rng.integers(0, 2, count, np.int8),
            }
            arrays = [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(count, field.type)
                for field in PREDICTIONS
            ]
            part = run.predictions / f"part-{shard:05d}.parquet"
            pq.write_table(pa.table(arrays, schema=PREDICTIONS), part)
        write_listed((), (b"/data/xrays",), {}, run.manifest, 1)
        run.report_json.write_text(json.dumps({"counts": {"scored": each}}))
        run.status.write_text(json.dumps({"succeeded_at": f"2026-01-{night + 1:02d}T02:00:00Z"}))
        run.success.touch()
    return num_rows - again


def _digest(number: int) -> str:
    return f"{(int(number) + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251 % 2**256:064x}"


def ask(root: Path, query: str) -> tuple[float, float, float, list[dict[str, int]]]:
    """Returns seconds, CPU seconds, peak resident MiB, and the rows of a query on two cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, "-m", "orchestrator", "sql", query, "--root", str(root), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    rows = json.load(process.stdout)["rows"]  # type: ignore[arg-type]
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"the query ended with status {status}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, rows


def main() -> None:
    """Prints seconds and memory of each query, and fails above the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--shard-rows", type=int, default=16_384)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="the best counts")
    options = parser.parse_args()
    passed = True
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        differ = make_runs(root, options.rows, options.shard_rows, options.runs)
        print("| query | s | CPU, s | peak RSS, MiB |\n|---|---|---|---|")
        for query in QUERIES:
            answers = [ask(root, query) for _ in range(options.rounds)]
            seconds, cpu, memory, rows = min(answers, key=lambda answer: answer[0])
            expected = differ if "latest" in query else options.rows
            found = sum(row["n"] for row in rows)
            print(f"| `{query}` | {seconds:.1f} | {cpu:.1f} | {memory:,.0f} |", flush=True)
            if found != expected:
                raise SystemExit(f"{found:,} images instead of {expected:,}")
            passed &= seconds < 10 and memory < 2048
    print(f"bars of 10 s and 2,048 MiB: {'kept' if passed else 'MISSED'}")
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
