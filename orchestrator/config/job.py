"""A declared job: its kind, arguments, resources, retries, schedule and notice of failure."""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.config.cron import Ticks
from orchestrator.config.fields import Duration, Form
from orchestrator.config.specs import SPECS, Resources
from orchestrator.errors import SpecError

DEFAULT_TIMEOUT = timedelta(hours=24)

Kind = Literal["train", "tune", "compare", "find-lr", "score"]


class Schedule(Form):
    """When a job is due, and what happens to ticks that were missed or that overlap."""

    cron: str
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "replace"] = "skip"
    catch_up: Literal["skip", "once", "all"] = "once"
    # A missed tick older than this is never caught up; a notice is sent when none succeeds in it.
    window: Duration = timedelta(hours=12)
    notify_after_skips: Annotated[int, Field(ge=1, le=100_000)] = 3  # in a row

    @model_validator(mode="after")
    def _can_be_due(self) -> Self:
        try:
            self.ticks()
        except SpecError as error:
            raise ValueError(str(error)) from error
        return self

    def ticks(self) -> Ticks:
        """Returns the instants at which the job is due."""
        return Ticks(self.cron, self.timezone)


class OnFailure(Form):
    """Who is notified when scheduled runs fail or do not happen: a command or an address."""

    command: Annotated[list[str], Field(min_length=1)] | None = None
    webhook: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=2000)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.command is None) == (self.webhook is None):
            raise ValueError("expected one of command (a list of words) and webhook (an address)")
        return self


class Job(Form):
    """A declared job: the form of `jobs/*.yaml` and of every `-c` file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
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
