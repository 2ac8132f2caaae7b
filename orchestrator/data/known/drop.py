"""Removes single files from the indexes of a folder of runs."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from orchestrator.data.known import segments as seg
from orchestrator.data.known.forgotten import File
from orchestrator.data.known.index import load_state
from orchestrator.data.known.index_build import IndexUpdate
from orchestrator.data.known.segments import open_segment
from orchestrator.runs.runs_root import FORGOTTEN, RunsRoot


def drop_entries(root: Path, files: Collection[File]) -> None:
    """Removes what indexes tell of files and of their bytes, but for the list of forgotten ones.

    Nobody else may write to the folder of runs meanwhile.

    Args:
        root: folder of runs.
        files: as in that list; there is one at least.

    Raises:
        ClusterError: the file system refused a write.
    """
    heads = seg.hash_numbers([bytes.fromhex(file[0]) for file in files])[0]
    shas = seg.hash_numbers([bytes.fromhex(file[3]) or bytes(32) for file in files])[0]
    shas = shas[shas != 0]  # of a rejected file
    for index in RunsRoot(root).indexes():
        try:
            state = load_state(index)
        except (OSError, ValueError):
            continue  # the next night makes it again
        listed = [run.number for run in state.runs if run.name == FORGOTTEN]
        parts = [open_segment(index.segment(segment.name)) for segment in state.segments]
        stay = [
            ~(np.isin(part[seg.HEAD], heads) | np.isin(part[seg.SHA], shas))
            | np.isin(part[seg.RUN], listed)
            for part in parts
        ]
        if not all(rows.all() for rows in stay):
            state.segments.clear()
            update = IndexUpdate(index, state)
            update.append([part[:, rows] for part, rows in zip(parts, stay, strict=True)])
            update.commit()
