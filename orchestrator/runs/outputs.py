"""Tells the folders that this program writes, by the names in them, so that none becomes input."""

from collections.abc import Collection

from orchestrator.runs.lock import LOCK_NAME

# Entries that a folder of ours has at most; one with more is not read to its end to be told.
MOST_ENTRIES = 256

# Names that together no folder has but one of ours: a run, an ingested data set, a bundle, cached
# features, a demo. Not `dataset.json` and `images` alone: other people's data sets have these.
_MARKS: tuple[frozenset[bytes], ...] = tuple(
    map(
        frozenset,
        (
            (b"status.json", b"spec.yaml"),
            (b"status.json", b"job.yaml"),
            (b"status.json", b"manifest.parquet"),
            (b"manifest.parquet", b"predictions"),
            (b"manifest.parquet", b"dataset.json"),
            (b"bundle.json", b"model.keras"),
            (b"_unfinished.json",),
            (b"known-index.json",),
            (b"rows.npz", b"augmented.npy"),
            (b"backbone", b"part-00000.arrow"),
            (b".orchestrator-demo",),
        ),
    )
)


def is_output(names: Collection[bytes]) -> bool:
    """Returns whether a folder is one that this program has written.

    Args:
        names: all entries of the folder.
    """
    found = frozenset(names) - {LOCK_NAME.encode()}
    # A job that was submitted and has not begun has its job file alone.
    return found == {b"job.yaml"} or any(mark <= found for mark in _MARKS)
