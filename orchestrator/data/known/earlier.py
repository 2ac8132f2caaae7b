"""Which earlier runs count for a run to come: those on its terms, and what is kept of other models.

The runs on the same terms have an index of their own, and so have those that differ in the model
alone; `runs prune` keeps both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.config.listing import rescore_window
from orchestrator.config.specs import ScoreSpec
from orchestrator.data.known.index import IndexState, OpenIndex
from orchestrator.data.known.index_build import any_model, digest_limits, update_index
from orchestrator.data.known.known_files import KnownFiles
from orchestrator.progress import Reporter
from orchestrator.runs.runs_root import IndexFiles


@dataclass(frozen=True)
class EarlierRuns:
    """The runs that count, and the index of what they have processed.

    Args:
        files: of the index.
        state: what makes it up; it may hold runs that do not count.
        keys: of the runs that count.
        unfinished: folders of runs that could count once they are finished.
    """

    files: IndexFiles
    state: IndexState
    keys: tuple[str, ...]
    unfinished: list[Path]

    def open(self, spec: ScoreSpec) -> KnownFiles:
        """Returns what leaves their files out of a listing."""
        limits = digest_limits(spec.limits.model_dump())
        return KnownFiles(OpenIndex(self.files, self.state, frozenset(self.keys), limits))


def find_earlier(
    spec: ScoreSpec, terms: Mapping[str, Any], reporter: Reporter, now: datetime | None = None
) -> EarlierRuns:
    """Brings the index up to date and returns the runs that count.

    Nobody else may write to the folder of runs meanwhile.

    Args:
        spec: with `out_root` and `on_new_model`.
        terms: of `data.terms.scoring_terms`.
        reporter: as for `update_index`.
        now: the present.

    Raises:
        DataError: as for `update_index`.
        ClusterError: the file system refused a write.
    """
    root = Path(str(spec.out_root))
    files, state, unfinished = update_index(root, terms, reporter)
    keys = [run.key for run in state.runs]
    window = rescore_window(spec.on_new_model)
    if window is not None:
        files, state, unfinished = update_index(root, any_model(terms), reporter)
        since = ((now or datetime.now(UTC)) - window).isoformat()
        own = set(keys)
        keys = [run.key for run in state.runs if run.key in own or run.ended < since]
    return EarlierRuns(files, state, tuple(keys), unfinished)
