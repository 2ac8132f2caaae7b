"""The images of a training: opened or ingested, split, audited."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config.specs import CompareSpec, TrainSpec, TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.audit import audit_leakage, render_audit
from orchestrator.data.sample import sample_manifest
from orchestrator.data.schema import CLASS_NAMES, SPLITS
from orchestrator.data.source import IngestedSource, open_ingested, open_manifest
from orchestrator.data.splits import class_by_split, render_class_table, split_rows
from orchestrator.errors import DataError, SpecError
from orchestrator.pipelines.prepare.ingest import decode_limits, ingest_manifest
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_path, digest, write_json
from orchestrator.runs.run_dir import RunDir

_SHARD_ROWS = 64  # a shard of features is V passes over the backbone: small ones show progress


def open_images(
    spec: TrainSpec | CompareSpec | TuneSpec,
    session: Session,
    run: RunDir,
    reporter: Reporter,
    limit: int | None = None,
) -> IngestedSource:
    """Returns the images of a training spec as an ingested data set, ingesting them if need be.

    Args:
        spec: names the data, the image size and the seed.
        session: workers to use.
        run: where an own data set goes.
        reporter: told of the images.
        limit: about so many of the labelled images, whole patients.

    Raises:
        SpecError: a limit on an ingested data set.
        DataError: an ingested data set of another image size, or nothing to read.
    """
    # A resumed run keeps the one it has: another reading would hash DICOM patients under another
    # key, and so split them otherwise.
    finished = open_ingested(run.ingested) if (run.ingested / "dataset.json").is_file() else None
    if finished is not None:
        return finished
    manifest, ingested = open_manifest(Path(spec.data), _SHARD_ROWS)
    if ingested is not None:
        if limit is not None:
            raise SpecError(
                f"--limit {limit} cannot be met on {spec.data}, an ingested data set; name the "
                "folder of X-rays it was made from"
            )
        if ingested.size_px != spec.image_size:
            raise DataError(
                f"{spec.data} holds images of {ingested.size_px} px; expected {spec.image_size}: "
                f"give --image-size {ingested.size_px} or ingest again"
            )
        return ingested
    reporter.say(f"found {manifest.table.num_rows:,} files in {spec.data}")
    if limit is not None:
        manifest = sample_manifest(manifest, limit, seed=spec.seed, shard_rows=_SHARD_ROWS)
        reporter.say(f"took {manifest.table.num_rows:,} of them, patients whole")
    own = RunDir(run.ingested)
    identity = [spec.data, spec.image_size, spec.limits.model_dump(), limit, spec.seed]
    own.start(digest(identity), overwrite=True)
    dataset = ingest_manifest(
        manifest,
        own,
        spec.image_size,
        decode_limits(spec.limits),
        spec.patient_key_file,
        session,
        reporter,
    )
    shutil.copyfile(own.manifest, run.manifest)
    shutil.copyfile(own.rejected, run.rejected)
    return dataset


def split_images(
    spec: TrainSpec | TuneSpec, rows: pa.Table, run: RunDir, reporter: Reporter
) -> tuple[pa.Array, dict[str, dict[str, int]], dict[str, Any]]:
    """Splits and audits, says both, stores both.

    Raises:
        DataError: proven leakage, unless the spec allows it.
    """
    split = split_rows(rows, seed=spec.seed, merge_val=spec.merge_val)
    counts = class_by_split(rows, split.names)
    audit = audit_leakage(rows, split.names)
    for line in [*render_class_table(counts), *render_audit(audit)]:
        reporter.say(line)
    stored = rows.select(["row", "path", "label", "patient_id", "sha256"])
    with atomic_path(run.splits) as temporary:
        pq.write_table(stored.append_column("split", split.names), temporary)
    described = audit.as_dict()
    write_json(run.audit, {"layout": split.layout, "class_by_split": counts, "leakage": described})
    if audit.blocking and not spec.allow_leakage:
        raise DataError(
            f"images leak between the splits of {spec.data} (see {run.audit}); mend the folders "
            "or the patient ids, or add --allow-leakage"
        )
    return split.names, counts, described


def _by_split(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Images by split, then by class: what of the class-by-split table the bundle keeps."""
    return {
        split: {name: counts[split][name] for name in CLASS_NAMES}
        for split in SPLITS
        if split in counts
    }
