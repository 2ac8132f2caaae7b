"""What a try has come to, from what the cluster says and what its run folder shows.

The cluster's default store forgets every job when its head restarts, and it calls a job failed
whose driver died after the work was done. The run folder remembers both. Pure but for `look_at`,
which reads the folder.
"""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import FINAL_EXIT_CODES, DriftError, SpecError
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status, TickState

TIMEOUT = "timeout"
AT_WORK = (Status.PENDING, Status.RUNNING)


@dataclass(frozen=True)
class ClusterAnswer:
    """What a cluster says of a try that it knows.

    Args:
        status: as the cluster sees it.
        exit_code: of the driver, None where it has none yet or was killed with its node.
    """

    status: Status
    exit_code: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What a run folder shows.

    Args:
        succeeded: `_SUCCESS` is there.
        status: of `status.json`, None where there is none.
        mark: changes whenever `status.json` is written again; None where there is none.
        exit_code: of the command that failed, None where it has not.
        error: what it said, None where it has not failed.
    """

    succeeded: bool = False
    status: str | None = None
    mark: str | None = None
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class TryState:
    """The state of a try.

    Args:
        state: SUBMITTING means that the cluster does not have it and may be asked.
        reason: one line, where it has ended otherwise than well.
        retry: another try may follow.
    """

    state: TickState
    reason: str | None = None
    retry: bool = False


def look_at(folder: Path | None) -> Evidence:
    """Reads a run folder; one that is absent shows nothing.

    Raises:
        OSError: it cannot be read now, so nothing may be concluded.
    """
    if folder is None:
        return Evidence()
    run = RunDir(folder)
    try:
        found = run.status.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Evidence()
    try:
        stored = run.load_status()
    except SpecError:
        stored = {}
    status, code, error = (stored.get(key) for key in ("status", "exit_code", "error"))
    mark = f"{found.st_mtime_ns}-{found.st_ino}"
    return Evidence(
        run.success.exists(),
        str(status) if status else None,
        mark,
        code if isinstance(code, int) else None,
        str(error) if error else None,
    )


def settle(
    seen: ClusterAnswer | None,
    evidence: Evidence,
    *,
    state: TickState,
    mark: str | None,
    stop_reason: str | None,
) -> TryState:
    """Decides what a try has come to.

    Args:
        seen: what the cluster says, None where it does not know the id.
        evidence: of the run folder; not needed where the cluster says PENDING or RUNNING.
        state: in the ledger: SUBMITTING until the cluster has confirmed the id.
        mark: the folder's at the intent; a different one now says that this try began.
        stop_reason: why the ledger asked for a stop, if it did.
    """
    if seen is not None and seen.status in AT_WORK:
        return TryState(TickState(seen.status))
    if seen is not None and seen.exit_code == DriftError.exit_code:
        drifted = f"finished, and its images drifted (exit code {DriftError.exit_code})"
        return TryState(TickState.FAILED, f"{drifted}; its report.html says how")
    if evidence.succeeded or (seen is not None and seen.status is Status.SUCCEEDED):
        return TryState(TickState.SUCCEEDED)
    if seen is None:
        return _settle_unknown(evidence, state, mark, stop_reason)
    if stop_reason == TIMEOUT:
        return TryState(TickState.FAILED, "ran longer than its timeout", retry=True)
    if stop_reason is not None:
        return TryState(TickState.STOPPED, stop_reason)
    if seen.status is Status.STOPPED:
        return TryState(TickState.STOPPED, "stopped by hand")
    code = seen.exit_code
    if code is None and evidence.mark != mark:
        code = evidence.exit_code
    return _failed("failed on the cluster", code, "its log and status.json say why")


def _failed(what: str, exit_code: int | None, detail: str) -> TryState:
    if exit_code in FINAL_EXIT_CODES:
        reason = f"{what} with exit code {exit_code}, so not tried again; {detail}"
        return TryState(TickState.FAILED, reason)
    return TryState(TickState.FAILED, f"{what}; {detail}", retry=True)


def _settle_unknown(
    evidence: Evidence, state: TickState, mark: str | None, stop_reason: str | None
) -> TryState:
    began = evidence.mark != mark
    if began and evidence.status in (Status.FAILED, Status.STOPPED):
        if stop_reason not in (None, TIMEOUT):
            return TryState(TickState.STOPPED, stop_reason)
        # Its own reason, where it had time to write one.
        detail = evidence.error or "the cluster has no record of it any more"
        return _failed("failed", evidence.exit_code, detail)
    if state is TickState.SUBMITTING and not began:
        if stop_reason is not None:
            return TryState(TickState.STOPPED, stop_reason)
        return TryState(TickState.SUBMITTING)
    # It ran, or may have: a second run could do the work twice, so none is started.
    return TryState(
        TickState.FAILED,
        "lost: the cluster has no record of it, as after a restart of its head; not repeated",
    )
