"""The random masks of dropout, made repeatable."""

import keras
import numpy as np


class DropoutMasks:
    """Makes the masks of dropout a function of layer, steps done and worker alone.

    So they differ between workers, a resumed run draws what an undisturbed one does, and a head on
    cached features draws what it would within the whole network.

    Args:
        model: its layers have the seeds that they were built with.
        rank: this worker's number.
    """

    def __init__(self, model: keras.Model, rank: int = 0) -> None:
        self._model = model
        self._rank = rank
        states = [
            layer.seed_generator.state
            for layer in model.layers
            if getattr(layer, "seed_generator", None) is not None
        ]
        self._seeds = [(state, int(keras.ops.convert_to_numpy(state.value)[0])) for state in states]

    def reseed(self) -> None:
        """Puts the seeds of the coming epoch in place."""
        steps = int(keras.ops.convert_to_numpy(self._model.optimizer.iterations.value))
        for state, seed in self._seeds:
            state.assign(np.random.default_rng([seed, steps, self._rank]).integers(2**31, size=2))
