"""Live training: batches of stored images, augmented again each epoch, made ahead of the step.

The training loop is in `fit.py`; what several workers do together in `multiworker.py`.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from orchestrator.cluster.worker_context import never
from orchestrator.config.workers import count_cpus
from orchestrator.data.store import ImageStore
from orchestrator.errors import SpecError
from orchestrator.model.augment import augment
from orchestrator.model.slices import batch_counts, worker_slice

if TYPE_CHECKING:
    import keras

    from orchestrator.model.fit import Batches
    from orchestrator.model.steps import Array, ModelInputs, Step

ItemT = TypeVar("ItemT")
_BATCHES_AHEAD = 4
_PIECE = 8  # images that a thread augments at a time
_DONE = object()


@dataclass(frozen=True)
class ImageBatches:
    """One worker's rows of every global batch.

    The global batches are a function of (seed, epoch), and a view of an image is one of
    (seed, row, epoch): neither depends on the number of workers.

    Args:
        store: the images.
        rows: int64 [N], manifest rows to train on.
        labels: int8 [N].
        batch_size: rows of a global batch.
        seed: of order and views.
        augmentation: a key of `augment.RECIPES`, or `none`.
        rank: this worker's number.
        num_workers: how many share each batch.
        num_shares: into which it is cut; 0: one a worker.
    """

    store: ImageStore
    rows: "Array"
    labels: "Array"
    batch_size: int
    seed: int
    augmentation: str
    rank: int = 0
    num_workers: int = 1
    num_shares: int = 0

    def epoch(self, epoch: int, first: int = 0) -> "Iterator[tuple[Array, Array]]":
        """Yields inputs uint8 [n, S, S, 1] and labels float32 [n, 1]; n may be 0."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return made_ahead(self._batches(order[first * self.batch_size :], epoch))

    def _batches(self, order: "Array", epoch: int) -> "Iterator[tuple[Array, Array]]":
        start = 0
        with ThreadPoolExecutor(count_cpus()) as pool:
            for count in batch_counts(len(order), self.batch_size):
                mine = worker_slice(count, self.rank, self.num_workers, self.num_shares)
                chosen = order[start : start + count][mine]
                images = self.store.take(self.rows[chosen])
                if self.augmentation != "none" and len(images):
                    images = self._augment(images, self.rows[chosen], epoch, pool)
                yield images[..., np.newaxis], self.labels[chosen, np.newaxis].astype(np.float32)
                start += count

    def _augment(
        self, images: "Array", rows: "Array", epoch: int, pool: ThreadPoolExecutor
    ) -> "Array":
        """Augments a batch on all cores: a GPU takes images faster than one core makes views."""

        def augment_piece(start: int) -> "Array":
            piece = slice(start, start + _PIECE)
            return augment(images[piece], rows[piece], epoch, self.seed, recipe=self.augmentation)

        return np.concatenate([*pool.map(augment_piece, range(0, len(images), _PIECE))])


@dataclass(frozen=True)
class FeatureBatches:
    """Pooled features of a worker's batches of images, computed while the step before runs.

    Args:
        images: the batches, images uint8 [n, S, S, 1].
        predict: gives features float32 [n, D] of images uint8 [n, S, S].
    """

    images: "Batches"
    predict: "Callable[[Array], Array]"

    def epoch(self, epoch: int, first: int = 0) -> "Iterator[tuple[Array, Array]]":
        """Yields features float32 [n, D] and labels float32 [n, 1]; n may be 0."""
        batches = self.images.epoch(epoch, first)
        return made_ahead((self.predict(images[..., 0]), labels) for images, labels in batches)


class KeptFeatures:
    """Pooled features of images that a model is measured on each epoch, computed once.

    Args:
        images: gives slices uint8 [n, S, S, 1].
        predict: as `FeatureBatches` takes it.
    """

    def __init__(self, images: "ModelInputs", predict: "Callable[[Array], Array]") -> None:
        self._images, self._predict = images, predict
        self._kept: dict[tuple[int, int], Array] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice, /) -> "Array":
        """Returns float32 [n, D]."""
        key = rows.start, rows.stop
        if key not in self._kept:
            self._kept[key] = self._predict(self._images[rows][..., 0])
        return self._kept[key]


def made_ahead(items: Iterator[ItemT], ahead: int = _BATCHES_AHEAD) -> Iterator[ItemT]:
    """Yields the items of an iterator that runs in a thread, a few items ahead of the reader.

    Args:
        items: read in the thread alone; what it raises is raised here.
        ahead: items made before they are asked for, >= 1.
    """
    made: queue.Queue[Any] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            if all(put(item) for item in items):
                put(_DONE)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not _DONE:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def open_steps(
    num_workers: int, num_threads: int, num_shares: int = 0, leaving: Callable[[], bool] = never
) -> "Callable[[keras.Model, int, int, int], Step]":
    """Prepares this process to train, and returns how to make the step of a model.

    Call it before anything else uses the backend.

    Args:
        num_workers: workers of the run.
        num_threads: CPU threads this worker may compute with.
        num_shares: into which each batch is cut; 0: one a worker.
        leaving: whether this worker has been told that the group is to leave.

    Returns:
        A function of (compiled model, rows of a global batch, rows of an epoch, seed).

    Raises:
        SpecError: several workers under another backend than TensorFlow.
    """
    import keras

    from orchestrator.model.steps import KerasStep

    backend = keras.backend.backend()
    if backend == "tensorflow":
        from orchestrator.model.multiworker import DistributedStep, join_group

        group = join_group(num_threads)
        return lambda model, batch_size, num_examples, seed: DistributedStep(
            group, model, batch_size, num_examples, seed, num_shares, leaving
        )
    if num_workers > 1:
        raise SpecError(
            f"{num_workers} workers cannot train under the {backend} backend; set "
            "KERAS_BACKEND=tensorflow, or give --workers 1"
        )
    return lambda model, batch_size, num_examples, seed: KerasStep(model, batch_size, seed, leaving)
