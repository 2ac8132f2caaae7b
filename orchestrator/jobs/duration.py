"""How long a scoring job would take: the network's rate, measured here, and the decoder's.

The clusters that were looked at scale evenly, up to what one driver hands out (`DRIVER_SHARDS`);
see `benchmarks/RESULTS.md`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.config.specs import ScoreSpec
from orchestrator.config.workers import Session
from orchestrator.errors import counted
from orchestrator.jobs.estimate import InputFacts
from orchestrator.model.engine.load import load_engine

DRIVER_SHARDS = 1000  # a second, at 1,000 workers
_START_S = 20.0  # Ray, the engine, and the tables at the end
_MEASURED_S = 0.5
# CPU seconds of a JPEG file of an X-ray: 0.4 ms for 7 kB, 5.7 ms for 331 kB, both to 224 px.
_DECODE_FILE_S, _DECODE_BYTE_S = 0.5e-3, 17e-9


@dataclass(frozen=True)
class Duration:
    """How long a run would take.

    Args:
        seconds: from its start to its report.
        basis: what it was worked out from.
    """

    seconds: float
    basis: str


def measure_network(bundle: Path, precision: str) -> float:
    """Returns the seconds that a core of this machine takes for an image.

    Args:
        bundle: its folder.
        precision: as `load_engine` takes it.

    Raises:
        BundleError: the bundle cannot be loaded.
        SpecError: this CPU does not compute in that precision.
    """
    engine = load_engine(bundle, "openvino", 1, precision)
    batch = np.zeros((engine.batch_size, engine.size_px, engine.size_px), np.uint8)
    engine.logits(batch)  # the first call makes what later ones use
    count, started = 0, time.process_time()
    while (seconds := time.process_time() - started) < _MEASURED_S:
        engine.logits(batch)
        count += len(batch)
    return seconds / count


def estimate_duration(
    bundles: Sequence[Path],
    spec: ScoreSpec,
    precision: str,
    found: InputFacts,
    num_images: int,
    session: Session,
) -> Duration:
    """Returns how long scoring takes on CPU workers whose cores are as fast as this machine's.

    Args:
        bundles: of the models that score each image, the shadow among them.
        spec: the job.
        precision: of the engine.
        found: its input.
        num_images: of these, those to score.
        session: its workers.

    Raises:
        BundleError: a bundle cannot be loaded.
        SpecError: this CPU does not compute in that precision.
    """
    network = sum(measure_network(bundle, precision) for bundle in bundles)
    decoding = 0.0
    if found.size_px is None and found.num_files:
        decoding = _DECODE_FILE_S + _DECODE_BYTE_S * found.num_bytes / found.num_files
    num_shards = max(1, math.ceil(num_images / spec.shard_rows))
    cores = min(session.num_workers, num_shards) * session.threads_per_worker
    seconds = num_images * (network + decoding) / cores
    handed_out = num_shards / DRIVER_SHARDS
    # DICOM differs: 25 ms for 10 MB that are not compressed, 500 ms for 4 MB in JPEG 2000.
    decoded = f", and {1e3 * decoding:.1f} ms to decode a JPEG file" if decoding else ""
    basis = (
        f"{num_images:,} images x ({1e3 * network:.1f} ms for the network in {precision}, measured "
        f"on this machine{decoded}) on {counted(cores, 'core')}, plus {_START_S:.0f} s of start-up "
        "and tables"
    )
    if handed_out > seconds:
        basis = f"{num_images:,} images in shards of {spec.shard_rows}, {DRIVER_SHARDS:,} a second"
    return Duration(_START_S + max(seconds, handed_out), basis)
