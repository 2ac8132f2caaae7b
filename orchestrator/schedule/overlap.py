"""Runs of one job that meet: what stands in a new run's way, and what makes way for it."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.runs.states import TickState
from orchestrator.schedule.rows import RunRow
from orchestrator.schedule.writes import Writes


def list_lanes(runs: Sequence[RunRow]) -> dict[str, list[RunRow]]:
    """Returns open runs by job, oldest first."""
    lanes: dict[str, list[RunRow]] = {}
    for run in runs:
        lanes.setdefault(run.job, []).append(run)
    return lanes


def in_the_way(lane: Sequence[RunRow]) -> list[RunRow]:
    """Returns the open runs of a job that a new one meets; a waiting backfill lets it pass."""
    return [run for run in lane if not _waits_behind(run)]


def next_in_lane(lane: Sequence[RunRow]) -> RunRow:
    """Returns which of a job's queued runs starts first: the oldest tick, a backfill last."""
    return min(lane, key=lambda run: (run.origin == "backfill", run.tick))


def why_skipped(lane: Sequence[RunRow]) -> str:
    """Returns why a run does not start beside others under `overlap: skip`."""
    first = f"the run of {lane[0].tick:%Y-%m-%d %H:%M} UTC was {lane[0].state}"
    return f"overlap is skip; {first}"


def replace_runs(write: Writes, runs: Sequence[RunRow], by: datetime) -> None:
    """Clears the way for a newer tick; what the cluster has is stopped first."""
    reason = f"replaced by the tick of {by:%Y-%m-%d %H:%M} UTC"
    for run in runs:
        if run.state is TickState.QUEUED:
            write.end(run.job, run.tick, run.attempt, TickState.SKIPPED, reason)
        elif run.state is TickState.RETRYING:
            write.end(run.job, run.tick, run.attempt, TickState.STOPPED, reason)
        else:
            write.stop(run.job, run.tick, reason)


def _waits_behind(run: RunRow) -> bool:
    return run.origin == "backfill" and run.state is TickState.QUEUED
