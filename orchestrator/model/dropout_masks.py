"""The random masks of dropout, made repeatable."""

import zlib
from typing import Any

import keras
import numpy as np


class DropoutMasks:
    """Makes the masks of dropout a function of seed, layer name and steps done alone.

    So a resumed run draws what an undisturbed one does, a head on cached features draws what it
    would within the whole network, and several workers can draw the masks of a global batch (see
    `multiworker.py`). The seeds that layers are built with do not count: those of a backbone read
    from a file are other ones in every process.

    Args:
        model: compiled.
        seed: of the run, >= 0.
        rank: this worker's number; counts only for layers that add noise of another kind.
    """

    def __init__(self, model: keras.Model, seed: int, rank: int = 0) -> None:
        self._model = model
        self._states = [
            (
                layer.seed_generator.state,
                [
                    seed,
                    zlib.crc32(layer.name.encode()),
                    0 if type(layer) is keras.layers.Dropout else rank,
                ],
            )
            for layer in model.layers
            if getattr(layer, "seed_generator", None) is not None
        ]

    @property
    def seeds(self) -> list[Any]:
        """The seeds that the next step draws from; set them to have it draw the same once more."""
        return [keras.ops.convert_to_numpy(state.value) for state, _ in self._states]

    @seeds.setter
    def seeds(self, values: list[Any]) -> None:
        for (state, _), value in zip(self._states, values, strict=True):
            state.assign(value)

    def reseed(self) -> None:
        """Puts the seeds of the coming epoch in place."""
        steps = int(keras.ops.convert_to_numpy(self._model.optimizer.iterations.value))
        for state, seed in self._states:
            state.assign(np.random.default_rng([*seed, steps]).integers(2**31, size=2))
