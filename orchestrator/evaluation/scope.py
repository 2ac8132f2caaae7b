"""Whether an image is of the kind that a model was made for: marks by what its bundle keeps.

A bundle's `ScopeReference` sums up the training images: shapes, grey levels, a mean thumbnail, and
where their pooled features lie. An image far from all of them gets a probability too, which means
nothing; so it is marked, with a code for each way in which it differs.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from orchestrator.evaluation.drift import Spread
from orchestrator.evaluation.scope_images import (
    IMAGE_FIGURES,
    Array,
    ScopeImages,
    image_figures,
    unit_thumbnails,
)

IN_SCOPE = "in_scope"
NOTHING: Mapping[str, Sequence[Any]] = MappingProxyType({})
NO_FILES: Mapping[str, int] = MappingProxyType({})
# Every code an image can be marked with, and what it says. The codes are stable.
SCOPE_CODES: dict[str, str] = {
    "out_of_scope_modality": "Its header names no modality of X-rays (CR, DX), nor one trained on.",
    "out_of_scope_view": "Its header names a view that is not frontal, such as a lateral one.",
    "out_of_scope_age": "The patient is younger or older than those trained on.",
    "out_of_scope_intent": "Raw values of the detector (FOR PROCESSING), not made to be looked at.",
    "out_of_scope_not_chest": "Unlike the training images to the network: perhaps no frontal chest "
    "X-ray, or one by another kind of machine.",
    "out_of_scope_inverted": "Black and white seem exchanged.",
    "out_of_scope_blank": "Hardly any contrast: perhaps a failed or empty exposure.",
    "out_of_scope_aspect": "Much wider or taller than the training images: perhaps a part of an "
    "X-ray, or several beside each other.",
}

_NUM_AXES = 32  # of the features, kept one by one; the rest count as equal in every direction
_HELD_OUT_MARKED = 0.01  # of held-out images may be farther away than the limit without its slack
# X-rays of another machine lie somewhat farther; hands, slices, pages and noise beyond 1.4.
_SLACK = 1.15
# Shares of what 1% of the training images fall short of. An inverted X-ray is as unlike the mean
# image as it was like it; a page of text or noise is neither.
_INVERTED, _LEAST_INVERTED = 0.6, 0.25
_BLANK = 0.3
_ASPECT_MARGIN = 1.25
_MODALITIES = frozenset({"CR", "DX", "DR"})
# The last two are of a patient who lies on one side: the beam is frontal. Of no known word nothing
# is said.
_FRONTAL = frozenset({"AP", "PA", "FRONTAL", "LLD", "RLD", "OTHER"})
_USUAL = 0.01  # of the training images have a word that is then as good as the ones above
_MIN_AGES = 20
KNOWN_WORDS = ("modality", "view_position", "sex")  # of a header, counted over training images
_NUM_TOLD = 4  # axes whose figures are followed
FIGURES = (*IMAGE_FIGURES, "distance", *(f"axis_{n}" for n in range(1, _NUM_TOLD + 1)))
KNOWN_FACTS = ("age_years", *KNOWN_WORDS)
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


class ScopeReference(BaseModel):
    """What a bundle keeps of the images it was trained on, to compare others with.

    Attributes:
        num_images: training images that the means are of.
        num_held_out: validation images that `max_distance` was set by.
        trained_on: quantiles (see `_QUANTILES`) of each of `IMAGE_FIGURES` of the training images.
        words: training images by word, for each of `KNOWN_WORDS` that any header named.
        ages: quantiles of the patients' ages, years; None where fewer than 20 are known.
        template: mean thumbnail, each scaled to mean 0 and length 1 before; of length 1.
        min_likeness: below it black and white are exchanged.
        min_contrast: below it an image is blank; grey levels from `dark` to `bright`.
        aspects: least and greatest width over height.
        mean: of the pooled features, [D].
        axes: their main directions, orthonormal, [K, D].
        variances: along these, [K].
        rest_variance: in every direction beside them.
        max_distance: beyond it an image is like none of them.
        spreads: how the held-out images were spread, by each of `FIGURES` and the logit.
        logits: their logits at each hundredth, from the least to the greatest, [101].
        files: training files found, and those rejected, by code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_images: int
    num_held_out: int
    trained_on: dict[str, list[float]]
    words: dict[str, dict[str, int]] = {}
    ages: list[float] | None = None
    template: list[float]
    min_likeness: float
    min_contrast: float
    aspects: tuple[float, float]
    mean: list[float]
    axes: list[list[float]]
    variances: list[float]
    rest_variance: float
    max_distance: float
    spreads: dict[str, Spread] = {}
    logits: list[float] = []
    files: dict[str, int] = {}

    def describe(self, images: ScopeImages, features: npt.NDArray[np.float32]) -> dict[str, Array]:
        """Returns each of `FIGURES` of some images, float64 [N].

        Args:
            images: of N images.
            features: their pooled features, float32 [N, D].
        """
        return _describe(images, features, *self._terms)

    def distances(self, features: npt.NDArray[np.float32]) -> Array:
        """Returns how far features lie from those of the training images; about 1 for like ones.

        Mahalanobis distance over sqrt(D), by a covariance that is exact along the main axes and the
        same in every other direction.

        Args:
            features: float32 [N, D].

        Returns:
            float64 [N].

        Reference:
            Tipping and Bishop, Probabilistic principal component analysis, Journal of the Royal
            Statistical Society B 61, 1999 (the covariance); Lee et al., A simple unified framework
            for detecting out-of-distribution samples, NeurIPS 2018 (the distance).
        """
        return _distances(features, self._terms[1])[0]

    @cached_property
    def _terms(self) -> "tuple[Array, _Shape]":
        mean, axes, variances = map(np.array, (self.mean, self.axes, self.variances))
        return np.array(self.template), (mean, axes, variances, self.rest_variance)

    def mark(
        self, seen: Mapping[str, Array], facts: Sequence[Mapping[str, Any]]
    ) -> list[list[str]]:
        """Returns the codes of each image, none where it is in scope.

        Args:
            seen: what `describe` returns of N images.
            facts: what the header of each says, by names of `DicomFacts`; what it does not say is
                missing or None, and gives no code.
        """
        low, high = self.aspects
        found = {
            "out_of_scope_not_chest": seen["distance"] > self.max_distance,
            "out_of_scope_inverted": seen["likeness"] < self.min_likeness,
            "out_of_scope_blank": seen["bright"] - seen["dark"] < self.min_contrast,
            "out_of_scope_aspect": (seen["aspect"] < low) | (seen["aspect"] > high),
        }
        return [
            self._mark_facts(said) + [code for code, marked in found.items() if marked[place]]
            for place, said in enumerate(facts)
        ]

    def _mark_facts(self, said: Mapping[str, Any]) -> list[str]:
        """Codes by what a header says."""
        age, found = said.get("age_years"), []
        for code, name, allowed in (
            ("out_of_scope_modality", "modality", _MODALITIES),
            ("out_of_scope_view", "view_position", _FRONTAL),
        ):
            counts = self.words.get(name, {})
            least = _USUAL * sum(counts.values())
            usual = {word for word, count in counts.items() if count >= least}
            if said.get(name) is not None and said[name] not in allowed | usual:
                found.append(code)
        if self.ages is not None and age is not None:
            youngest, oldest = math.floor(self.ages[1]), math.ceil(self.ages[-2])
            if not youngest <= age <= oldest:
                found.append("out_of_scope_age")
        if said.get("presentation_intent") == "FOR PROCESSING":
            found.append("out_of_scope_intent")
        return found


def fit_scope(
    train: ScopeImages,
    train_features: npt.NDArray[np.float32],
    held_out: ScopeImages,
    held_out_features: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    files: Mapping[str, int] = NO_FILES,
    facts: Mapping[str, Sequence[Any]] = NOTHING,
) -> ScopeReference:
    """Returns the reference of a training: means of its training images, limits by held-out ones.

    At most 1% of the held-out images lie beyond `max_distance`.

    Args:
        train: of N training images, at least one.
        train_features: float32 [N, D].
        held_out: of M images of other patients, at least one.
        held_out_features: float32 [M, D].
        logits: of held-out images, float32 [L].
        files: training files found, and those rejected, by code.
        facts: `age_years` and words of `KNOWN_WORDS` of the training images, in any order, None
            where not known; those that no image has may be left out.
    """
    template = unit_thumbnails(train.thumbnails).mean(axis=0)
    template /= max(float(np.linalg.norm(template)), 1e-12)
    shape = _fit_features(train_features)
    seen = _describe(train, train_features, template, shape)
    other = _describe(held_out, held_out_features, template, shape)
    both = {name: np.concatenate([seen[name], other[name]]) for name in IMAGE_FIGURES}
    likeness = float(np.quantile(both["likeness"], 0.01))
    contrast = float(np.quantile(both["bright"] - both["dark"], 0.01))
    aspects = np.quantile(both["aspect"], (0.005, 0.995))
    distances = np.sort(other["distance"])
    rank = min(math.ceil((len(distances) + 1) * (1 - _HELD_OUT_MARKED)), len(distances))
    mean, axes, variances, rest = shape
    ages = [age for age in facts.get("age_years", ()) if age is not None]
    return ScopeReference(
        num_images=len(train_features),
        num_held_out=len(held_out_features),
        trained_on={name: _rounded(np.quantile(seen[name], _QUANTILES)) for name in IMAGE_FIGURES},
        words={
            name: dict(Counter(known))
            for name in KNOWN_WORDS
            if (known := [word for word in facts.get(name, ()) if word is not None])
        },
        ages=_rounded(np.quantile(ages, _QUANTILES)) if len(ages) >= _MIN_AGES else None,
        template=_rounded(template),
        min_likeness=-max(_LEAST_INVERTED, _INVERTED * likeness),
        min_contrast=_BLANK * contrast,
        aspects=(float(aspects[0]) / _ASPECT_MARGIN, float(aspects[1]) * _ASPECT_MARGIN),
        mean=_rounded(mean),
        axes=[_rounded(axis) for axis in axes],
        variances=_rounded(variances),
        rest_variance=rest,
        max_distance=_SLACK * float(distances[rank - 1]),
        spreads={name: Spread.of(of) for name, of in (other | {"logit": logits}).items()},
        logits=_rounded(np.quantile(logits, np.linspace(0, 1, 101))),
        files=dict(files),
    )


def _describe(
    images: ScopeImages, features: npt.NDArray[np.float32], template: Array, shape: "_Shape"
) -> dict[str, Array]:
    distances, along = _distances(features, shape)
    figures = image_figures(images, template)
    of = (*figures.values(), distances, *along.T[:_NUM_TOLD])
    return dict(zip(FIGURES, of, strict=False))  # a tiny network has fewer axes


# Mean, main axes, variances along them, and the mean variance beside them.
_Shape = tuple[Array, Array, Array, float]


def _fit_features(features: npt.NDArray[np.float32]) -> _Shape:
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    num_images, width = centred.shape
    from scipy.linalg import eigh  # of training alone

    kept = min(_NUM_AXES, width - 1, max(num_images // 4, 1))
    covariance = centred.T @ centred / num_images
    values, vectors = eigh(covariance, subset_by_index=(width - kept, width - 1))
    total = max(float(np.trace(covariance)), 1e-12)
    rest = max((total - float(values.sum())) / (width - kept), 1e-6 * total / width)
    return mean, vectors.T[::-1], np.maximum(values, rest)[::-1], rest


def _distances(features: npt.NDArray[np.float32], shape: _Shape) -> tuple[Array, Array]:
    """The distances, and the place along each axis in its standard deviations, [N, K]."""
    mean, axes, variances, rest = shape
    centred = features - mean
    along = centred @ axes.T
    beside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
    squared: Array = (along**2 / variances).sum(axis=1) + beside / rest
    return np.sqrt(squared / features.shape[1]), along / np.sqrt(variances)


def _rounded(values: npt.ArrayLike) -> list[float]:
    """Numbers with six digits: enough, and a third of the text."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).ravel()]
