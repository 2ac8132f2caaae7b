"""What a scoring run has to do: its listing, less what earlier runs under `out_root` have done.

The listing is made once and stored before anything is scored. A run that goes on later goes on with
the files that were found then, and an unfinished run of another night is neither resumed nor
counted on: its images are scored here, and it can be finished by itself.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.config.specs import ScoreSpec
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.known.index import KnownIndex
from orchestrator.data.known.index_build import build_index, find_runs, known_writer, leave_out
from orchestrator.data.listing.inputs import Inputs, list_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import (
    LISTED_KEY,
    StoredManifest,
    iter_shards,
    open_manifest_file,
    rewrite_manifest,
    write_listed,
)
from orchestrator.data.parquet import open_parquet
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.shard_files import has_part, part_path, write_part
from orchestrator.progress import Reporter
from orchestrator.runs.lock import find_owner
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


@dataclass(frozen=True)
class Work:
    """The files of a scoring run.

    Args:
        manifest: those to score, with their paths.
        known: table of those left out at the listing; there may be none.
        index: what earlier runs have scored, to compare contents with; None where nothing counts.
    """

    manifest: StoredManifest
    known: Path
    index: KnownIndex | None

    @property
    def num_known(self) -> int:
        """Files left out at the listing."""
        return open_parquet(self.known).metadata.num_rows if self.known.exists() else 0


def record_terms(spec: ScoreSpec, run: RunDir, models: list[str]) -> None:
    """Stores on what terms a run scores, for later runs to know whether its rows count for them.

    Args:
        spec: the run's spec.
        run: the run, started.
        models: SHA-256 of each bundle.
    """
    run.write_status(Status.RUNNING, terms=_terms(spec, models), limits=spec.limits.model_dump())


def place_manifest(
    spec: ScoreSpec,
    run: RunDir,
    models: list[str],
    ingested: Path | None,
    naming: FileNaming,
    reporter: Reporter,
) -> Work:
    """Lists the input into the run's manifest, or takes up the listing that the run has.

    Args:
        spec: the run's spec.
        run: the run, started.
        models: SHA-256 of each bundle.
        ingested: manifest of the ingested data set where the input is one.
        naming: how the run's tables name files.
        reporter: receives what the listing left out or did not understand, and a line about
            unfinished runs and runs that cannot be read.

    Returns:
        What is to be done.

    Raises:
        DataError: nothing to score.
        ClusterError: the file system refused a write.
    """
    # Paths that are to be hashed stay out of the run's own table until they are.
    path = run.listed_manifest if naming.hashes else run.manifest
    index = KnownIndex(run.known_index)
    known = run.listed_known
    if not path.exists():
        began_ns = time.time_ns()
        if ingested is not None:
            copy_manifest(ingested, path)
        else:
            listed = list_inputs(spec.input, ListingOptions.of(spec))
            for line in listed.notes.lines(names=not naming.hashes):
                reporter.say(line)
            metadata = {**listed.metadata, LISTED_KEY: str(began_ns).encode()}
            if spec.only_new:
                _index_runs(spec, models, run.path, index.path, reporter)
                _write_new(listed, metadata, path, spec.shard_rows, index, known)
            else:
                write_listed(listed.rows(), listed.roots, metadata, path, spec.shard_rows)
    return Work(open_manifest_file(path), known, index if index.path.exists() else None)


def copy_manifest(source: Path, path: Path) -> None:
    """Copies the manifest of an ingested data set, whole or not at all."""
    rewrite_manifest(open_manifest_file(source), path, lambda table: table)


def commit_listed(work: Work, run: RunDir, schema: pa.Schema, naming: FileNaming) -> None:
    """Commits the shards in which the listing rejected every file: they need no worker.

    Args:
        work: the run's files.
        run: the run, started.
        schema: of a shard's result.
        naming: how rows name their files.
    """
    owner = run.load_uuid()
    for shard, table in enumerate(iter_shards(work.manifest)):
        path = part_path(run.shards, shard)
        if table.column("code").null_count or has_part(path, owner):
            continue
        rows = [naming.apply(row) for row in table.to_pylist()]
        write_part(path, pa.Table.from_pylist(rows, schema), owner)


def _terms(spec: ScoreSpec, models: list[str]) -> dict[str, Any]:
    """What decides a prediction, as JSON gives it back."""
    return {
        "models": models,
        "engine": spec.engine,
        "precision": spec.precision,
        "decoder": DECODER_VERSION,
    }


def _index_runs(
    spec: ScoreSpec, models: list[str], own: Path, path: Path, reporter: Reporter
) -> None:
    finished, unfinished = find_runs(
        Path(str(spec.out_root)), _terms(spec, models), spec.limits.model_dump()
    )
    for folder in unfinished:
        if folder != own and (owner := find_owner(folder)):
            reporter.say(f"{folder} does not count: it is at work ({owner})")
        elif folder != own:
            reporter.say(
                f"{folder} is unfinished and does not count: its images are scored here. To finish "
                f"it by itself: orchestrator score --resume {folder}"
            )
    for folder in build_index(path, finished):
        reporter.say(f"{folder} cannot be read and does not count: its images are scored here")


def _write_new(
    listed: Inputs,
    metadata: dict[bytes, bytes],
    path: Path,
    shard_rows: int,
    index: KnownIndex,
    known: Path,
) -> None:
    """Writes the table of known files and the manifest of the others; the manifest comes last."""

    def remaining() -> Any:
        with known_writer(known) as add:
            yield from leave_out(listed.rows(), listed.roots, index, add)

    write_listed(remaining(), listed.roots, metadata, path, shard_rows)
