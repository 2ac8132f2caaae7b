"""Which configuration a trial gets, and what its settings were worth; Optuna decides.

The configuration of a trial is a function of the spec, the trial's number and, for TPE, the trials
before it. Optuna's study is built again for each, so that an interrupted search goes on exactly as
an undisturbed one would.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from orchestrator.config.fields import Span
from orchestrator.config.specs import SEARCHED, TrainSpec, TuneSpec
from orchestrator.evaluation.objectives import higher_is_better
from orchestrator.pipelines.tune.trials import FAILED, FINISHED, STOPPED, Trial

# Of a search's spec, what a training takes over as it is.
_PASSED_ON = set(TuneSpec.model_fields) & set(TrainSpec.model_fields)
_PASSED_ON -= {*SEARCHED, "out", "overwrite"}
_LOGARITHMIC = ("lr",)
_GRID_POINTS = 3  # of a range: its ends and its middle

optuna.logging.set_verbosity(optuna.logging.WARNING)


def num_trials(spec: TuneSpec) -> int:
    """Returns how many trials the search has: a grid may have fewer points than were allowed."""
    return min(spec.trials, count_grid(spec)) if spec.search == "grid" else spec.trials


def build_train_spec(spec: TuneSpec, config: Mapping[str, float]) -> TrainSpec:
    """Returns the training of one configuration."""
    recipe = {name: getattr(spec, name) for name in sorted(_PASSED_ON)}
    recipe |= {name: config[name] for name in SEARCHED}
    if spec.views == 1 and spec.features == "cached":
        recipe["augmentation"] = "none"
    if spec.finetune != "none":
        recipe["finetune_lr"] = recipe.pop("lr")
    return TrainSpec.model_validate(recipe)


def count_grid(spec: TuneSpec) -> int:
    """Returns the points of the grid."""
    return math.prod(len(_points(name, getattr(spec, name))) for name in SEARCHED)


def suggest(spec: TuneSpec, number: int, earlier: Sequence[Trial]) -> dict[str, float]:
    """Returns the configuration of a trial.

    Args:
        spec: the search.
        number: of the trial.
        earlier: the trials with lower numbers; only TPE looks at them.

    Returns:
        A value of every searched setting.
    """
    if spec.search == "grid":
        return _grid(spec)[number]
    seed = _seed(spec.seed, number)
    if spec.search == "random":
        sampler: Any = optuna.samplers.RandomSampler(seed=seed)
        earlier = []
    else:
        # Running trials count as bad ones, so that those that run at a time keep apart.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = _build_study(spec, earlier, sampler)
    asked = study.ask(_distributions(spec))
    return {name: float(asked.params[name]) for name in SEARCHED}


def find_importances(spec: TuneSpec, trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the share of each searched setting in the spread of the objective, largest first.

    Empty where the trials do not tell: fewer than four, or all equal.

    Reference:
        Hutter, Hoos and Leyton-Brown, An efficient approach for assessing hyperparameter
        importance, ICML 2014 (functional ANOVA).
    """
    judged = [trial for trial in trials if trial.value is not None]
    varied = [n for n in SEARCHED if len({trial.config[n] for trial in judged}) > 1]
    if len(judged) < 4 or not varied or len({trial.value for trial in judged}) < 2:
        return {}
    study = _build_study(spec, judged, None, complete=True)
    found = optuna.importance.get_param_importances(
        study,
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=spec.seed),
        params=varied,
    )
    return {name: float(share) for name, share in found.items()}


def _build_study(
    spec: TuneSpec, trials: Sequence[Trial], sampler: Any, *, complete: bool = False
) -> Any:
    study = optuna.create_study(
        sampler=sampler, direction="maximize" if higher_is_better(spec.objective) else "minimize"
    )
    distributions = _distributions(spec)
    for trial in trials:
        study.add_trial(_frozen(trial, distributions, complete))
    return study


def _frozen(trial: Trial, distributions: dict[str, Any], complete: bool) -> Any:
    states = optuna.trial.TrialState
    state = {FINISHED: states.COMPLETE, STOPPED: states.PRUNED, FAILED: states.FAIL}.get(
        trial.state, states.RUNNING
    )
    if complete or (state is states.PRUNED and not trial.history):
        state = states.COMPLETE
    return optuna.trial.create_trial(
        state=state,
        value=trial.value if state is states.COMPLETE else None,
        params={name: trial.config[name] for name in distributions},
        distributions=distributions,
        # Optuna ranks a stopped trial by its last epoch, then by the value there.
        intermediate_values=dict(enumerate(trial.history, 1)),
    )


def _distributions(spec: TuneSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in SEARCHED:
        values = getattr(spec, name)
        if isinstance(values, Span):
            found[name] = optuna.distributions.FloatDistribution(
                values.low, values.high, log=name in _LOGARITHMIC
            )
        else:
            found[name] = optuna.distributions.CategoricalDistribution(values)
    return found


def _grid(spec: TuneSpec) -> list[dict[str, float]]:
    """Every combination, in an order drawn by the seed: a cut-off grid is then a sample of it."""
    axes = [_points(name, getattr(spec, name)) for name in SEARCHED]
    points = [dict(zip(SEARCHED, values, strict=True)) for values in itertools.product(*axes)]
    order = np.random.default_rng(spec.seed).permutation(len(points))
    return [points[index] for index in order]


def _points(name: str, values: Span | tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(values, Span):
        return tuple(dict.fromkeys(values))
    if name in _LOGARITHMIC:
        low, high = math.log(values.low), math.log(values.high)
        inner = np.exp(np.linspace(low, high, _GRID_POINTS))[1:-1]
    else:
        inner = np.linspace(values.low, values.high, _GRID_POINTS)[1:-1]
    return (values.low, *(float(value) for value in inner), values.high)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
