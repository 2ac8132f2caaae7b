"""Looking up files and contents, against the plain rules on many random entries."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from orchestrator.data.known.index import (
    IndexedRun,
    IndexState,
    KnownIndex,
    OpenIndex,
    Segment,
)
from orchestrator.data.known.segments import write_segment
from orchestrator.errors import DataError
from orchestrator.runs.runs_root import IndexFiles
from tests.data.known.test_segments import Entry, columns, files

__all__ = ["files"]

PATHS = [b"/in/%d" % number for number in range(40)]


def random_entries(rng: np.random.Generator, run: int) -> Iterator[Entry]:
    for path in rng.permutation(PATHS)[:25]:
        state, code = int(rng.integers(3)), int(rng.choice([0, 0, 1, 2]))
        sha = bytes([int(rng.integers(60))] * 8 + [int(rng.integers(2))] * 24)
        yield bytes(path), 10, 100 + state, run, code, bytes(32) if code else sha


@pytest.mark.parametrize("num_segments", [1, 3])
def test_look_ups_follow_the_rules(num_segments: int, files: IndexFiles) -> None:
    rng = np.random.default_rng(num_segments)
    runs = [IndexedRun(n, f"r{n}", f"2026-01-0{n}", "ab"[n % 2]) for n in range(1, 7)]
    state = IndexState({}, 6, ["damaged", "too_slow"], runs)
    by_run = [list(random_entries(rng, run.number)) for run in runs]
    counted = [run for run in runs if run.number != 4]  # run 4 is gone
    limits = state.of_runs((run, 1 + run.number % 2) for run in counted)
    for number in range(num_segments):
        parts = [columns(entries) for entries in by_run[number * 6 // num_segments :]]
        parts = parts[: 6 // num_segments]
        name = f"{number}.npy"
        num_entries = write_segment(files.segment(name), parts, limits)
        state.segments.append(Segment(name, num_entries, ""))
    entries = [entry for entries in by_run for entry in entries]
    index = OpenIndex(files, state, frozenset(run.key for run in counted), "a")

    def counts(run: int, code: int) -> bool:
        return run != 4 and (code == 0 or run % 2 == 0)

    times = [100, 101, 102, 99]
    asked = list(product(PATHS, times))
    found = index.find_files([path for path, _ in asked], [10] * len(asked), [t for _, t in asked])
    told = 0
    for at, (path, time) in enumerate(asked):
        of_path = [e for e in entries if e[0] == path and counts(e[3], e[4])]
        same = [e for e in of_path if e[2] == time]
        expected = ([e for e in same if not e[4]] or same)[-1:]
        if not expected:
            assert found.codes[at] == -1
            continue
        (entry,) = expected
        origin = index.origin(found.segments[at], found.places[at])
        code = index.code(entry[4])
        assert (origin.run, origin.code) == (f"r{entry[3]}", code)
        assert origin.sha256 == (None if code else entry[5].hex())
        later = of_path[of_path.index(entry) + 1 :]
        restored = not entry[4] and any(e[2] != time and not e[4] for e in later)
        assert found.restored[at] == restored
        told += restored
    assert told > 5

    for sha in {entry[5] for entry in entries} | {b"x" * 32}:
        with_sha = [e for e in entries if e[5] == sha and not e[4] and counts(e[3], 0)]
        origin = index.find_content(sha)
        # Of the same file in the same state the newest entry stays, whatever its bytes were then.
        if origin is not None:
            assert origin.run in {f"r{entry[3]}" for entry in with_sha}
            assert origin.sha256 == sha.hex()
        else:
            assert all(superseded(entry, entries) for entry in with_sha)


def superseded(entry: Entry, entries: list[Entry]) -> bool:
    later = entries[entries.index(entry) + 1 :]
    return any(e[:3] == entry[:3] and not e[4] for e in later)


def test_an_index_that_is_gone_is_one_clear_error(files: IndexFiles) -> None:
    index = KnownIndex(files.folder, ("a",))
    with pytest.raises(DataError, match="run the command again in a new folder"):
        index.find_content("00" * 32)
    IndexState({}, 1, [], [], [Segment("x.npy", 1, "")]).commit(files)
    for content in (None, b"no array", b"\x93NUMPY"):
        if content is not None:
            files.segment("x.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy is missing or damaged"):
            index.find_content("00" * 32)
    np.save(files.segment("x.npy"), np.zeros((2, 2)))
    with pytest.raises(DataError, match="is no segment"):
        index.find_content("00" * 32)
