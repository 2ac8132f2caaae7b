"""Segments hold what is worth keeping, and once."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.known import segments as seg
from orchestrator.data.known.index import path_hash
from orchestrator.data.known.segments import hash_numbers, state_numbers, write_segment
from orchestrator.runs.runs_root import IndexFiles

Entry = tuple[bytes, int, int, int, int, bytes]  # path, size, time, run, code, hash


def columns(entries: list[Entry]) -> seg.Numbers:
    paths, sizes, times, runs, codes, shas = zip(*entries, strict=True)
    plain = np.array([runs, range(len(entries)), codes], np.uint64)
    states = np.stack([state_numbers(sizes), state_numbers(times)])
    return np.concatenate(
        [hash_numbers([path_hash(path) for path in paths]), states, plain, hash_numbers(shas)]
    )


@pytest.fixture
def files(tmp_path: Path) -> IndexFiles:
    (tmp_path / "index").mkdir()
    return IndexFiles(tmp_path / "index")


def test_what_is_as_before_has_one_entry_and_runs_that_are_gone_none(files: IndexFiles) -> None:
    sha = b"s" * 32
    entries = [(b"/a", 1, 1, run, 0, sha) for run in (1, 2, 3)]
    entries += [(b"/a", 1, 1, 1, 1, bytes(32)), (b"/a", 1, 1, 2, 1, bytes(32))]
    path = files.segment("x.npy")
    assert write_segment(path, [columns(entries)], np.array([0, 5, 5, 6], np.uint64)) == 2
    assert write_segment(path, [columns(entries)], np.array([0, 5, 6, 6], np.uint64)) == 3
    assert write_segment(path, [columns(entries)], np.array([0, 5, 0, 0], np.uint64)) == 2
    assert write_segment(files.segment("y"), [columns(entries)], np.zeros(4, np.uint64)) == 0
    assert not files.segment("y").exists()
    assert len(seg.open_segment(path)) == seg.NUM_COLUMNS
