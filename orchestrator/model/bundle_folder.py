"""Where bundles are: found by the name of their description, which is not read.

Loads at once, for the shell's completion; what a bundle holds is in `bundle.py`.
"""

from pathlib import Path

from orchestrator.errors import SpecError

INFO_FILE = "bundle.json"


def newest_bundle(folder: Path) -> Path:
    """Returns the bundle under a folder whose description was written last.

    Raises:
        SpecError: there is none.
    """
    bundles = list_bundles(folder)
    if not bundles:
        raise SpecError(
            f"no model was named and there is none under {folder.absolute()}; train one with "
            "`orchestrator train DATA` or name a bundle with --model"
        )
    return max(bundles, key=lambda path: ((path / INFO_FILE).stat().st_mtime_ns, path)).absolute()


def list_bundles(folder: Path) -> list[Path]:
    """Returns the bundles under a folder, unverified, in no order."""
    return [described.parent for described in folder.glob(f"*/{INFO_FILE}")]
