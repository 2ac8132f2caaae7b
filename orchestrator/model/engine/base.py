"""The interface of the inference engines: uint8 grey images in, logits or features out.

Engines run batches of one fixed size, the last one padded, so that an image's result does not
depend on the images it shares a batch with.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpecError

EngineName = Literal["openvino", "keras"]


Precision = Literal["f32", "bf16", "f16", "int8"]


Array = npt.NDArray[Any]


_KERAS_BATCH = 32


# A CPU stream is fastest while what one layer hands to the next stays in its core's cache: with
# B5 at 456 px one by one, with Lite0 at 224 px four at a time, with B5 at 150 px from eight on.
# Powers of two, which divide a shard: a last batch that is padded costs as much as a full one.
_STREAM_PIXELS = 2**18


_STREAM_BATCH = 16  # at most


BACKBONE_FILE = "backbone.keras"  # its IR lies beside it, .xml and .bin


_KERAS_POLICIES: dict[Precision, str] = {
    "f32": "float32",
    "bf16": "mixed_bfloat16",
    "f16": "mixed_float16",
}


@dataclass(frozen=True)
class Engine:
    """A loaded model, ready to run.

    Attributes:
        name: `openvino` or `keras`.
        precision: of the arithmetic inside the network.
        size_px: height and width of the images it takes, px.
        batch_size: images a call of the network.
        num_outputs: numbers an image gives: 1 for a classifier's logit, D for a backbone.
        num_features: pooled features that follow each logit where they were asked for, or 0.
        num_streams: batches computed at a time.
        run_batch: uint8 [batch_size, size_px, size_px] -> float32 [batch_size, num_outputs +
            num_features], from as many threads at a time as there are streams.
    """

    name: EngineName
    precision: Precision
    size_px: int
    batch_size: int
    num_outputs: int
    num_streams: int
    run_batch: Callable[[Array], Array]
    num_features: int = 0
    _threads: ThreadPoolExecutor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_threads", ThreadPoolExecutor(self.num_streams))

    def logits(self, images: Array) -> Array:
        """Returns the logit of PNEUMONIA of each image, before any calibration.

        Args:
            images: uint8 [N, size_px, size_px], any N.

        Returns:
            float32 [N], in the order of the images.

        Raises:
            SpecError: the model is a backbone, or the images have another shape or dtype.
        """
        self.check_classifier()
        return self.predict(images)[:, 0]

    def check_classifier(self) -> None:
        """Raises `SpecError` where the model is a backbone, which gives no logit."""
        if self.num_outputs != 1:
            raise SpecError(
                f"this engine gives {self.num_outputs} features an image, not a logit; load the "
                "engine of a bundle"
            )

    def predict(self, images: Array) -> Array:
        """Returns the model's outputs: a backbone's pooled features, or a classifier's logit.

        Args:
            images: uint8 [N, size_px, size_px], any N.

        Returns:
            float32 [N, num_outputs + num_features], in the order of the images.

        Raises:
            SpecError: the images have another shape or dtype.
        """
        starts = range(0, len(images), self.batch_size)
        futures = [self.submit(images[start : start + self.batch_size]) for start in starts]
        outputs = np.empty((len(images), self.num_outputs + self.num_features), np.float32)
        for start, future in zip(starts, futures, strict=True):
            outputs[start : start + self.batch_size] = future.result()
        return outputs

    def submit(self, images: Array) -> Future[Array]:
        """Queues one batch and returns at once, so that the caller can prepare the next.

        Args:
            images: uint8 [N, size_px, size_px], N <= batch_size; not to be changed until done.

        Returns:
            The outputs to come, float32 [N, num_outputs + num_features].

        Raises:
            SpecError: the images have another shape or dtype.
        """
        expected = (self.size_px, self.size_px)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != expected:
            raise SpecError(
                f"the engine received {images.dtype} {list(images.shape)}; expected uint8 "
                f"[N, {self.size_px}, {self.size_px}]: decode the images at the model's size"
            )
        return self._threads.submit(self._run_padded, images)

    def _run_padded(self, images: Array) -> Array:
        count = len(images)
        batch = np.ascontiguousarray(images)
        if count < self.batch_size:
            padding = np.zeros((self.batch_size - count, *images.shape[1:]), np.uint8)
            batch = np.concatenate([batch, padding])
        return self.run_batch(batch)[:count]


def default_batch_size(engine: EngineName, size_px: int) -> int:
    """Returns the images a call of the network where none are asked for.

    Args:
        engine: `openvino` or `keras`.
        size_px: height and width of the images, px.
    """
    if engine == "keras":
        return _KERAS_BATCH
    most = min(max(_STREAM_PIXELS // size_px**2, 1), _STREAM_BATCH)
    return 1 << most.bit_length() - 1


def choose_engine(engine: str, precision: str = "f32", *, gpus: bool | None = None) -> EngineName:
    """Returns the engine that is meant, without importing Keras, which takes seconds.

    Args:
        engine: `openvino`, `keras`, or `auto`: Keras on GPUs, except in int8.
        precision: as `load_engine` takes it.
        gpus: whether there are GPUs; None for whether this process may use one.

    Raises:
        SpecError: an unknown engine, or int8 with Keras.
    """
    if engine == "keras" and precision == "int8":
        raise SpecError("Keras does not compute in int8; leave out --engine, or --precision int8")
    if engine == "openvino" or engine == "keras":
        return "openvino" if engine == "openvino" else "keras"
    if engine != "auto":
        raise SpecError(f"unknown engine {engine!r}; expected auto, openvino or keras")
    if gpus is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
        gpus = Path("/dev/nvidiactl").exists() and visible not in ("", "-1", "NoDevFiles")
    return "keras" if gpus and precision != "int8" else "openvino"


def _check_precision(precision: str) -> Precision:
    known: tuple[Precision, ...] = get_args(Precision)
    for name in known:
        if precision == name:
            return name
    raise SpecError(f"unknown precision {precision!r}; expected {', '.join(known)}")
