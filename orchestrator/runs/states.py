"""States of runs and of ticks."""

from enum import StrEnum


class Status(StrEnum):
    """State of a run."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


class TickState(StrEnum):
    """What happened to one tick of one job."""

    SKIPPED = "SKIPPED"  # never to run; the reason is recorded
    REQUESTED = "REQUESTED"  # asked for by a person or a success before it; not decided yet
    QUEUED = "QUEUED"  # to run once nothing of the job is open before it
    SUBMITTING = "SUBMITTING"  # intent committed; the cluster may or may not have it
    PENDING = "PENDING"  # the cluster has it
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"  # a try has failed, the next one is to come
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # after the last try
    STOPPED = "STOPPED"


ACTIVE = (TickState.SUBMITTING, TickState.PENDING, TickState.RUNNING, TickState.RETRYING)


OPEN = (TickState.QUEUED, *ACTIVE)
