"""A learning rate for a training: Smith's range test, then short trials below where it ended.

The search itself knows no network: it is given a function that begins the training again, always
from the same weights and the same order of batches, and gives its step. Trials on equal batches
can be compared although each loss is noisy.

The range test alone would not do. Where the rate rises with every step, the loss has already
fallen by the time the best rate is reached, and the steepest point lies far below (2 to 100 times)
it on smooth problems and above it on noisy ones. So the test gives the curve and where to begin,
and trials at constant rates decide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError

if TYPE_CHECKING:
    import keras

# One step of training at a learning rate; returns the loss of its batch before the step.
Step = Callable[[float], float]
# Begins a training: same weights, same optimizer state, same batches in the same order.
Begin = Callable[[], Step]

LOWEST, HIGHEST = 1e-6, 10.0
_SMOOTHING = 0.9  # kept of the mean at each step
_DIVERGED = 4.0  # times the lowest smoothed loss
_TRIALS_PER_DECADE = 3
_DECADES = 4  # of trials below the end of the range test
_EQUAL = 1e-4  # of what the best trial gained
_JUDGED = 0.25  # of a trial, its end


@dataclass(frozen=True)
class Sweep:
    """What the range test saw.

    Attributes:
        rates: learning rate of each step done, rising.
        losses: loss of each step's batch.
        smoothed: exponential mean of the losses, corrected for its start.
        diverged: the loss grew past bounds before the highest rate.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smoothed))]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest against the logarithm of the rate."""
        end = int(np.argmin(self.smoothed)) + 1
        if end < 3:
            return self.rates[0]
        slopes = np.gradient(np.array(self.smoothed[:end]), np.log(self.rates[:end]))
        return self.rates[int(np.argmin(slopes))]


@dataclass(frozen=True)
class RateTrial:
    """A short training at one rate.

    Attributes:
        rate: the learning rate.
        end: mean loss of the last quarter; None where it diverged.
        mean: mean loss of all steps: the lower, the sooner it fell; None where it diverged.
    """

    rate: float
    end: float | None
    mean: float | None


@dataclass(frozen=True)
class RateSearch:
    """A suggested learning rate and all that it rests on.

    Attributes:
        rate: the suggestion.
        sweep: the range test.
        trials: from the highest rate down.
        trial_steps: steps of each trial.
    """

    rate: float
    sweep: Sweep
    trials: tuple["RateTrial", ...]
    trial_steps: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the search in JSON form."""
        return {
            "rate": self.rate,
            "steepest": self.sweep.steepest,
            "lowest": self.sweep.lowest,
            "diverged": self.sweep.diverged,
            "trial_steps": self.trial_steps,
            "trials": [{"rate": trial.rate, "loss": trial.end} for trial in self.trials],
            "sweep": [
                {"rate": rate, "loss": loss, "smoothed": smoothed}
                for rate, loss, smoothed in zip(
                    self.sweep.rates, self.sweep.losses, self.sweep.smoothed, strict=True
                )
            ],
        }


def find_rate(begin: Begin, *, sweep_steps: int = 100, trial_steps: int = 100) -> RateSearch:
    """Finds the constant learning rate with the lowest training loss after a short training.

    Rates are tried downwards from the end of the range test, three a decade over four decades, and
    further while the lowest is the best. A trial is judged by the mean loss of its last quarter; of
    those within a ten-thousandth of what the best one gained, the one that fell soonest is taken.

    Args:
        begin: begins the training again.
        sweep_steps: steps of the range test from `LOWEST` to `HIGHEST`.
        trial_steps: steps of each trial, >= 4; the longer, the lower the best rate of a noisy
            training.

    Raises:
        DataError: the loss is not finite before any training, or at every rate.

    Reference:
        Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3.
    """
    sweep = range_test(begin, sweep_steps)
    trials: list[RateTrial] = []
    rate = sweep.rates[-1]
    while rate >= LOWEST and (
        len(trials) <= _DECADES * _TRIALS_PER_DECADE or _last_is_best(trials)
    ):
        trials.append(_try_rate(begin(), rate, trial_steps))
        rate /= 10 ** (1 / _TRIALS_PER_DECADE)
    finite = [(t.end, t.mean, t.rate) for t in trials if t.end is not None and t.mean is not None]
    if not finite:
        raise DataError(
            f"the loss diverged at every learning rate from {sweep.rates[-1]:.2g} down to "
            f"{trials[-1].rate:.2g}; check the images and the weights"
        )
    lowest = min(finite)[0]
    bound = lowest + _EQUAL * max(sweep.smoothed[0] - lowest, 0.0)
    _, rate = min((mean, rate) for end, mean, rate in finite if end <= bound)
    return RateSearch(rate, sweep, tuple(trials), trial_steps)


def _last_is_best(trials: list[RateTrial]) -> bool:
    """Whether no trial before the last was better, so that the next may be better still."""
    losses = [math.inf if trial.end is None else trial.end for trial in trials]
    return losses[-1] <= min(losses)


def range_test(begin: Begin, num_steps: int) -> Sweep:
    """Trains with a rate that rises exponentially, until the loss diverges.

    Args:
        begin: begins the training.
        num_steps: steps from `LOWEST` to `HIGHEST`, >= 2.

    Raises:
        DataError: the loss is not finite before any training.
    """
    step = begin()
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    diverged = False
    rates = np.geomspace(LOWEST, HIGHEST, num_steps).tolist()
    for index, rate in enumerate(rates):
        loss = step(rate)
        if not math.isfinite(loss):
            diverged = True
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(mean / (1 - _SMOOTHING ** (index + 1)))
        if smoothed[-1] > _DIVERGED * min(smoothed):
            diverged = True
            break
    if not losses:
        raise DataError("the loss is not finite before any training; check images and weights")
    return Sweep(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), diverged)


def _try_rate(step: Step, rate: float, num_steps: int) -> RateTrial:
    losses = []
    for _ in range(num_steps):
        losses.append(step(rate))
        if not math.isfinite(losses[-1]):
            return RateTrial(rate, None, None)
    late = losses[-max(1, int(num_steps * _JUDGED)) :]
    return RateTrial(rate, float(np.mean(late)), float(np.mean(losses)))


def find_head_rate(
    views: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    dropout: float,
    batch_size: int,
    alpha: float,
    gamma: float,
    seed: int,
) -> RateSearch:
    """Finds a learning rate for the head of a frozen backbone, on its cached features.

    A trial lasts an epoch, but at least 50 and at most 200 steps.

    Args:
        views: float32 [num_views, num_examples, num_features], training rows.
        labels: int8 [num_examples].
        dropout: of the head, 0 <= dropout < 1.
        batch_size: examples a step.
        alpha: focal weight of PNEUMONIA.
        gamma: focal exponent.
        seed: of first weights, dropout and order, as training uses them.

    Raises:
        DataError: as `find_rate`.
    """
    from orchestrator.model.fit import ArrayBatches, compile_model
    from orchestrator.model.network import build_head

    head = build_head(views.shape[-1], dropout, seed=seed)
    model = compile_model(head, lr=LOWEST, alpha=alpha, gamma=gamma, seed=seed)
    batches = ArrayBatches(views, labels, batch_size, seed)
    steps = math.ceil(views.shape[1] / batch_size)
    return find_rate(restarting(model, batches), trial_steps=min(max(steps, 50), 200))


def restarting(model: "keras.Model", batches: Any) -> Begin:
    """Returns what begins the training of a compiled model again, as `find_rate` wants it.

    Args:
        model: of `compile_model`; each beginning puts its present state back.
        batches: a `Batches` of `fit.py`; epochs follow one another as long as steps are asked for.
    """
    # The seeds of dropout are among the model's variables.
    variables = [*model.variables, *model.optimizer.variables]
    start = [np.array(variable.numpy()) for variable in variables]

    def begin() -> Step:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        stream = (batch for epoch in range(2**31) for batch in batches.epoch(epoch))

        def step(rate: float) -> float:
            model.optimizer.learning_rate = rate
            inputs, labels = next(stream)
            return float(model.train_on_batch(inputs, labels, return_dict=True)["loss"])

        return step

    return begin
