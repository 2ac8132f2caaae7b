"""A head that one process trains again and again, with other settings each time.

Learning rate, alpha, gamma and dropout are variables of the model and not constants of its graph.
So a training after the first starts without tracing a graph again; and a process that has run
many is no larger than after its first: TensorFlow keeps the graph of every model that was ever
trained, and with it the weights, whatever is done to forget them.
"""

from typing import Any

import keras

from orchestrator.model.network import build_head_with, logit_model, unchecked_focal_loss


class _VariableDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose rate is a variable; it drops what Keras's own drops with the same seed.

    It holds all settings, not the rate alone: a model knows the variables of its layers, and under
    JAX any others would be constants of the compiled step.
    """

    def __init__(self, settings: dict[str, Any], name: str) -> None:
        super().__init__(name=name)
        self._settings = settings
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        rate = keras.ops.convert_to_tensor(self._settings["dropout"])
        drawn = keras.random.uniform(keras.ops.shape(inputs), seed=self.seed_generator)
        return inputs * keras.ops.cast(drawn >= rate, inputs.dtype) / (1.0 - rate)


class ReusableHead:
    """A compiled head that ends in its logit; call `begin` before each training.

    Args:
        num_features: length of a feature vector.
        seed: of weights and dropout, the same in every training.
    """

    def __init__(self, num_features: int, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self._settings = {
            name: keras.Variable(0.5, trainable=False, dtype="float32", name=name)
            for name in ("alpha", "gamma", "dropout")
        }
        self.model = logit_model(
            build_head_with(num_features, lambda name: _VariableDropout(self._settings, name), seed)
        )
        self.model.compile(
            optimizer=keras.optimizers.Adam(0.001),
            loss=unchecked_focal_loss(self._settings["alpha"], self._settings["gamma"]),
            metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._first = [
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in (*self.model.variables, *self.model.optimizer.variables)
        ]

    def begin(self, *, lr: float, alpha: float, gamma: float, dropout: float) -> keras.Model:
        """Puts the first weights and the given settings in place; returns the model.

        Args:
            lr: learning rate.
            alpha: focal weight of PNEUMONIA, 0 < alpha < 1.
            gamma: focal exponent, >= 0.
            dropout: dropped fraction, 0 <= dropout < 1.
        """
        for variable, value in self._first:
            variable.assign(value)
        self.model.optimizer.learning_rate = lr
        for name, value in (("alpha", alpha), ("gamma", gamma), ("dropout", dropout)):
            self._settings[name].assign(value)
        self.model.stop_training = False
        return self.model
