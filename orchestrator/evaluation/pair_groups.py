"""Which group of images a candidate serves worse than the live model: differences by group.

Groups are those of `groups.py`. The tests count whole patients and are corrected for how many there
are, so that among dozens of groups none is called worse by chance alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.evaluation.drift import holm
from orchestrator.evaluation.groups import DIMENSIONS, Dimension
from orchestrator.evaluation.model_pair import MIN_PATIENTS, ModelPair
from orchestrator.evaluation.subgroups import LEVEL, TESTED, chance_of_lower, drop_telling
from orchestrator.evaluation.wording import format_difference, lower_title


def measure_groups(pair: ModelPair, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Returns the candidate minus the live model in every group, and where it is worse.

    Args:
        pair: the models' outputs.
        dimensions: groups of its images; those that are named by class or patient are left out.

    Returns:
        dimensions: each with `groups`, whose `figures` hold by metric `live`, `candidate`,
        `difference` with `low` and `high` (95%), `p` and `p_adjusted` (one-sided, that the
        candidate is worse) and `is_worse`; no interval and no p where fewer than `MIN_PATIENTS` of
        the class are there.
        num_tests: how many the correction counts.
        worse: the groups that are served worse, in words.
    """
    shown, tests = [], []
    for dimension in drop_telling(dimensions, pair.labels, pair.clusters):
        groups = []
        for number, name in enumerate(dimension.groups, 1):
            part = pair.select(dimension.codes == number)
            figures = {metric: _compare(metric, part) for metric in TESTED}
            groups.append(
                {
                    "name": name,
                    "num_images": int(part.labels.size),
                    "num_positive": int(np.sum(part.labels == 1)),
                    "figures": figures,
                }
            )
            tests += [
                (f"{DIMENSIONS[dimension.name]} {name}, {lower_title(metric)}", figure)
                for metric, figure in figures.items()
                if figure["p"] is not None
            ]
        shown.append(
            {"name": dimension.name, "title": DIMENSIONS[dimension.name], "groups": groups}
        )
    for (_, figure), adjusted in zip(tests, holm([f["p"] for _, f in tests]), strict=True):
        figure |= {"p_adjusted": adjusted, "is_worse": adjusted < LEVEL}
    worse = [
        f"{where} {format_difference(figure['difference'])}"
        for where, figure in tests
        if figure["is_worse"]
    ]
    return {"dimensions": shown, "num_tests": len(tests), "worse": worse}


def _compare(metric: str, part: ModelPair) -> dict[str, Any]:
    """One figure of both models in a group, and the chance of so low a difference."""
    negative, positive = part.num_patients
    units = {"sensitivity": positive, "specificity": negative, "auroc": min(negative, positive)}
    names = ("live", "candidate", "difference", "low", "high", "p", "p_adjusted")
    found: dict[str, Any] = dict.fromkeys(names) | {"is_worse": False}
    if not units[metric]:
        return found
    if metric == "auroc":
        test = part.compare_areas()
        live, candidate, error = test.first, test.second, test.error or 0.0
    else:
        counted = part.labels == (1 if metric == "sensitivity" else 0)
        live, candidate = (float(of[counted].mean()) for of in part.right)
        apart = (part.right[1].astype(float) - part.right[0])[counted]
        of_patient = np.bincount(part.clusters[counted], apart)
        error = float(np.sqrt(np.sum(of_patient**2))) / apart.size  # as McNemar's
    found |= {"live": live, "candidate": candidate, "difference": candidate - live}
    if units[metric] >= MIN_PATIENTS:
        reach = 1.96 * error
        found |= {"low": candidate - live - reach, "high": candidate - live + reach}
        found["p"] = chance_of_lower(candidate - live, error, units[metric])
    return found
