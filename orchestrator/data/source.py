"""Rows of a manifest -> decoded images, from files or from an ingested data set.

Every command reads images through these two classes, so a folder, a table of paths and an
ingested data set give the same pixels to training and to scoring. Listing lives in `manifest.py`,
decoding of one file in `images.py`, the ingested form's writer in `orchestrator.cluster.ingest`.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data import schema
from orchestrator.data.images import DecodedImage, Limits, decode, read_file
from orchestrator.data.known import KnownIndex
from orchestrator.data.manifest import Manifest, build_manifest, load_manifest, load_shard
from orchestrator.data.parts import Images, part_path, read_part, table_images
from orchestrator.errors import DataError, ImageError

DATASET_VERSION = 1
Row = dict[str, Any]


class Source(Protocol):
    """Where the pixels of a manifest's rows come from; pickled to workers."""

    @property
    def num_shards(self) -> int:
        """Number of shards of the manifest."""

    def decode_shard(self, shard: int, num_threads: int) -> Iterator[tuple[Row, Images | None]]:
        """Yields one item a row of the shard, in order.

        Args:
            shard: number of the shard.
            num_threads: decoding threads, which run ahead of the reader.

        Yields:
            The row as a mapping with the columns of `MANIFEST` and `DECODED`, and its image,
            uint8 [size_px, size_px]; the image is None where `code` says why it was rejected, or
            `known_run` that it was scored before.
        """


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
    """

    manifest: Path
    roots: tuple[bytes, ...]
    num_shards: int
    size_px: int
    limits: Limits
    patient_key: bytes | None
    known: KnownIndex | None = None

    def decode_shard(self, shard: int, num_threads: int) -> Iterator[tuple[Row, Images | None]]:
        """Yields every row of a shard with its image; see `Source.decode_shard`."""
        rows = load_shard(self.manifest, shard).to_pylist()
        with ThreadPoolExecutor(num_threads) as pool:
            futures: list[Future[tuple[Row, Images | None]]] = [
                pool.submit(self._decode_row, row) for row in rows
            ]
            try:
                for future in futures:
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _decode_row(self, row: Row) -> tuple[Row, Images | None]:
        row |= dict.fromkeys(schema.DECODED.names)
        if row["code"] is not None:
            return row, None
        try:
            data = read_file(
                self.roots[row["root"]], schema.unescape_path(row["path"]), self.limits
            )
            known = self._find_known(data)
            if known is not None:
                return row | known, None
            image = decode(data, self.size_px, self.limits, self.patient_key)
        except ImageError as error:
            return row | {"code": error.code, "message": error.message}, None
        return row | _decoded_columns(row, image), image.pixels

    def _find_known(self, data: bytes) -> Row | None:
        """Returns what an earlier run's row for the same bytes adds to this one's, if any."""
        if self.known is None:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        origin = self.known.find_content(sha256)
        if origin is None:
            return None
        return {"sha256": sha256, "known_run": origin.run, "known_row": origin.row}


@dataclass(frozen=True)
class IngestedSource:
    """Images read back from an ingested data set.

    Args:
        folder: the data set's folder, finished.
        size_px: height and width of the stored images, px.
    """

    folder: Path
    num_shards: int
    size_px: int

    def decode_shard(self, shard: int, num_threads: int) -> Iterator[tuple[Row, Images | None]]:
        """Yields every row of a shard with its image; see `Source.decode_shard`."""
        table = self.load_table(shard)
        images = table_images(table)
        rows = table.drop_columns(["image"]).to_pylist()
        for index, row in enumerate(rows):
            yield row, images[index] if row["code"] is None else None

    def load_table(self, shard: int) -> pa.Table:
        """Returns a shard's rows, `images_schema`, its image column memory-mapped."""
        return read_part(part_path(self.folder / "images", shard))

    def load_rows(self) -> pa.Table:
        """Returns all rows without their images: `MANIFEST` and `DECODED` columns, row order.

        The schema carries the manifest's metadata, which say where splits came from.
        """
        rows = pa.concat_tables(
            self.load_table(shard).drop_columns(["image"]) for shard in range(self.num_shards)
        )
        stored = pq.read_schema(self.folder / "manifest.parquet")
        return rows.replace_schema_metadata(stored.metadata)


def open_ingested(folder: Path) -> IngestedSource | None:
    """Returns an ingested data set as a source, or None where the folder is not one.

    Args:
        folder: any folder.

    Raises:
        DataError: a data set that is unfinished or of another version.
    """
    described = folder / "dataset.json"
    if not described.is_file():
        if (folder / "images" / "part-00000.arrow").is_file():
            raise DataError(
                f"{folder} is an unfinished ingested data set; run the same `orchestrator ingest` "
                "again to finish it"
            )
        return None
    try:
        info = json.loads(described.read_text(encoding="utf-8"))
        version, size_px, shards = info["schema_version"], info["size_px"], info["num_shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{described} is not a data set description; ingest again") from error
    if version != DATASET_VERSION:
        raise DataError(
            f"{folder} has data set version {version}; this program reads {DATASET_VERSION}: "
            "ingest again"
        )
    return IngestedSource(folder=folder, num_shards=int(shards), size_px=int(size_px))


def open_manifest(data: Path, shard_rows: int) -> tuple[Manifest, IngestedSource | None]:
    """Returns the manifest of any input, and the ingested data set when it is one.

    Args:
        data: a folder, a CSV or Parquet table, or an ingested data set.
        shard_rows: rows a shard; an ingested data set keeps its own.

    Raises:
        DataError: nothing there that can be read.
    """
    if not data.exists():
        raise DataError(
            f"{data} does not exist; name a folder of X-rays, a CSV or Parquet table with a `path` "
            "column, or an ingested data set"
        )
    ingested = open_ingested(data) if data.is_dir() else None
    if ingested is not None:
        return load_manifest(data / "manifest.parquet"), ingested
    return build_manifest(data, shard_rows), None


def _decoded_columns(row: Row, image: DecodedImage) -> Row:
    """What decoding adds to a row; an id in the DICOM header outranks one in the file's name."""
    found: Row = {name: getattr(image, name) for name in schema.DECODED.names}
    if image.patient_id is not None and row["patient_source"] != "column":
        found |= {"patient_id": image.patient_id, "patient_source": "dicom"}
    return found
