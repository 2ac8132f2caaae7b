"""RunsRoot: what a folder of runs holds beside the runs themselves."""

from dataclasses import dataclass
from pathlib import Path

FORGOTTEN = "_forgotten"  # in place of a run's name: of the files of forgotten patients


@dataclass(frozen=True)
class IndexFiles:
    """Files of the index of what the runs on the same terms have processed.

    Args:
        folder: of the index, with its segments.
    """

    folder: Path

    @property
    def state(self) -> Path:
        """Which runs and which segments make up the index, JSON."""
        return self.folder / "known-index.json"

    @property
    def pruned(self) -> Path:
        """The removed runs of which the index alone knows what they had processed, JSON."""
        return self.folder / "known-pruned.json"

    def segment(self, name: str) -> Path:
        """Returns a segment of the index."""
        return self.folder / name


@dataclass(frozen=True)
class RunsRoot:
    """A folder of runs.

    Args:
        path: the folder.
    """

    path: Path

    def index(self, terms: str) -> IndexFiles:
        """Returns the files of an index.

        Args:
            terms: digest of the terms that its runs share.
        """
        return IndexFiles(self.path.absolute() / "_known" / terms[:16])

    def indexes(self) -> list[IndexFiles]:
        """Returns the files of every index."""
        states = sorted((self.path.absolute() / "_known").glob("*/known-index.json"))
        return [IndexFiles(state.parent) for state in states]

    @property
    def forgotten(self) -> Path:
        """The files of forgotten patients, as hashes, JSON."""
        return self.path.absolute() / "_known" / "forgotten.json"

    @property
    def report(self) -> Path:
        """The page of its scoring runs."""
        return self.path / "report.html"

    def removed(self, name: str) -> Path:
        """Returns the name under which a run is on its way out, which counts as no run."""
        return self.path / f".tmp-pruned-{name}"

    def half_removed(self) -> list[Path]:
        """Returns the runs that a command which was killed has left on their way out."""
        return sorted(self.path.glob(".tmp-pruned-*"))
