"""The images of a training: opened or ingested, split, audited."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.specs import CompareSpec, TrainSpec, TuneSpec
from orchestrator.config.workers import Session
from orchestrator.data.audit import audit_leakage, render_audit
from orchestrator.data.listing.notes import load_notes
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.parquet import write_parquet
from orchestrator.data.rejections import Rejections, check_rejected
from orchestrator.data.sample import sample_manifest
from orchestrator.data.schema import CLASS_NAMES, SPLITS
from orchestrator.data.source import IngestedSource, load_dataset, open_manifest
from orchestrator.data.splits import Split, class_by_split, render_class_table, split_rows
from orchestrator.errors import DataError, SpecError, counted
from orchestrator.evaluation.scope import KNOWN_FACTS
from orchestrator.pipelines.prepare.ingest import decode_limits, ingest_manifest
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir

_SHARD_ROWS = 64  # a shard of features is V passes over the backbone: small ones show progress


@dataclass(frozen=True)
class Prepared:
    """The images of a training, split and audited.

    Args:
        dataset: the decoded images.
        rows: their rows, in the order of the manifest.
        split: `train`, `val`, `test` or None of each row, pa.string().
        layout: where the split comes from.
        counts: images by split, then by class.
        audit: the leakage audit, JSON-able, and under `files` how many could not be used, and why.
    """

    dataset: IngestedSource
    rows: pa.Table
    split: pa.Array
    layout: str
    counts: dict[str, dict[str, int]]
    audit: dict[str, Any]

    def write(self, run: RunDir) -> None:
        """Writes the split and the audit into a run's folder."""
        stored = self.rows.select(["row", "path", "label", "patient_id", "sha256"])
        write_parquet(run.splits, stored.append_column("split", self.split))
        audit = {"layout": self.layout, "class_by_split": self.counts, "leakage": self.audit}
        write_json(run.audit, audit)


def prepare_images(
    spec: TrainSpec | CompareSpec | TuneSpec,
    session: Session,
    run: RunDir,
    reporter: Reporter,
    limit: int | None = None,
) -> Prepared:
    """Opens, splits and audits the images of a spec; says what it found and stores it in the run.

    Args:
        spec: names the data, the image size and the seed.
        session: workers to use.
        run: where the tables go, and the decoded images until the run is finished.
        reporter: receives the images, the split and the audit.
        limit: about so many of the labelled images, whole patients.

    Raises:
        SpecError: a limit on an ingested data set.
        DataError: an ingested data set of another image size, nothing to read, or more rejected or
            leaking images than the spec allows.
    """
    dataset = open_images(spec, session, run, reporter, limit)
    rows = dataset.load_rows()
    files = _describe_files(rows, reporter)
    num_rejected, allowed = files["files"]["rejected"], spec.max_rejected_fraction
    check_rejected(num_rejected, rows.num_rows, allowed, dataset.files.rejected)
    split = split_rows(rows, seed=spec.seed, merge_val=spec.merge_val)
    counts = class_by_split(rows, split.names)
    audit = audit_leakage(rows, split.names)
    for line in [*render_class_table(counts), *_describe_val(rows, split), *render_audit(audit)]:
        reporter.say(line)
    described = audit.as_dict() | files
    prepared = Prepared(dataset, rows, split.names, split.layout, counts, described)
    prepared.write(run)
    if audit.blocking and not spec.allow_leakage:
        raise DataError(
            f"images leak between the splits of {spec.data} (see {run.audit}); fix the folders "
            "or the patient ids, or add --allow-leakage"
        )
    return prepared


def open_images(
    spec: TrainSpec | CompareSpec | TuneSpec,
    session: Session,
    run: RunDir,
    reporter: Reporter,
    limit: int | None = None,
) -> IngestedSource:
    """Returns the images as an ingested data set, ingesting them into the run if need be.

    Args:
        spec: as for `prepare_images`, which raises the same.
        session: workers to use.
        run: where decoded images go.
        reporter: receives the images.
        limit: as for `prepare_images`.
    """
    own = run.own_dataset
    # A resumed run keeps the images it has: another reading would hash DICOM patients under another
    # key, and so split them otherwise.
    if own.described.is_file():
        return load_dataset(own)
    options = ListingOptions.of(spec)
    manifest, ingested = open_manifest(spec.data, _SHARD_ROWS, options)
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
    reporter.say(f"found {counted(manifest.table.num_rows, 'file')} in {spec.data}")
    for line in load_notes(manifest.table.schema.metadata).lines():
        reporter.say(line)
    if limit is not None:
        manifest = sample_manifest(manifest, limit, seed=spec.seed, shard_rows=_SHARD_ROWS)
        count = f"{manifest.table.num_rows:,}"
        reporter.say(f"sampled {count} files, keeping each patient together")
    return ingest_manifest(
        manifest,
        own,
        run.load_uuid(),
        spec.image_size,
        decode_limits(spec.limits),
        spec.patient_key_file,
        session,
        reporter,
        within=KNOWN_FACTS,
    )


def _describe_files(rows: pa.Table, reporter: Reporter) -> dict[str, Any]:
    """Says which files cannot be used; returns what was found, JSON-able, for the audit."""
    notes = load_notes(rows.schema.metadata)
    rejections = Rejections()
    rejected = rows.filter(pc.is_valid(rows.column("code")))
    rejections.add(rejected.select(["code", "path", "message"]).to_pylist())
    if rejections.total:
        reporter.say(
            f"{rejections.total:,} of {rows.num_rows:,} files cannot be used: "
            + rejections.describe(rows.num_rows)
        )
    files = {
        "found": rows.num_rows,
        "rejected": rejections.total,
        "rejected_by_code": rejections.by_code(),
        "ignored": notes.num_ignored,
    }
    return {"files": files, "listing": notes.as_dict()}


def _describe_val(rows: pa.Table, split: Split) -> list[str]:
    """Returns the line on validation folders that no split uses, if there are such."""
    given = pc.and_(pc.equal(rows.column("split"), "val"), pc.is_null(split.names))
    unused = pc.sum(pc.and_(given, pc.is_valid(rows.column("label")))).as_py() or 0
    if not unused:
        return []
    return [
        f"the {unused:,} images of the validation folder are not used; --merge-val adds them to "
        "train, which is divided 80/20"
    ]


def by_split(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Images by split, then by class: what of the class-by-split table the bundle keeps."""
    return {
        split: {name: counts[split][name] for name in CLASS_NAMES}
        for split in SPLITS
        if split in counts
    }
