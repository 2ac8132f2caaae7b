"""Copies a finished run to an address, such as `s3://bucket/predictions`, `_SUCCESS` last.

The run itself works in a local folder: that is where it resumes. A reader at the address who waits
for `_SUCCESS` sees all of a run or none of it.
"""

import pyarrow as pa

from orchestrator.data.listing.addresses import open_folder
from orchestrator.errors import ClusterError, DataError, SpecError
from orchestrator.runs.lock import check_held
from orchestrator.runs.run_dir import RunDir


def check_free(address: str) -> None:
    """Raises `SpecError` where something lies at an address already.

    Raises:
        ClusterError: the store does not answer.
    """
    try:
        first = next(open_folder(address).walk(), None)
    except DataError:  # nothing there
        return
    if first is not None:
        raise SpecError(
            f"--out {address} is not empty; name another address, or add --overwrite to replace "
            "the run there"
        )


def publish(run: RunDir, address: str) -> None:
    """Copies a run's tables and reports, and then its `_SUCCESS`.

    What an earlier run left under the names of a run goes first; other files stay.

    Args:
        run: all its tables written.
        address: of the folder.

    Raises:
        ClusterError: the store refused a write; the same command copies again.
        LockedError: another process has taken over the run.
    """
    check_held(run.path)
    folder = open_folder(address)
    names = [path.relative_to(run.path) for path in run.path.rglob("*") if path.is_file()]
    # Neither working folders nor what a writer that was killed has left in any folder.
    hidden = ("_", ".")
    files = sorted(n for n in names if not any(part.startswith(hidden) for part in n.parts))
    ours = {run.predictions.name, run.heatmaps.name, *(path.name for path in files), run.known.name}
    ours.add(run.shadow.name)
    try:
        folder.remove(run.success.name.encode())
        for found in _list(address):
            if found.split(b"/")[0].decode("utf-8", "replace") in ours:
                folder.remove(found)
        for path in files:
            if path.name != run.status.name:
                folder.write(str(path).encode(), (run.path / path).read_bytes())
        check_held(run.path)
        folder.write(run.success.name.encode(), b"")
    except (OSError, pa.ArrowException) as error:
        raise ClusterError(
            f"cannot write to {address}: {str(error).strip().splitlines()[0]}; check the "
            "credentials, the network and the free space there, then run the same command again: "
            f"the results are in {run.path}"
        ) from error


def _list(address: str) -> list[bytes]:
    try:
        return [found.path for found in open_folder(address).walk()]
    except DataError:
        return []
