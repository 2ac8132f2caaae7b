"""Segments of the index of known files: sorted columns of numbers, mapped into memory.

A segment is one `.npy` file of 64-bit numbers, [column, entry], sorted by the path's hash, that is
written once and never changed. Readers map it, so that millions of entries share the memory of the
system's cache. No Arrow here: a decoding process looks contents up.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError
from orchestrator.runs.atomic import atomic_path

Numbers = npt.NDArray[np.uint64]

# The hash of the whole path in two halves; size and time of change as stored by `state_numbers`;
# number of the run, row there, number of the rejection code (0: scored); SHA-256 in four parts.
HEAD, TAIL, SIZE, MTIME, RUN, ROW, CODE, SHA = range(8)
NUM_GIVEN = SHA + 4
# Made when a segment is written: the scored entries in the order of their hashes, and these.
BY_SHA, SHA_SORTED = NUM_GIVEN, NUM_GIVEN + 1
NUM_COLUMNS = NUM_GIVEN + 2

_ABSENT = -(2**63)  # of a size or a time
_REJECTED = np.uint64(2**64 - 1)  # sorts last among the hashes


def state_numbers(values: Sequence[int | None]) -> Numbers:
    """Returns sizes in bytes, or times in ns since the epoch, as a column of a segment."""
    whole = (_ABSENT if value is None else value for value in values)
    return np.fromiter(whole, np.int64, len(values)).view(np.uint64)


def hash_numbers(digests: Sequence[bytes]) -> Numbers:
    """Returns hashes of equal length as columns, [length / 8, hash]."""
    joined = np.frombuffer(b"".join(digests), np.uint64)
    return joined.reshape(len(digests), -1).T


def open_segment(path: Path) -> Numbers:
    """Maps a segment into memory.

    Raises:
        DataError: it is not there, or is no segment.
    """
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged") from error
    if found.dtype != np.uint64 or found.ndim != 2 or len(found) != NUM_COLUMNS:
        raise DataError(f"{path} is no segment of an index")
    return np.asarray(found)


def write_segment(path: Path, parts: Sequence[Numbers], limits: Numbers) -> int:
    """Writes entries as one segment, whole or not at all; of entries that say the same the newest.

    One column is in memory at a time, besides the order.

    Args:
        path: the file to write.
        parts: entries, [at least NUM_GIVEN, entry] each, the oldest part first.
        limits: by number of a run, that of its limits, under which its rejections hold; 0 for a
            run that counts no longer, whose entries are left out.

    Returns:
        The number of entries; nothing is written where there is none.

    Raises:
        ClusterError: the file system refused the write.
    """

    def column(number: int) -> Numbers:
        return np.concatenate([part[number] for part in parts])

    order = np.flatnonzero(limits[column(RUN)])
    order = order[np.argsort(column(HEAD)[order], kind="stable")]
    order = order[_tells_more(column, order, limits)]
    if not len(order):
        return 0
    shas = np.where(column(CODE)[order] == 0, column(SHA)[order], _REJECTED)
    by_sha = np.argsort(shas, kind="stable")
    head = {"descr": "<u8", "fortran_order": False, "shape": (NUM_COLUMNS, len(order))}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for number in range(NUM_GIVEN):
            column(number)[order].tofile(file)
        by_sha.astype(np.uint64).tofile(file)
        shas[by_sha].tofile(file)
    return len(order)


def _tells_more(column: Any, order: npt.NDArray[np.intp], limits: Numbers) -> Any:
    """Returns which entries have no newer one of the same file, state, code and limits.

    Args:
        column: returns a column of the entries by its number.
        order: of the entries by `HEAD`, the oldest of one path first.
    """
    heads = column(HEAD)[order]
    again = heads[1:] == heads[:-1]
    kept = np.ones(len(order), bool)
    places = np.flatnonzero(np.append(again, False) | np.append(False, again))
    if not len(places):
        return kept
    chosen = order[places]
    codes = column(CODE)[chosen]
    of_run = np.where(codes == 0, 0, limits[column(RUN)[chosen]])
    keys = [of_run, codes, *(column(n)[chosen] for n in (MTIME, SIZE, TAIL, HEAD))]
    sorted_ = np.lexsort([places, *keys])
    same = np.ones(len(places) - 1, bool)
    for key in keys:
        same &= key[sorted_][1:] == key[sorted_][:-1]
    kept[places[sorted_[:-1][same]]] = False
    return kept
