"""The learning rate search against the best of an exhaustive grid, on problems without Keras."""

from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.errors import DataError
from orchestrator.model.lr_finder import (
    HIGHEST,
    LOWEST,
    Begin,
    Step,
    find_head_rate,
    find_rate,
    range_test,
)

STEPS = 100


def quadratic(curvatures: list[float], floor: float = 0.0) -> Begin:
    """Gradient descent on a quadratic: no noise, best rate known in closed form."""
    curvature = np.array(curvatures)
    start = np.random.default_rng(7).normal(size=len(curvature))

    def begin() -> Step:
        weights = start.copy()

        def step(rate: float) -> float:
            nonlocal weights
            loss = floor + 0.5 * float(np.sum(curvature * weights**2))
            weights = weights - rate * curvature * weights
            return loss

        return step

    return begin


def logistic(seed: int, adam: bool, scale: float = 1.0) -> Begin:
    """Logistic regression with noisy labels in batches of 32: convex, and every loss is noisy."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(1500, 20)) * scale * np.linspace(0.3, 1.5, 20)
    truth = rng.normal(size=20) / scale
    labels = (inputs @ truth + rng.logistic(size=1500) > 0).astype(float)

    def begin() -> Step:
        order = np.random.default_rng(seed + 1)
        weights, first, second = np.zeros(20), np.zeros(20), np.zeros(20)
        count = 0

        def step(rate: float) -> float:
            nonlocal weights, first, second, count
            rows = order.integers(len(inputs), size=32)
            margin = inputs[rows] @ weights
            loss = float(np.mean(np.logaddexp(0, margin) - labels[rows] * margin))
            slope = inputs[rows].T @ (0.5 + 0.5 * np.tanh(margin / 2) - labels[rows]) / 32
            count += 1
            if adam:
                first = 0.9 * first + 0.1 * slope
                second = 0.999 * second + 0.001 * slope**2
                slope = (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-7)
            weights = weights - rate * slope
            return loss

        return step

    return begin


def best_of_grid(begin: Begin) -> float:
    """The constant rate with the lowest mean loss late in a training, of 71 from 1e-6 to 10."""
    late = {}
    for rate in np.geomspace(LOWEST, HIGHEST, 71):
        step = begin()
        with np.errstate(all="ignore"):
            losses = [step(float(rate)) for _ in range(STEPS)]
        late[float(rate)] = float(np.nan_to_num(np.mean(losses[-STEPS // 4 :]), nan=np.inf))
    return min(late, key=lambda rate: late[rate])


@pytest.mark.parametrize("curvatures", [[1.0], [10.0, 1.0], [40.0, 13.0, 5.0, 2.0]])
@pytest.mark.parametrize("floor", [0.0, 3.0])
def test_quadratics_within_three_of_the_closed_form(curvatures: list[float], floor: float) -> None:
    best = 2 / (max(curvatures) + min(curvatures))  # fastest constant rate of gradient descent
    with np.errstate(all="ignore"):
        found = find_rate(quadratic(curvatures, floor), trial_steps=STEPS)
    assert best / 3 < found.rate < best * 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: logistic(seed, adam=False),
        lambda seed: logistic(seed, adam=True),
        lambda seed: logistic(seed, adam=True, scale=0.1),
        lambda seed: logistic(seed, adam=False, scale=10.0),
    ],
    ids=["sgd", "adam", "adam-small-inputs", "sgd-large-inputs"],
)
def test_noisy_convex_problems_within_three_of_an_exhaustive_grid(
    make: Callable[[int], Begin], seed: int
) -> None:
    begin = make(seed)
    best = best_of_grid(begin)
    found = find_rate(begin, trial_steps=STEPS)
    assert best / 3 < found.rate < best * 3
    assert len(found.trials) <= 20


def test_noise_in_the_range_test_does_not_lead_the_search_astray() -> None:
    """The loss is lowest early in the range test by chance alone, and falls little at the end."""
    noise = np.random.default_rng(5).normal(0, 0.3, 1000)

    def begin() -> Step:
        weight, count = 1.0, 0

        def step(rate: float) -> float:
            nonlocal weight, count
            loss = 1 + 0.1 * weight**2 + noise[count]
            weight -= rate * 0.2 * weight
            count += 1
            return loss

        return step

    found = find_rate(begin, trial_steps=STEPS)
    assert found.sweep.lowest < 1e-3
    # Any rate is good that has converged when the last quarter of the trial begins.
    assert 0.1 < found.rate < 9.9


def test_the_same_search_gives_the_same_rate() -> None:
    begin = logistic(0, adam=True)
    assert find_rate(begin) == find_rate(begin)


def test_the_range_test_rises_exponentially_smooths_and_stops() -> None:
    with np.errstate(all="ignore"):
        sweep = range_test(quadratic([50.0]), 100)
    ratios = np.divide(sweep.rates[1:], sweep.rates[:-1])
    assert sweep.rates[0] == LOWEST
    assert np.allclose(ratios, ratios[0])
    assert sweep.diverged
    assert len(sweep.rates) < 100
    assert sweep.rates[-1] > 2 / 50  # where gradient descent begins to diverge
    assert sweep.smoothed[0] == pytest.approx(sweep.losses[0])  # corrected for its start
    assert sweep.smoothed[1] == pytest.approx((0.9 * sweep.losses[0] + sweep.losses[1]) / 1.9)
    assert sweep.steepest < sweep.lowest


def test_a_constant_loss_has_no_bias_at_the_start() -> None:
    sweep = range_test(lambda: lambda rate: 0.7, 50)
    assert np.allclose(sweep.smoothed, 0.7)
    assert not sweep.diverged
    assert sweep.rates[-1] == pytest.approx(HIGHEST)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda rate: float("nan"), "not finite before any training"),
        (lambda rate: 1.0 if rate <= LOWEST else float("inf"), "diverged at every learning rate"),
    ],
)
def test_a_loss_that_is_never_finite_is_an_error(
    loss: Callable[[float], float], message: str
) -> None:
    counts = iter(range(10_000))

    def begin() -> Step:
        first = next(counts)
        return loss if first == 0 else lambda rate: float("inf")

    with pytest.raises(DataError, match=message):
        find_rate(begin)


def test_a_head_is_put_back_before_every_trial() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(np.int8)
    views = (rng.normal(size=(1, 200, 16)) + labels[None, :, None]).astype(np.float32)
    settings = {"dropout": 0.2, "batch_size": 32, "alpha": 0.5, "gamma": 2.0, "seed": 3}
    found = find_head_rate(views, labels, **settings)
    again = find_head_rate(views, labels, **settings)
    assert found.trial_steps == 50
    assert 1e-4 < found.rate < 0.3
    assert [trial.rate for trial in found.trials] == [trial.rate for trial in again.trials]
    losses = [np.array([trial.end for trial in search.trials]) for search in (found, again)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    shown = found.as_dict()
    assert shown["rate"] == found.rate
    assert shown["sweep"][0]["loss"] == pytest.approx(shown["sweep"][0]["smoothed"])
