"""How many workers a job asks for: a number, or the range within which they may come and go."""

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from orchestrator.config.fields import CLUSTER, Form, flag

MAX_WORKERS = 4096
_Count = Annotated[int, Field(ge=1, le=MAX_WORKERS)]


class WorkerRange(Form):
    """The work goes on with `min` workers, and takes up to `max` as nodes join."""

    min: _Count
    max: _Count

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError("the first number is the smaller one")
        return self


def _load_count(value: Any) -> Any:
    """Reads `4`, `1-4` or `{min: 1, max: 4}`, with one message for whatever is none of these."""
    if value is None or isinstance(value, WorkerRange):
        return value
    try:
        if isinstance(value, dict):
            return WorkerRange(**value)
        if found := re.fullmatch(r"(\d{1,4})-(\d{1,4})", str(value)):
            return WorkerRange(min=int(found[1]), max=int(found[2]))
        if 1 <= int(str(value)) <= MAX_WORKERS:
            return int(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"expected a number from 1 to {MAX_WORKERS}, or a range such as 1-4")


WorkerCount = Annotated[
    _Count | WorkerRange | None,
    BeforeValidator(_load_count),
    PlainSerializer(lambda v: f"{v.min}-{v.max}" if isinstance(v, WorkerRange) else v),
    flag(
        "Number of worker processes, or a range within which they come and go with the nodes.",
        CLUSTER,
        default="as many as fit",
        metavar="<int|min-max>",
    ),
]
