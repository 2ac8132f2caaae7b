"""The ensemble of the compared models, as one more row of their comparison.

It is made of the probabilities that each model gave for the same images; nothing is run again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.calibration import call_labels, choose_threshold
from orchestrator.evaluation.metrics import evaluate
from orchestrator.evaluation.report.comparison import Contender, check_same_images


def build_ensemble(members: Sequence[Contender], how: str, rule: str, seed: int) -> Contender:
    """Returns the ensemble of several models, judged as each of them is.

    Args:
        members: trained on the same split, with the same loss.
        how: `mean`: the mean of their calibrated probabilities, with a threshold chosen by `rule`
            on validation. `vote`: the share of them that call PNEUMONIA, each at its own threshold;
            half of them are enough, since a missed pneumonia is the worse error. Its AUROC is that
            of the share.
        rule: as `choose_threshold` takes it.
        seed: of the intervals' resamples.

    Returns:
        A contender whose parameters and cost are those of its members together, with an ensemble of
        each further seed of its members.

    Raises:
        DataError: the models were not measured on the same images.
    """
    check_same_images(members)
    seeds = zip(*(member.trainings for member in members), strict=True)
    first, *others = (_of_one_seed(trainings, how, rule, seed) for trainings in seeds)
    return replace(first, repeats=tuple(others))


def _of_one_seed(members: Sequence[Contender], how: str, rule: str, seed: int) -> Contender:
    rows = members[0].rows
    combine = _mean if how == "mean" else _vote
    probabilities = {split: combine(members, split) for split in rows}
    labels = rows["validation"].labels
    chosen = rule if how == "mean" else "0.5"
    threshold = choose_threshold(labels, probabilities["validation"], chosen).value
    judged = {
        split: evaluate(part.labels, probabilities[split], threshold, part.patients, seed=seed)
        for split, part in rows.items()
    }
    models = [member.report["model"] for member in members]
    report: dict[str, Any] = {
        **{split: found.as_dict() for split, found in judged.items()},
        "threshold": threshold,
        "best_epoch": None,
        "history": [],
        "recipe": {"lr": None},
        "model": {
            "weights": None,
            "num_parameters": sum(model["num_parameters"] for model in models),
            "num_trainable": sum(model["num_trainable"] for model in models),
        },
    }
    cost = {
        name: _total(member.cost[name] for member in members)
        for name in ("features_s", "training_s")
    }
    # One image passes through one network after another.
    rates = [member.cost["images_per_s"] for member in members]
    image_s = _total(1 / rate if rate else None for rate in rates)
    cost["images_per_s"] = None if image_s is None else 1 / image_s
    names = tuple(member.backbone for member in members)
    name, loss = f"ensemble ({how})", members[0].loss
    return Contender(name, loss, report, rows, probabilities, cost, members=names)


def _mean(members: Sequence[Contender], split: str) -> npt.NDArray[Any]:
    given = [member.probabilities[split] for member in members]
    return np.asarray(np.mean(given, axis=0, dtype=np.float64), np.float32)


def _vote(members: Sequence[Contender], split: str) -> npt.NDArray[Any]:
    calls = [call_labels(m.probabilities[split], m.report["threshold"]) for m in members]
    return np.asarray(np.mean(calls, axis=0))


def _total(values: Iterable[float | None]) -> float | None:
    """The sum, None where a value is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
