"""Decode a folder once into an Arrow data set of uint8 images.

Training, searches and scoring take such a data set wherever they take a folder, and training makes
one for itself, since it reads every image more than once.

Over 300 lines, since how a data set is written, resumed and described is read together.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.cluster.session import open_session
from orchestrator.cluster.shards import run_shards
from orchestrator.config.forms import DecodeLimits
from orchestrator.config.specs import IngestSpec, Resources, TrainSpec
from orchestrator.config.workers import Session
from orchestrator.data import schema
from orchestrator.data.decode.images import Limits
from orchestrator.data.listing.notes import load_notes
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import Manifest, load_manifest, open_manifest_file, write_manifest
from orchestrator.data.parquet import write_parquet
from orchestrator.data.pseudonym import HASHED
from orchestrator.data.rejections import Rejections, check_rejected
from orchestrator.data.shard_files import check_parts, part_path, read_part
from orchestrator.data.shards import shard_limit_s
from orchestrator.data.source import (
    DATASET_VERSION,
    FileSource,
    IngestedSource,
    Source,
    open_manifest,
)
from orchestrator.errors import DataError, SpecError
from orchestrator.model.bundle import load_info
from orchestrator.model.bundle_folder import newest_bundle
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.run_dir import DatasetFiles, RunDir


@dataclass
class IngestStage:
    """Decodes one shard into a table of `images_schema`; rejected rows hold a zero image.

    Args:
        source: where the pixels come from.
        size_px: height and width of the images, px.
        num_processes: decoding processes.
        dicom_columns: what the table keeps of DICOM headers.
    """

    source: Source
    size_px: int
    num_processes: int
    dicom_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._reader = self.source.open_reader(self.num_processes)
        self._following: int | None = None

    def expect(self, following: int | None) -> None:
        """Names the shard after the next one, to be decoded ahead."""
        self._following = following

    def __call__(self, shard: int) -> pa.Table:
        """Returns every row of the shard, in order."""
        rows, images = [], []
        blank = np.zeros((self.size_px, self.size_px), np.uint8)
        for row, image in self._reader.decode_shard(shard, self._following):
            rows.append(row)
            images.append(blank if image is None else image)
        stored = schema.images_schema(self.size_px, self.dicom_columns)
        plain = pa.schema(list(stored)[:-1])
        table = pa.Table.from_pylist(rows, plain)
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(images))
        return table.append_column(stored.field("image"), tensors)


def ingest(spec: IngestSpec, resources: Resources, reporter: Reporter) -> dict[str, Any]:
    """Decodes every image of an input into a data set.

    Args:
        spec: what to decode, to what size.
        resources: what to use of the cluster.
        reporter: receives every shard.

    Returns:
        The data set's description, as in its `dataset.json`.

    Raises:
        SpecError: the output folder is taken.
        DataError: nothing to decode, or nothing that could be.
        ClusterError: a worker or the disk failed; the same command goes on later.
    """
    options = ListingOptions.of(spec)
    manifest, ingested = open_manifest(spec.input, spec.shard_rows, options)
    if ingested is not None:
        raise DataError(f"{spec.input} is an ingested data set already; name a folder of X-rays")
    size_px = spec.image_size or default_image_size(Path("models"))
    spec = spec.model_copy(update={"image_size": size_px})
    folder = Path(spec.out).absolute()
    with open_run("ingest", folder, spec, resources, reporter=reporter) as opened:
        if not opened.completed:
            _ingest(spec, size_px, resources, manifest, opened.run, reporter)
    described: dict[str, Any] = json.loads(opened.run.dataset.described.read_text())
    return described


def _ingest(
    spec: IngestSpec,
    size_px: int,
    resources: Resources,
    manifest: Manifest,
    run: RunDir,
    reporter: Reporter,
) -> None:
    """Decodes into a claimed run."""
    reads, writes = [Path(spec.input)], [run.path]
    for line in load_notes(manifest.table.schema.metadata).lines():
        reporter.say(line)
    with open_session(resources, reads=reads, writes=writes) as session:
        ingest_manifest(
            manifest,
            run.dataset,
            run.load_uuid(),
            size_px,
            decode_limits(spec.limits),
            spec.patient_key_file,
            session,
            reporter,
            spec.max_rejected_fraction,
            spec.kept_columns,
            keep_uids=spec.keep_uids,
        )


def default_image_size(models: Path) -> int:
    """Returns the image size of the newest bundle under a folder, or the train spec's own, px."""
    try:
        return load_info(newest_bundle(models)).size_px
    except SpecError:
        return int(TrainSpec.model_fields["image_size"].default)


def ingest_manifest(
    manifest: Manifest,
    files: DatasetFiles,
    owner: str,
    size_px: int,
    limits: Limits,
    patient_key_file: str | None,
    session: Session,
    reporter: Reporter,
    max_rejected_fraction: float = 1.0,
    dicom_columns: tuple[str, ...] = (),
    *,
    keep_uids: bool = False,
    within: tuple[str, ...] = (),
) -> IngestedSource:
    """Decodes every row of a manifest into a data set, resuming what is there, and describes it.

    Args:
        manifest: the rows; written first. A data set that was begun goes on with its own.
        files: of the data set.
        owner: id of the run that its shards belong to.
        size_px: height and width of the images, px.
        limits: limits on one file.
        patient_key_file: lasting key of the patient hash; a random one otherwise.
        session: workers to use.
        reporter: receives each shard.
        max_rejected_fraction: of the files.
        dicom_columns: what to keep of DICOM headers.
        keep_uids: keep UIDs as they are.
        within: more of what headers say, kept beside the images and in no other table.

    Returns:
        The finished data set.

    Raises:
        DataError: no row could be decoded, or fewer than asked for, or the stored rows do not match
            the manifest.
        ClusterError: a worker failed, or another writer has put shards of its own there.
    """
    if files.manifest.exists():
        manifest = load_manifest(files.manifest)
    else:
        write_manifest(manifest, files.manifest)
    key = load_patient_key(patient_key_file)
    source = file_source(manifest, files.manifest, size_px, limits, key, keep_uids=keep_uids)
    if patient_key_file is None:
        forget_hashed_patients(files.images, source.num_shards)
    reporter.begin("decoding", manifest.table.num_rows, "images")
    run_shards(
        lambda: IngestStage(source, size_px, session.threads_per_worker, dicom_columns + within),
        range(source.num_shards),
        files.images,
        owner,
        session,
        reporter,
        shard_limit_s(max(open_manifest_file(files.manifest).shard_rows, default=0), size_px),
    )
    reporter.end()
    check_parts(files.images, source.num_shards, owner)
    dataset = IngestedSource(files, source.num_shards, size_px, dicom_columns, keep_uids)
    _describe(dataset, manifest, max_rejected_fraction)
    return dataset


def _describe(dataset: IngestedSource, manifest: Manifest, max_rejected_fraction: float) -> None:
    """Reconciles the data set with its manifest and writes its description and rejected rows.

    Raises:
        DataError: rows are missing or doubled, or too few images could be decoded.
    """
    rows, files = dataset.load_rows(), dataset.files
    if not rows.column("row").equals(manifest.table.column("row")):
        raise DataError(
            f"{files.images} holds {rows.num_rows} rows for {manifest.table.num_rows} files found; "
            "run the same command again with --overwrite"
        )
    rejected = rows.filter(pc.is_valid(rows.column("code")))
    columns = [*schema.REJECTED.names, *dataset.dicom_columns]
    write_parquet(files.rejected, rejected.select(columns))
    num_decoded = rows.num_rows - rejected.num_rows
    if num_decoded == 0:
        rejections = Rejections()
        rejections.add(rejected.select(["code", "path", "message"]).to_pylist())
        raise DataError(
            f"none of the {rows.num_rows:,} files found could be decoded, as {files.rejected} "
            f"lists; {rejections.describe(rows.num_rows)}"
        )
    check_rejected(rejected.num_rows, rows.num_rows, max_rejected_fraction, files.rejected)
    write_json(
        files.described,
        {
            "schema_version": DATASET_VERSION,
            "size_px": dataset.size_px,
            "num_shards": dataset.num_shards,
            "num_found": rows.num_rows,
            "num_decoded": num_decoded,
            "num_rejected": rejected.num_rows,
            "num_ignored": load_notes(manifest.table.schema.metadata).num_ignored,
            "fingerprint": fingerprint(rows),
            "dicom_columns": dataset.dicom_columns,
            "keep_uids": dataset.keep_uids,
        },
    )


def fingerprint(rows: pa.Table) -> str:
    """Returns a SHA-256 over the content and label of every decoded row, whatever their order.

    Args:
        rows: columns `sha256` and `label`, and `code` where some were not decoded.
    """
    valid = rows.filter(pc.is_null(rows["code"])) if "code" in rows.column_names else rows
    pairs = sorted(
        zip(valid["sha256"].to_pylist(), valid["label"].to_pylist(), strict=True), key=str
    )
    return hashlib.sha256("\n".join(f"{s} {label}" for s, label in pairs).encode()).hexdigest()


def file_source(
    manifest: Manifest,
    stored: Path,
    size_px: int,
    limits: Limits,
    patient_key: bytes,
    *,
    keep_uids: bool = False,
) -> FileSource:
    """Returns the source that decodes a stored manifest's files."""
    shards = manifest.table.column("shard")
    num_shards = 0 if manifest.table.num_rows == 0 else pc.max(shards).as_py() + 1
    return FileSource(
        manifest=stored,
        roots=manifest.roots,
        num_shards=num_shards,
        size_px=size_px,
        limits=limits,
        patient_key=patient_key,
        keep_uids=keep_uids,
    )


def decode_limits(limits: DecodeLimits) -> Limits:
    """Returns the decoder's limits from the spec's."""
    return Limits(**limits.model_dump(exclude_none=True))


def forget_hashed_patients(folder: Path, num_shards: int) -> None:
    """Removes committed shards with hashes of DICOM headers under a key that is gone.

    The random key of a run is never stored, so a resumed run has another one; the same patient
    under two keys would look like two, and so would a study.
    """
    for shard in range(num_shards):
        path = part_path(folder, shard)
        if path.exists() and _holds_header_hashes(read_part(path)):
            path.unlink()


def _holds_header_hashes(table: pa.Table) -> bool:
    uids = [name for name in table.column_names if name.endswith("_uid")]
    return "dicom" in table.column("patient_source").unique().to_pylist() or any(
        pc.any(pc.starts_with(table.column(name), HASHED)).as_py() for name in uids
    )


def load_patient_key(path: str | None) -> bytes:
    """Returns the key in a file, or a fresh random one that is stored nowhere.

    Raises:
        SpecError: the file cannot be read or holds fewer than 16 bytes.
    """
    if path is None:
        return secrets.token_bytes(32)
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise SpecError(f"cannot read the patient key file {path}: {error.strerror}") from error
    if len(key) < 16:
        raise SpecError(
            f"the patient key file {path} holds {len(key)} bytes; expected at least 16: make one "
            "with `openssl rand -hex 32`"
        )
    return key
