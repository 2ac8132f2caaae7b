"""The winner of a search against the default configuration, on the fold that no trial saw.

Both are trained on the rows of the search, with several seeds: what the seed alone changes is the
yardstick for what the configuration changes.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.cluster.one_shot import start_calls
from orchestrator.config.specs import TrainSpec, TuneSpec
from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.parquet import write_parquet
from orchestrator.evaluation.metrics import point_metrics
from orchestrator.evaluation.paired import paired_difference
from orchestrator.model.network import focal_alpha
from orchestrator.pipelines.tune.head_training import Fold, HeadTraining, SearchTask, limit_process
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json
from orchestrator.runs.run_dir import RunDir

METRICS = ("auroc", "auprc", "log_loss")
NUM_SEEDS = 3
_BY_SEED = pa.list_(pa.float32())
# Configurations by name -> calibrated probabilities on the held-out rows, float32 [seeds, n].
Measured = Mapping[str, Any]
# Starts the training of configurations, and returns what waits for its end.
Measure = Callable[[Mapping[str, Mapping[str, float]]], Callable[[], Measured]]


def default_config(fold: Fold, finetune: str) -> dict[str, float]:
    """Returns the settings that `train` would use by itself on these rows."""
    spec = TrainSpec(data="")
    alpha = focal_alpha(spec.alpha, fold.train_labels)
    lr = float(spec.lr) if finetune == "none" else spec.finetune_lr
    return {"lr": lr, "alpha": alpha, "gamma": spec.gamma, "dropout": spec.dropout}


def start_judging(
    spec: TuneSpec,
    configs: Mapping[str, Mapping[str, float]],
    held_out: LabelledRows,
    measure: Measure,
    run: RunDir,
    reporter: Reporter,
) -> Callable[[], dict[str, Any]]:
    """Starts to train both configurations, to be measured on the held-out fold, once a run.

    Args:
        spec: the search.
        configs: `winner` and `default`.
        held_out: the rows that no trial saw, to measure on.
        measure: trains them.
        run: keeps the result.
        reporter: receives it.

    Returns:
        A function that waits for it and returns num_images, num_patients, seeds; of `winner` and
        `default` config and metrics by seed; and `difference`: each metric of the winner minus
        that of the default, means over the seeds, with its interval.
    """
    stored = run.held_out_json
    if not stored.exists():
        reporter.say("comparing the winner with the default configuration on the held-out fold")
        measured = measure(configs)

    def collect() -> dict[str, Any]:
        if not stored.exists():
            found = measured()
            _write_rows(run.held_out_table, held_out, found)
            write_json(stored, _describe(spec, configs, held_out, found))
        judged: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return judged

    return collect


def measure_cached(
    task: SearchTask,
    fold: Fold,
    rows: Any,
    reporter: Reporter,
    configs: Mapping[str, Mapping[str, float]],
) -> Callable[[], Measured]:
    """Starts to train heads on cached features, all in one process.

    They take some seconds of one thread, and no place from the training of the model that is
    released, which begins at the same time.

    Args:
        task: the search.
        fold: what to train on and choose the epoch and calibration by.
        rows: int64 [n], the held-out rows.
        reporter: told of them.
        configs: by name.

    Returns:
        A function that waits for the calibrated probabilities of each configuration, float32
        [seeds, n].
    """
    collect = start_calls(
        _measure,
        [(task, fold, configs, rows)],
        task="training for the held-out fold",
        session=None,
        reporter=reporter,
    )
    return lambda: collect()[0]


def _measure(
    task: SearchTask, fold: Fold, configs: Mapping[str, Mapping[str, float]], rows: Any
) -> Measured:
    """What the worker does."""
    limit_process(task.num_threads)
    from orchestrator.evaluation.calibration import fit_calibration
    from orchestrator.pipelines.prepare.feature_set import open_features

    features = open_features(task.features)
    found: dict[str, list[Any]] = {name: [] for name in configs}
    for index in range(NUM_SEEDS):
        training = HeadTraining(features, fold, task.spec, task.spec.seed + index)
        for name, config in configs.items():
            training.begin(config)
            training.run()
            calibration = fit_calibration(training.logits(fold.val_rows), fold.val_labels)
            found[name].append(calibration.apply(training.logits(rows)))
    return {name: np.stack(by_seed) for name, by_seed in found.items()}


def _describe(
    spec: TuneSpec,
    configs: Mapping[str, Mapping[str, float]],
    held_out: LabelledRows,
    found: Measured,
) -> dict[str, Any]:
    labels, patients = held_out.labels, held_out.patients
    described: dict[str, Any] = {
        "num_images": len(labels),
        "num_patients": len({patient for patient in patients if patient}) or None,
        "seeds": [spec.seed + index for index in range(len(found["winner"]))],
    }
    for name, probabilities in found.items():
        by_seed = [point_metrics(labels, row, 0.5) for row in probabilities]
        described[name] = {
            "config": dict(configs[name]),
            "metrics": {metric: [row[metric] for row in by_seed] for metric in METRICS},
        }
    described["difference"] = {
        metric: paired_difference(
            labels,
            found["winner"],
            found["default"],
            (0.5, 0.5),
            patients,
            metric,
            seed=spec.seed,
        ).as_dict()
        for metric in METRICS
    }
    return described


def _write_rows(final: Path, held_out: LabelledRows, found: Measured) -> None:
    table = pa.table(
        {
            "row": pa.array(held_out.rows, pa.int64()),
            "patient_id": pa.array(held_out.patients, pa.string()),
            "label": pa.array(held_out.labels, pa.int8()),
            **{name: pa.array(list(rows.T), _BY_SEED) for name, rows in found.items()},
        }
    )
    write_parquet(final, table)
