"""A declared job: its kind, arguments, resources, retries, schedule and notice of failure."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.config.cron import After, Ticks
from orchestrator.config.fields import Duration, Form
from orchestrator.config.specs import SPECS, Resources
from orchestrator.errors import SpecError

DEFAULT_TIMEOUT = timedelta(hours=24)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
Kind = Literal[
    "train", "tune", "compare", "find-lr", "score", "recalibrate", "quantize", "models-compare"
]


class Schedule(Form):
    """When a job is due, and what happens to ticks that were missed or that overlap.

    A job that runs after another queues unless told otherwise: each success starts it once.
    """

    cron: str | None = None
    after: Name | None = None  # the job whose successes start this one
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "replace"] = "skip"
    catch_up: Literal["skip", "once", "all"] = "once"
    # A missed tick older than this is never caught up; a notice is sent when none succeeds in it.
    window: Duration = timedelta(hours=12)
    notify_after_skips: Annotated[int, Field(ge=1, le=100_000)] = 3  # in a row
    pause_on_failure: bool = False

    @model_validator(mode="before")
    @classmethod
    def _queue_after(cls, values: Any) -> Any:
        is_after = isinstance(values, dict) and values.get("after") is not None
        return {"overlap": "queue", **values} if is_after else values

    @model_validator(mode="after")
    def _can_be_due(self) -> Self:
        if (self.cron is None) == (self.after is None):
            raise ValueError("expected one of cron (when it is due) and after (the job it follows)")
        try:
            self.ticks()
        except SpecError as error:
            raise ValueError(str(error)) from error
        return self

    def ticks(self) -> Ticks:
        """Returns the instants at which the job is due."""
        if self.after is not None:
            return After(self.after)
        return Ticks(self.cron or "", self.timezone)


class OnFailure(Form):
    """Who is notified when scheduled runs fail or do not happen: a command or an address.

    Apprise's addresses hold passwords and tokens, so a file names the variable that has one.
    """

    command: Annotated[list[str], Field(min_length=1)] | None = None
    webhook: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=2000)] | None = None

    apprise: str | None = None  # environment variable of the scheduler

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(way is not None for way in (self.command, self.webhook, self.apprise)) != 1:
            raise ValueError(
                "expected one of command (a list of words), webhook (an address) and apprise (the "
                "name of an environment variable with an address)"
            )
        return self

    @field_validator("apprise")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name is not None and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) is None:
            raise ValueError(
                "expected the name of an environment variable that holds one of Apprise's "
                "addresses, such as ONCALL_ADDRESS, and not the address itself"
            )
        return name


class Job(Form):
    """A declared job: the form of `jobs/*.yaml` and of every `-c` file."""

    name: Name
    kind: Kind
    args: dict[str, Any]
    resources: Resources = Resources()
    retries: Annotated[int, Field(ge=0, le=20)] = 0  # tries after the first
    # Of one try. Null was no limit once, and may stand in what an earlier version has stored.
    timeout: Annotated[
        Duration, BeforeValidator(lambda value: DEFAULT_TIMEOUT if value is None else value)
    ] = DEFAULT_TIMEOUT
    schedule: Schedule | None = None
    on_failure: OnFailure | None = None

    @model_validator(mode="after")
    def _args_fit_kind(self) -> Self:
        known = set(SPECS[self.kind].model_fields)
        unknown = sorted(set(map(str, self.args)) - known)
        if unknown:
            raise ValueError(
                f"args: unknown key {', '.join(unknown)}; "
                f"{self.kind} takes {', '.join(sorted(known))}"
            )
        return self


def check_scheduled(job: Job) -> None:
    """Raises `SpecError` where a scheduled job would take whichever model is the newest by then."""
    if job.schedule is not None and job.kind == "score" and job.args.get("model") is None:
        raise SpecError(
            f"{job.name}: a scheduled score job must name its model, since the newest bundle may "
            "change between runs; add model under args, such as models:production"
        )


def find_broken_chains(jobs: Mapping[str, Job], *, are_all: bool) -> dict[str, str]:
    """Returns what is wrong with the `after` of jobs: an unknown job, or a circle.

    Args:
        jobs: the scheduled jobs, by name.
        are_all: no other is declared. A job that a faulty file may declare is not an unknown one.
    """
    follows = {
        name: job.schedule.after
        for name, job in jobs.items()
        if job.schedule is not None and job.schedule.after is not None
    }
    problems = {}
    for name, other in follows.items():
        if other not in jobs and are_all:
            known = ", ".join(sorted(jobs.keys() - {name})) or "none"
            problems[name] = f"after: no scheduled job is named {other}; known: {known}"
        chain = [name, other]
        while chain[-1] in follows and chain[-1] not in chain[:-1]:
            chain.append(follows[chain[-1]])
        if chain[-1] == name:
            circle = " -> ".join(reversed(chain))
            problems[name] = f"after: {circle} is a circle; begin it with a job that has a cron"
    return problems
