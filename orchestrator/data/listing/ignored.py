"""Which names below an input are no input: what systems, programs and this one leave there.

The list is documented in `docs/formats.md`. It is for what a walk meets; a file or folder that the
user names, by itself or in a table, is always read. Names are compared without case.
"""

import re
from collections import Counter
from collections.abc import Collection

from orchestrator.data.schema import escape_path
from orchestrator.runs.lock import LOCK_NAME
from orchestrator.runs.outputs import is_output

OUTPUTS = "results of this program"
OTHER_NAMES = "other names of a listed file"

# Besides these, every name that begins with a dot: .git, .Trash-1000, .ipynb_checkpoints, ._x.jpeg
_FOLDERS = frozenset(
    {
        b"__macosx",
        b"__pycache__",
        b"@eadir",  # Synology: thumbnails
        b"@tmp",
        b"#recycle",
        b"#snapshot",
        b"@recycle",  # QNAP
        b"@recently-snapshot",
        b"$recycle.bin",
        b"recycler",
        b"system volume information",
        b"lost+found",
        b"mlruns",
    }
)
_FILES = frozenset(
    {
        b"thumbs.db",
        b"ehthumbs.db",
        b"ehthumbs_vista.db",
        b"desktop.ini",
        b"icon\r",
        b"_success",
    }
)
# Further streams of a file on NTFS, copied as files: where it was downloaded from, and the like.
_STREAMS = (b"zone.identifier", b":encryptable", b":smartscreen", b":afp_afpinfo", b":$data")
_RESULT = re.compile(rb"s[rc]-2\.25\.[0-9]+\.dcm")  # as `export --dicom` names them
_MOST_REASONS = 30
_MASKS = re.compile(rb"(?:.*[ _-]|manual|lung|left|right)?masks?", re.DOTALL)


class Ignoring:
    """Decides what a walk leaves out, and counts it.

    Attributes:
        counts: names left out, by the reason or the name; a folder counts as one.

    Args:
        include_hidden: leave out this program's own results alone.
    """

    def __init__(self, *, include_hidden: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._include_hidden = include_hidden

    def leaves_out(self, name: bytes, is_folder: bool) -> bool:
        """Returns whether an entry is left out, and counts it if so.

        Args:
            name: of the entry, without folders.
            is_folder: whether it is a folder, not a link to one.
        """
        if is_folder and name == LOCK_NAME.encode():
            return True  # not counted: that of this very run is there while it lists
        if not is_folder and _RESULT.fullmatch(name):
            self.counts[OUTPUTS] += 1
            return True
        if self._include_hidden:
            return False
        reason = _reason(name, is_folder)
        if reason is None:
            return False
        if reason not in self.counts and len(self.counts) >= _MOST_REASONS:
            reason = ".*"  # hidden folders may have any number of names
        self.counts[reason] += 1
        return True

    def is_input(self, path: bytes) -> bool:
        """Returns whether no name of a file's path is one to be left out; counts nothing."""
        *folders, name = path.split(b"/")
        return self._include_hidden or not (
            _reason(name, False) or any(_reason(folder, True) for folder in folders)
        )

    def leaves_out_folder(self, names: Collection[bytes]) -> bool:
        """Returns whether a folder with these entries is one of our own, and counts it if so."""
        if not is_output(names):
            return False
        self.counts[OUTPUTS] += 1
        return True


def _reason(name: bytes, is_folder: bool) -> str | None:
    """Returns under what an entry that is no input is counted, or None."""
    lower = name.lower()
    if name.startswith(b"."):
        if is_folder or lower == b".ds_store":
            return escape_path(name)
        return "._*" if name.startswith(b"._") else ".*"
    if is_folder:
        if lower in _FOLDERS:
            return escape_path(name)
        return "masks" if _MASKS.fullmatch(lower) else None
    if lower in _FILES:
        return escape_path(name)
    return "*:Zone.Identifier and the like" if lower.endswith(_STREAMS) else None
