"""The Keras engine, for GPUs."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras
from orchestrator.model.engine.base import (
    _KERAS_BATCH,
    _KERAS_POLICIES,
    Array,
    Engine,
    _check_precision,
)

# TensorFlow's switch is one for the process: models of an ensemble compute in turn, lest one turn
# it back while another computes.
_TF32_SWITCH = threading.Lock()


def keras_engine(
    model: "keras.Model",
    precision: str = "f32",
    batch_size: int | None = None,
    *,
    with_features: bool = False,
) -> Engine:
    """Wraps a Keras model that is in memory; it runs on Keras's backend.

    Args:
        model: images [None, S, S, 1] -> [None, D], e.g. of `build_backbone` or `logit_model`.
            For another precision than f32 its layers' policies are changed in place.
        precision: as `load_engine` takes it.
        batch_size: images a call of the network, >= 1; None for 32.
        with_features: whether the model gives pooled features after its logit, as
            `views.scoring_model` makes it.

    Returns:
        The engine.

    Raises:
        SpecError: unknown precision.
    """
    import keras

    checked = _check_precision(precision)
    batch_size = batch_size or _KERAS_BATCH
    if checked != "f32":
        set_policy(model, _KERAS_POLICIES[checked])
    # A model of its own over the same layers: one that has predicted before would go on with the
    # function it compiled then, in its old precision.
    model = keras.Model(model.input, model.output)
    if keras.backend.backend() == "tensorflow":
        # XLA is slow to compile, and on a CPU ten times slower than plain TensorFlow.
        model.jit_compile = False

    def run_batch(images: Array) -> Array:
        with _full_float32() if checked == "f32" else nullcontext():
            return np.asarray(model.predict_on_batch(images[..., np.newaxis]), np.float32)

    size_px, num_outputs = int(model.input_shape[1]), int(model.output_shape[-1])
    num_features = num_outputs - 1 if with_features else 0
    num_outputs -= num_features
    return Engine("keras", checked, size_px, batch_size, num_outputs, 1, run_batch, num_features)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Turns off TF32, by which a GPU multiplies float32 numbers with 10 bits of mantissa.

    With it a GPU's probabilities would differ from a CPU's in the third decimal.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        with importlib.import_module("jax").default_matmul_precision("highest"):
            yield
        return
    if backend != "tensorflow":
        yield
        return
    from tensorflow.config import experimental as switches

    with _TF32_SWITCH:
        was_on = switches.tensor_float_32_execution_enabled()
        switches.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            switches.enable_tensor_float_32_execution(was_on)


def set_policy(model: "keras.Model", policy: str) -> None:
    """Runs a model's layers by a policy of Keras, but for the first scaling and the logit.

    Args:
        model: changed in place; a function compiled for it before goes on as it was.
        policy: Keras's name, e.g. `mixed_bfloat16`.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            set_policy(layer, policy)
        elif layer.name not in ("image", "preprocess", "logit", "logit_features", "probability"):
            layer.dtype_policy = policy


def _limit_tensorflow_threads(num_threads: int | None) -> None:
    """Bounds TensorFlow's threads, where TensorFlow is the backend and has not started."""
    import keras

    if num_threads is None or keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(num_threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has started: the process keeps its threads
        return
