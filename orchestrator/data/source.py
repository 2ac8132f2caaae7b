"""Rows of a manifest -> decoded images, from files or from an ingested data set.

Every command reads images through these two classes, so a folder, a table of paths and an
ingested data set give the same pixels to training and to scoring. Listing lives in `manifest.py`,
decoding of one file in `decode/images.py`, the ingested form's writer in
`orchestrator.pipelines.prepare.ingest`.

Over 300 lines, since the two sources and what reads them keep one promise.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from orchestrator.config.addresses import is_address
from orchestrator.data import schema
from orchestrator.data.decode.decoders import DecoderPool
from orchestrator.data.decode.dicom_facts import DicomFacts
from orchestrator.data.decode.images import DecodedImage, Limits
from orchestrator.data.file_decoder import Decoded, FileDecoder
from orchestrator.data.known.index import KnownIndex, Origin
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import Manifest, build_manifest, load_manifest, load_shard
from orchestrator.data.parquet import open_parquet
from orchestrator.data.roots import STORAGE_CODES, Roots
from orchestrator.data.shard_files import Images, part_path, read_part, table_images
from orchestrator.errors import DataError, ImageError, describe_newer
from orchestrator.runs.run_dir import DatasetFiles, RunDir

DATASET_VERSION = 1
Row = dict[str, Any]
# Wall-clock time beyond the limit on processor time after which a decoder counts as hung, s: it
# covers a slow disk and a busy machine.
_MARGIN_S = 15.0
# Rows decoded ahead of the reader: enough for a GPU's batch, and for the decoders to go on while
# the last batches of a shard are computed; and some for each process.
_AHEAD, _AHEAD_EACH = 160, 8
_MAX_RETRIES = 2  # of a file that its process could not read and this one can


class Source(Protocol):
    """Where the pixels of a manifest's rows come from; pickled to workers."""

    @property
    def num_shards(self) -> int:
        """Number of shards of the manifest."""

    def open_reader(self, num_processes: int) -> "Reader":
        """Returns what reads shards in the calling process.

        Args:
            num_processes: most decoding processes.
        """


class Reader(Protocol):
    """Reads shards of a source, one at a time."""

    def decode_shard(
        self, shard: int, following: int | None = None
    ) -> Iterator[tuple[Row, Images | None]]:
        """Yields one item a row of the shard, in order.

        Args:
            shard: number of the shard.
            following: the shard that will be asked for next, decoded ahead once this one's files
                have all been handed out; None where it is not known.

        Yields:
            The row as a mapping with the columns of `MANIFEST` and `DECODED`, for a decoded file
            `file_format` and for DICOM what `DicomFacts` holds, and its image, uint8 [size_px,
            size_px]; the image is None where `code` says why it was rejected, or `known_run` that
            it was scored before.
        """

    def close(self) -> None:
        """Ends what was started to read."""


@dataclass(frozen=True)
class FileSource:
    """Images decoded from files on a file system.

    Args:
        manifest: path of the stored manifest.
        roots: the manifest's input roots, as bytes.
        size_px: height and width of the decoded images, px.
        limits: limits on one file.
        patient_key: key of the hash under which DICOM patient ids are kept.
        known: what earlier runs have scored; images found there are not decoded, and their rows
            name the run under `known_run` and the row under `known_row`.
        keep_uids: keep the UIDs of DICOM files as they are.
    """

    manifest: Path
    roots: tuple[bytes, ...]
    num_shards: int
    size_px: int
    limits: Limits
    patient_key: bytes | None
    known: KnownIndex | None = None
    keep_uids: bool = False

    def open_reader(self, num_processes: int) -> "FileReader":
        """Returns a reader with decoding processes of its own; see `Source.open_reader`."""
        return FileReader(self, num_processes)


@dataclass
class _Passage:
    """A shard's rows on their way through the decoders."""

    waiting: deque[Row]
    in_flight: deque[tuple[Row, Future[Decoded] | None]] = field(default_factory=deque)


class FileReader:
    """Decodes the files of one shard after the other, ahead of who reads them.

    Args:
        source: the files.
        num_processes: most decoding processes.
    """

    def __init__(self, source: FileSource, num_processes: int) -> None:
        self._source = source
        self._roots = Roots(source.roots, source.manifest.stat().st_mtime_ns)
        self._decoder = FileDecoder(
            source.roots,
            source.size_px,
            source.limits,
            source.patient_key,
            source.known,
            source.keep_uids,
        )
        self._pool = DecoderPool(
            self._decoder,
            num_processes,
            source.limits.max_seconds + _MARGIN_S,
            source.size_px,
            source.limits.max_memory,
            self._decoder.fetch,
            self._decoder.read,
        )
        self._most_in_flight = _AHEAD + _AHEAD_EACH * num_processes
        self._begun: dict[int, _Passage] = {}

    def decode_shard(
        self, shard: int, following: int | None = None
    ) -> Iterator[tuple[Row, Images | None]]:
        """Yields every row of a shard with its image; see `Reader.decode_shard`."""
        passage = self._begun.pop(shard, None) or self._begin(shard)
        while passage.waiting or passage.in_flight:
            self._send(passage, self._most_in_flight)
            if following is not None and not passage.waiting:
                if following not in self._begun:
                    self._begun[following] = self._begin(following)
                room = self._most_in_flight - len(passage.in_flight)
                self._send(self._begun[following], room)
            row, future = passage.in_flight.popleft()
            yield self._finish(row, future)

    def close(self) -> None:
        """Ends the decoding processes."""
        self._pool.close()

    def _begin(self, shard: int) -> _Passage:
        return _Passage(deque(load_shard(self._source.manifest, shard).to_pylist()))

    def _send(self, passage: _Passage, most: int) -> None:
        """Hands out a shard's files until so many rows are in flight."""
        while passage.waiting and len(passage.in_flight) < most:
            row = passage.waiting.popleft() | dict.fromkeys(schema.DECODED.names)
            future = None
            if row["code"] is None:
                future = self._pool.submit(_file_of(row))
            passage.in_flight.append((row, future))

    def _finish(self, row: Row, future: Future[Decoded] | None) -> tuple[Row, Images | None]:
        """Returns a row with what decoding found, once it has."""
        if future is None:
            return row, None
        try:
            found = self._result(row, future)
        except ImageError as error:
            rejected = {"code": error.code, "message": error.message}
            return row | rejected | _facts_columns(error.facts), None
        if isinstance(found, Origin):
            known = {"known_run": found.run, "known_row": found.row}
            return row | {"sha256": found.sha256} | known, None
        return row | _decoded_columns(row, found), found.pixels

    def _result(self, row: Row, future: Future[Decoded]) -> Decoded:
        """Returns what decoding found, tried again where the storage was gone for a moment.

        Raises:
            ImageError: the file cannot be used.
            ClusterError: the storage is gone.
        """
        for _ in range(_MAX_RETRIES):
            try:
                return future.result()
            except ImageError as error:
                if error.code not in STORAGE_CODES or self._roots.is_remote(row["root"]):
                    raise
            file = _file_of(row)
            try:
                self._decoder.read(file)
            except ImageError:
                self._roots.check(*file)
                raise
            future = self._pool.submit(file)
        return future.result()


def _file_of(row: Row) -> tuple[int, bytes]:
    """Returns the number of a file's root and its path there."""
    return row["root"], schema.unescape_path(row["path"])


@dataclass(frozen=True)
class IngestedSource:
    """Images read back from an ingested data set.

    Args:
        files: of the data set, which is whole.
        num_shards: files of images.
        size_px: height and width of the stored images, px.
        dicom_columns: what it keeps of DICOM headers.
        keep_uids: whether it keeps UIDs as they are.
    """

    files: DatasetFiles
    num_shards: int
    size_px: int
    dicom_columns: tuple[str, ...] = ()
    keep_uids: bool = False

    def open_reader(self, num_processes: int) -> "IngestedSource":
        """Returns itself: nothing is decoded; see `Source.open_reader`."""
        return self

    def close(self) -> None:
        """Does nothing: nothing was started."""

    def decode_shard(
        self, shard: int, following: int | None = None
    ) -> Iterator[tuple[Row, Images | None]]:
        """Yields every row of a shard with its image; see `Reader.decode_shard`."""
        table = self.load_table(shard)
        images = table_images(table)
        rows = table.drop_columns(["image"]).to_pylist()
        for index, row in enumerate(rows):
            yield row, images[index] if row["code"] is None else None

    def load_table(self, shard: int) -> pa.Table:
        """Returns a shard's rows, `images_schema`, its image column memory-mapped."""
        return read_part(part_path(self.files.images, shard))

    def load_rows(self) -> pa.Table:
        """Returns all rows without their images: `MANIFEST` and `DECODED` columns, row order.

        The schema carries the manifest's metadata, which say where splits came from.
        """
        rows = pa.concat_tables(
            (self.load_table(shard).drop_columns(["image"]) for shard in range(self.num_shards)),
            promote_options="default",  # shards of an earlier version lack the newest columns
        )
        stored = open_parquet(self.files.manifest).schema_arrow
        return rows.replace_schema_metadata(stored.metadata)


def open_ingested(folder: Path) -> IngestedSource | None:
    """Returns an ingested data set as a source, or None where the folder is not one.

    Args:
        folder: any folder.

    Raises:
        DataError: a data set that is unfinished or of a newer version.
    """
    files = RunDir(folder).dataset
    if not files.described.is_file():
        if part_path(files.images, 0).is_file():
            raise DataError(
                f"{folder} is an unfinished ingested data set; run the same `orchestrator ingest` "
                "again to finish it"
            )
        return None
    return load_dataset(files)


def load_dataset(files: DatasetFiles) -> IngestedSource:
    """Returns a data set that is whole, raising DataError where it is of a newer version."""
    described = files.described
    try:
        info = json.loads(described.read_text(encoding="utf-8"))
        version, size_px, shards = info["schema_version"], info["size_px"], info["num_shards"]
        # Earlier versions kept nothing of DICOM headers.
        kept = (tuple(info.get("dicom_columns", ())), bool(info.get("keep_uids")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{described} is not a data set description; ingest again") from error
    if not isinstance(version, int) or version < 1:
        raise DataError(f"{described} is not a data set description; ingest again")
    if version > DATASET_VERSION:
        raise DataError(describe_newer(described.parent, version, DATASET_VERSION))
    return IngestedSource(files, int(shards), int(size_px), *kept)


def open_manifest(
    data: str | Path, shard_rows: int, options: ListingOptions | None = None
) -> tuple[Manifest, IngestedSource | None]:
    """Returns the manifest of any input, and the ingested data set when it is one.

    Args:
        data: a folder or a CSV or Parquet table, each also behind an address, or an ingested data
            set.
        shard_rows: rows a shard; an ingested data set keeps its own.
        options: what else the user says of it.

    Raises:
        SpecError: options that an ingested data set was not made with.
        DataError: nothing there that can be read.
    """
    if is_address(str(data)):
        return build_manifest(data, shard_rows, options), None
    data = Path(data)
    if not data.exists():
        raise DataError(
            f"{data} does not exist; name a folder of X-rays, a CSV or Parquet table with a `path` "
            "column, or an ingested data set"
        )
    ingested = open_ingested(data) if data.is_dir() else None
    if ingested is not None:
        manifest = load_manifest(ingested.files.manifest)
        if options is not None:
            options.check_ingested(manifest.table.schema.metadata, data)
        return manifest, ingested
    return build_manifest(data, shard_rows, options), None


def _decoded_columns(row: Row, image: DecodedImage) -> Row:
    """What decoding adds to a row; an id in the DICOM header outranks one in the file's name."""
    found: Row = {name: getattr(image, name) for name in schema.DECODED.names}
    found |= {"file_format": image.file_format} | _facts_columns(image.facts)
    if image.patient_id is not None and row["patient_source"] != "column":
        found |= {"patient_id": image.patient_id, "patient_source": "dicom"}
    return found


def _facts_columns(facts: object) -> Row:
    return vars(facts) if isinstance(facts, DicomFacts) else {}
