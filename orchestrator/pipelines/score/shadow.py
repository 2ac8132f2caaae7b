"""The shadow of a scoring run: a second model that scores the same images and releases nothing.

Whatever goes wrong with it is told and costs the run nothing: a bundle that cannot be opened, an
engine that fails, a worker that dies of it. What workers do with it is in `shadow_scorer.py`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.specs import ScoreSpec
from orchestrator.data import schema
from orchestrator.data.parquet import open_writer
from orchestrator.data.source import FileSource, IngestedSource, Source
from orchestrator.errors import BundleError, SpecError
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.report.shadow import ShadowCounts
from orchestrator.pipelines.score.ensemble import Members, load_members
from orchestrator.pipelines.score.shadow_scorer import ShadowTask, describe_fault
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status


@dataclass(frozen=True)
class Shadow:
    """What the `shadow` of a spec names.

    Args:
        name: as the user gave it, or the version that the run began with.
        facts: what the run began with, JSON-able: `name` of the version, `threshold`,
            `threshold_rule`, and `model`, what a report says of it; None where it never opened.
        model: the model; None where it cannot be used now.
        fault: why not, empty where it can.
    """

    name: str
    facts: dict[str, Any] | None
    model: Members | None = None
    fault: str = ""


def open_shadow(
    spec: ScoreSpec, run: RunDir, live: Members, ingested: IngestedSource | None
) -> Shadow | None:
    """Returns the shadow that a claimed run goes on or begins with; None where none is asked for.

    A run that goes on has the one that it began with, whichever is asked for by now.

    Args:
        spec: the run's spec.
        run: the run, claimed.
        live: the models whose calls are released.
        ingested: the input where it is an ingested data set.
    """
    if spec.shadow is None:
        return None
    facts: dict[str, Any] | None = run.load_status().get("shadow")
    name = str(facts["name"]) if facts else spec.shadow
    try:
        model = load_members([name], spec.threshold)
        if model.hashes[0] in live.hashes:
            raise SpecError("it is the live model itself")
        if ingested is not None and ingested.size_px != model.size_px:
            raise SpecError(
                f"the data set holds images of {ingested.size_px} px and it takes {model.size_px} "
                f"px; ingest with --image-size {model.size_px}"
            )
        if facts and facts["model"]["sha256"] != model.hashes[0]:
            raise BundleError("it was replaced since the run began")
    except Exception as error:  # of whatever kind: the run goes on without it
        return Shadow(name, facts, fault=describe_fault(error))
    if facts is None:
        facts = {
            "name": model.names[0],
            "threshold": model.threshold.value,
            "threshold_rule": model.threshold.rule,
            "model": model.facts(),
        }
        run.write_status(Status.RUNNING, shadow=facts)
    return Shadow(name, facts, model)


def plan_shadow(
    shadow: Shadow | None, source: Source, size_px: int, run: RunDir
) -> ShadowTask | None:
    """Returns what the workers do with a shadow; None where there is none to use.

    Args:
        shadow: of the run.
        source: of the live model's images.
        size_px: their height and width, px.
        run: the run.
    """
    if shadow is None or shadow.model is None:
        return None
    own = None
    if shadow.model.size_px != size_px and isinstance(source, FileSource):
        own = replace(source, size_px=shadow.model.size_px)
    return ShadowTask(
        shadow.model.bundles[0],
        shadow.model.hashes[0],
        shadow.model.calibrations[0],
        shadow.model.size_px,
        own,
        run.shadow_attempts,
    )


class RunShadow:
    """The table of a run's shadow, and what the report says of it; made shard by shard.

    Args:
        shadow: of the run; None where it has none, and nothing is written.
        run: the run.
        threshold: of the live model.
    """

    def __init__(self, shadow: Shadow | None, run: RunDir, threshold: float) -> None:
        self._shadow, self._run = shadow, run
        self._own = float(shadow.facts["threshold"]) if shadow and shadow.facts else math.nan
        self._counts = ShadowCounts(threshold, self._own)

    @contextlib.contextmanager
    def open_table(self) -> Iterator[Callable[[pa.Table], None]]:
        """Yields what takes the rows that the live model has scored, as the shards have them."""
        if self._shadow is None:
            yield lambda scored: None
            return
        fault = self._shadow.fault
        with open_writer(self._run.shadow, schema.SHADOW) as writer:

            def add(scored: pa.Table) -> None:
                writer.write_table(shadow_rows(scored, self._own))
                self._counts.add(scored, fault)

            yield add

    def as_report(self, seed: int) -> dict[str, Any]:
        """Returns `shadow` of report.json, in a mapping; nothing without one.

        Args:
            seed: of the resamples.
        """
        if self._shadow is None:
            return {}
        facts = self._shadow.facts or dict.fromkeys(("model", "threshold", "threshold_rule"))
        named = {"name": self._shadow.name, "fault": self._shadow.fault or None}
        return {"shadow": facts | named | self._counts.as_report(seed)}


def shadow_rows(scored: pa.Table, threshold: float) -> pa.Table:
    """Returns the rows of `schema.SHADOW` of those images of a shard that the shadow has scored.

    Args:
        scored: columns of the predictions, and `FIELDS`.
        threshold: of the shadow.
    """
    found = scored.filter(pc.is_valid(scored["shadow_probability"]))
    probabilities = found["shadow_probability"]
    columns = {
        **{name: found[name] for name in ("row", "root", "path", "label")},
        "logit": found["shadow_logit"],
        "probability": probabilities,
        "threshold": np.full(found.num_rows, threshold),
        "predicted": call_labels(probabilities.to_numpy(), threshold),
        "live_probability": found["probability"],
        "live_predicted": found["predicted"],
    }
    return pa.table(columns, schema=schema.SHADOW)
