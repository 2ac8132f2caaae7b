"""The learning rate search of one run, on its cached features: for `find-lr` and for `--lr auto`.

The search itself is `orchestrator.model.lr_finder`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.cluster.one_shot import run_calls
from orchestrator.config.specs import TrainSpec
from orchestrator.config.workers import Session
from orchestrator.pipelines.prepare.feature_set import open_features
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir


@dataclass(frozen=True)
class RateTask:
    """What the searching worker needs; pickled.

    Args:
        spec: the training's spec.
        run: folder of the run, its split and features done.
    """

    spec: TrainSpec
    run: Path


def search_rate(task: RateTask, session: Session, reporter: Reporter) -> dict[str, Any]:
    """Returns a learning rate for the head, searched once a run, and leaves it in the run.

    Args:
        task: the training.
        session: size of the worker.
        reporter: told of the rate.

    Returns:
        `RateSearch.as_dict()`.

    Raises:
        DataError: the loss is not finite at any rate.
    """
    stored = RunDir(task.run).rate
    if not stored.exists():
        reporter.say("searching a learning rate")
        (searched,) = run_calls(
            _search,
            [(task,)],
            task="searching a learning rate",
            num_cpus=session.cpus_per_worker,
            num_gpus=session.gpus_per_worker,
        )
        write_json(stored, searched)
    found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
    reporter.say(
        f"learning rate {found['rate']:.2g}, best of {len(found['trials'])} trials of "
        f"{found['trial_steps']} steps"
    )
    return found


def _search(task: RateTask) -> dict[str, Any]:
    """What the worker does: the range test and the trials on the training rows' features."""
    from orchestrator.model.lr_finder import find_head_rate

    spec, run = task.spec, RunDir(task.run)
    table = pq.read_table(run.splits)
    train = table.filter(pc.equal(table.column("split"), "train"))
    rows, labels = (train.column(name).to_numpy() for name in ("row", "label"))
    found = find_head_rate(
        open_features(run.features).take(rows, spec.views),
        labels,
        dropout=spec.dropout,
        batch_size=spec.batch_size,
        alpha=float(np.mean(labels == 0)) if spec.alpha == "auto" else spec.alpha,
        gamma=spec.gamma,
        seed=spec.seed,
    )
    return found.as_dict()
