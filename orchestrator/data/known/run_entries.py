"""What a finished run adds to the index: an entry for each file that it knows for good.

A file is known where a finished run that scored on the same terms has a row for it:

- the same path, size and time of change: known without a look at the file;
- otherwise the same bytes, by SHA-256, as an image that was scored: known without decoding it.

A file that was rejected for its content stays known as long as path, size, time and limits are the
same. What was rejected for want of permission, memory or the file itself is tried again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import path_hash, whole_path
from orchestrator.data.known.segments import Numbers
from orchestrator.data.manifest import iter_shards, open_manifest_file
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import unescape_path
from orchestrator.runs.run_dir import RunDir

# Rejected for what may pass: tried again at the next chance. A decoder also hangs on storage that
# stalls, and crashes for want of memory: better lost time each night than an X-ray never scored.
_PASSING = frozenset(
    {
        "unreadable",
        "missing_file",
        "unlistable_folder",
        "out_of_memory",
        "decoder_hung",
        "decoder_crashed",
    }
)
# Rejected by the listing alone; a file that a listing took and that became one of these is moving.
_OF_LISTING = frozenset({"not_a_file", "link_outside_root", "link_loop"})
# A file changed this shortly before it was listed could change again without a new time.
_SETTLED_NS = 2 * 10**9
_BATCH_ROWS = 4096

# Hash of the path, size, time, number of the run, row, number of the code, and SHA-256.
Entry = tuple[bytes, int | None, int | None, int, int, int, bytes]
_NO_SHA = bytes(32)


def entry_columns(entries: Sequence[Entry]) -> Numbers:
    """Returns entries as columns, [NUM_GIVEN, entry]."""
    paths, sizes, times, *plain, shas = zip(*entries, strict=True)
    return np.concatenate(
        [
            seg.hash_numbers(paths),
            np.stack([seg.state_numbers(sizes), seg.state_numbers(times)]),
            np.array(plain, np.uint64),
            seg.hash_numbers(shas),
        ]
    )


def read_entries(
    folder: Path, number: int, numbers: Mapping[str, int], codes: list[str]
) -> Iterator[Entry]:
    """Yields what one run has processed.

    Args:
        folder: of the run.
        number: of the run in the index.
        numbers: those of earlier runs, by name; a prediction in a run that is gone is lost.
        codes: rejection codes; new ones are appended.
    """
    run = RunDir(folder)
    stored = open_manifest_file(run.manifest)
    settled = (stored.listed_ns or 0) - _SETTLED_NS
    table = open_parquet(run.rejected).read(columns=["row", "code"])
    rejected = dict(zip(table["row"].to_pylist(), table["code"].to_pylist(), strict=True))
    columns = ["row", "root", "path", "size_bytes", "mtime_ns", "code"]
    for shard, table in enumerate(iter_shards(stored, columns)):
        part = run.predictions / f"part-{shard:05d}.parquet"
        scored = open_parquet(part).read(columns=["row", "sha256"])
        hashes = dict(zip(scored["row"].to_pylist(), scored["sha256"].to_pylist(), strict=True))
        for row, root, path, size, mtime, listed in zip(
            *(table[column].to_pylist() for column in columns), strict=True
        ):
            # What a listing took has a size; where its store tells no time, contents are compared.
            settles = size is None if mtime is None else mtime < settled
            file = path_hash(whole_path(stored.roots[root], unescape_path(path)))
            if row in hashes:
                sha = bytes.fromhex(hashes[row])
                yield _scored(file if settles else None, size, mtime, number, row, sha)
            elif settles and _lasts(code := rejected.get(row), listed):
                if code not in codes:
                    codes.append(str(code))
                place = 1 + codes.index(str(code))
                yield file, size, mtime, number, row, place, _NO_SHA
    for known in _iter_known_elsewhere(run.known):
        mtime, origin = known["mtime_ns"], numbers.get(known["run"])
        if origin is not None and mtime is not None and mtime < settled:
            path = whole_path(stored.roots[known["root"]], unescape_path(known["path"]))
            sha = bytes.fromhex(known["sha256"])
            size, row = known["size_bytes"], known["run_row"]
            yield _scored(path_hash(path), size, mtime, origin, row, sha)


def _scored(
    file: bytes | None, size: int | None, mtime: int | None, number: int, row: int, sha: bytes
) -> Entry:
    if file is None:  # known by its content alone: in the place of a path that no file has
        return sha[:16], None, None, number, row, 0, sha
    return file, size, mtime, number, row, 0, sha


def _iter_known_elsewhere(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table of `schema.KNOWN` that tell more than earlier runs do.

    Those are all but the files that earlier versions listed each night, unchanged.
    """
    if path.exists():
        for batch in open_parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.filter(pc.not_equal(batch.column("matched"), "file")).to_pylist()


def _lasts(code: str | None, listed: str | None) -> bool:
    """Returns whether a rejection still holds for the same file.

    Args:
        code: as in the rejected row; None where there is none that counts.
        listed: the listing's own code.
    """
    if code is None or code in _PASSING:
        return False
    return code == listed or code not in _OF_LISTING
