"""The learning rate search of one run, on its cached features: for `find-lr` and for `--lr auto`.

The search itself is `orchestrator.model.lr_finder`.
"""

import json
from typing import Any

import pyarrow.compute as pc

from orchestrator.cluster.one_shot import run_calls
from orchestrator.config.specs import TrainSpec
from orchestrator.config.workers import Session
from orchestrator.data.parquet import open_parquet
from orchestrator.model.network import focal_alpha
from orchestrator.pipelines.prepare.feature_set import open_features
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir


def search_rate(
    spec: TrainSpec, run: RunDir, session: Session, reporter: Reporter
) -> dict[str, Any]:
    """Returns a learning rate for the head, searched once a run, and leaves it in the run.

    Args:
        spec: the training's spec.
        run: the run, its split and features done.
        session: size of the worker.
        reporter: receives the rate.

    Returns:
        `RateSearch.as_dict()`.

    Raises:
        DataError: the loss is not finite at any rate.
    """
    if not run.rate.exists():
        reporter.say("searching a learning rate")
        # Without the address of a tracking store, which may hold a password.
        sent = spec.model_copy(update={"mlflow": None})
        (searched,) = run_calls(
            _search,
            [(sent, run)],
            task="searching a learning rate",
            session=session,
            reporter=reporter,
        )
        write_json(run.rate, searched)
    found: dict[str, Any] = json.loads(run.rate.read_text(encoding="utf-8"))
    reporter.say(
        f"learning rate {found['rate']:.2g}, best of {len(found['trials'])} trials of "
        f"{found['trial_steps']} steps"
    )
    return found


def _search(spec: TrainSpec, run: RunDir) -> dict[str, Any]:
    """What the worker does: the range test and the trials on the training rows' features."""
    from orchestrator.model.lr_finder import find_head_rate

    table = open_parquet(run.splits).read()
    train = table.filter(pc.equal(table.column("split"), "train"))
    rows, labels = (train.column(name).to_numpy() for name in ("row", "label"))
    found = find_head_rate(
        open_features(run.features).take(rows, spec.views),
        labels,
        dropout=spec.dropout,
        batch_size=spec.batch_size,
        alpha=focal_alpha(spec.alpha, labels),
        gamma=spec.gamma,
        seed=spec.seed,
    )
    return found.as_dict()
