"""What a scoring run has to do: its listing, less what earlier runs under `out_root` have done.

The listing is made once and stored before anything is scored. A run that goes on later goes on with
the files that were found then, and an unfinished run of another night is neither resumed nor
counted on: its images are scored here, and it can be finished by itself.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.config.specs import ScoreSpec
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.known.index import KnownIndex, OpenIndex
from orchestrator.data.known.index_build import digest_limits, update_index
from orchestrator.data.known.known_files import KnownFiles, iter_known, known_writer
from orchestrator.data.listing.inputs import Inputs, list_inputs
from orchestrator.data.listing.listed_rows import ListedFile
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import (
    LISTED_KEY,
    StoredManifest,
    iter_shards,
    open_manifest_file,
    rewrite_manifest,
    write_listed,
)
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.shard_files import has_part, part_path, write_part
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.lock import find_owner
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


@dataclass(frozen=True)
class Work:
    """The files of a scoring run.

    Args:
        manifest: those to score, with their paths.
        restored: table of those left out at the listing that are back in an earlier state; there
            may be none.
        left_out: the number of files left out at the listing, as `KnownFiles.counts` gives it.
        index: what earlier runs have scored, to compare contents with; None where nothing counts.
    """

    manifest: StoredManifest
    restored: Path
    left_out: list[dict[str, Any]]
    index: KnownIndex | None

    @property
    def num_known(self) -> int:
        """Files left out at the listing."""
        return sum(row["files"] for row in self.left_out)


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
    if not path.exists():
        began_ns = time.time_ns()
        if ingested is not None:
            copy_manifest(ingested, path)
        else:
            known = _open_index(spec, models, run, reporter) if spec.only_new else None
            listed = list_inputs(spec.input, ListingOptions.of(spec), known)
            for line in listed.notes.lines(names=not naming.hashes):
                reporter.say(line)
            metadata = {**listed.metadata, LISTED_KEY: str(began_ns).encode()}
            rows = listed.rows() if known is None else _new_rows(listed, known, run)
            write_listed(rows, listed.roots, metadata, path, spec.shard_rows)
    index = None
    if run.listed_index.exists():
        stored = json.loads(run.listed_index.read_text(encoding="utf-8"))
        if Path(stored["folder"]).is_dir():  # otherwise all that is left to do is scored
            index = KnownIndex(Path(stored["folder"]), tuple(stored["runs"]))
    return Work(open_manifest_file(path), run.listed_known, _load_left_out(run), index)


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
        # Runs of earlier versions have no such key, and none was given there.
        **({} if spec.threshold is None else {"threshold": spec.threshold}),
        **({} if spec.review_target is None else {"review": list(spec.review_target)}),
    }


def _open_index(spec: ScoreSpec, models: list[str], run: RunDir, reporter: Reporter) -> KnownFiles:
    """Returns what is known, and stores for the run's workers which index that is."""
    root = Path(str(spec.out_root))
    files, state, unfinished = update_index(root, _terms(spec, models), reporter)
    for folder in unfinished:
        if folder.absolute() == run.path:
            continue
        if owner := find_owner(folder):
            reporter.say(f"{folder} does not count: it is at work ({owner})")
        else:
            reporter.say(
                f"{folder} is unfinished and does not count: its images are scored here. To finish "
                f"it by itself: orchestrator score --resume {folder}"
            )
    keys = [earlier.key for earlier in state.runs]
    if keys:
        write_json(run.listed_index, {"folder": os.fsdecode(files.folder), "runs": keys})
    limits = digest_limits(spec.limits.model_dump())
    return KnownFiles(OpenIndex(files, state, frozenset(keys), limits))


def _new_rows(listed: Inputs, known: KnownFiles, run: RunDir) -> Iterator[ListedFile]:
    """Yields the files to score; what is stored of the others is there before the manifest is."""
    with known_writer(run.listed_known) as add:
        yield from known.leave_out(listed.rows(), listed.roots, add)
    write_json(run.listed_counts, known.counts())


def _load_left_out(run: RunDir) -> list[dict[str, Any]]:
    if run.listed_counts.exists():
        counts: list[dict[str, Any]] = json.loads(run.listed_counts.read_text(encoding="utf-8"))
        return counts
    # A run that an earlier version has listed has a row of each file.
    found: dict[Any, dict[str, Any]] = {}
    for row in iter_known(run.listed_known):
        names = {"root": row["root"], "code": row["code"], "files": 0}
        first = {"first_root": row["root"], "first": row["path"]}
        found.setdefault((row["root"], row["code"]), names | first)["files"] += 1
    return list(found.values())
