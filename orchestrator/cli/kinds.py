"""The kinds of run: what each can be asked for, and what runs it. The one table of them.

What runs a kind is imported when it runs: `--help` needs the specs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.fields import Form
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import (
    SPECS,
    CompareSpec,
    FindLrSpec,
    IngestSpec,
    RecalibrateSpec,
    Resources,
    ScoreSpec,
    TrainSpec,
    TuneSpec,
)
from orchestrator.progress import Reporter


@dataclass(frozen=True)
class RunKind:
    """One kind of run.

    Args:
        spec: what it can be asked for: the `args` of a job file and the flags of its command.
        run: called with a spec, resources, a reporter, and the run folder of a job or of a run to
            be continued, if there is one; returns what the pipeline returns.
        on_gpus: whether its workers may be given GPUs.
    """

    spec: type[Form]
    run: Callable[..., Any]
    on_gpus: bool = True


def _train(spec: TrainSpec, resources: Resources, reporter: Reporter, run: Path | None) -> Any:
    from orchestrator.pipelines.train.train import train

    return train(spec, resources, reporter, run_folder=run)


def _tune(spec: TuneSpec, resources: Resources, reporter: Reporter, run: Path | None) -> Any:
    from orchestrator.pipelines.tune.tune import tune

    return tune(spec, resources, reporter, run_folder=run)


def _compare(spec: CompareSpec, resources: Resources, reporter: Reporter, run: Path | None) -> Any:
    from orchestrator.pipelines.train.compare import compare

    return compare(spec, resources, reporter, run_folder=run)


def _find_lr(spec: FindLrSpec, resources: Resources, reporter: Reporter, run: Path | None) -> Any:
    from orchestrator.pipelines.train.find_lr import find_lr

    return find_lr(spec, resources, reporter, run_folder=run)


def _score(spec: ScoreSpec, resources: Resources, reporter: Reporter, run: Path | None) -> Any:
    from orchestrator.pipelines.score.score import score

    return score(spec, resources, reporter, run_folder=run)


def _recalibrate(
    spec: RecalibrateSpec, resources: Resources, reporter: Reporter, run: Path | None
) -> Any:
    from orchestrator.pipelines.recalibrate import recalibrate

    return recalibrate(spec, resources, reporter, run_folder=run)


def _quantize(
    spec: QuantizeSpec, resources: Resources, reporter: Reporter, run: Path | None
) -> Any:
    from orchestrator.pipelines.quantize.quantize import quantize

    return quantize(spec, resources, reporter, run_folder=run)


def _models_compare(
    spec: ModelsCompareSpec, resources: Resources, reporter: Reporter, run: Path | None
) -> Any:
    from orchestrator.pipelines.replacement.compare_models import compare_models

    return compare_models(spec, resources, reporter, run_folder=run)


def _ingest(spec: IngestSpec, resources: Resources, reporter: Reporter, _: Path | None) -> Any:
    from orchestrator.pipelines.prepare.ingest import ingest

    return ingest(spec, resources, reporter)  # its run folder is its `out`


KINDS: dict[str, RunKind] = {
    "train": RunKind(SPECS["train"], _train),
    "tune": RunKind(SPECS["tune"], _tune),
    "compare": RunKind(SPECS["compare"], _compare),
    "find-lr": RunKind(SPECS["find-lr"], _find_lr),
    "score": RunKind(SPECS["score"], _score),
    "recalibrate": RunKind(SPECS["recalibrate"], _recalibrate),
    "quantize": RunKind(SPECS["quantize"], _quantize, on_gpus=False),
    "models-compare": RunKind(SPECS["models-compare"], _models_compare),
    "ingest": RunKind(IngestSpec, _ingest, on_gpus=False),  # no kind of job file
}


def command_of(kind: str) -> str:
    """Returns the words of a kind's command, without the program's name."""
    return kind.replace("models-", "models ")
