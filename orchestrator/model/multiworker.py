"""The training step of one or several TensorFlow workers. The only TensorFlow-specific file.

Each worker computes the gradient of its slice of the global batch; the sums over all workers are
applied by every worker to variables of its own. `MultiWorkerMirroredStrategy` is used for its
process group and its sums alone: variables stay ordinary ones, so callbacks, checkpoints and the
seeds of dropout work as on one device, and nothing is broadcast when a model is built. All workers
start from equal weights and apply equal sums, so their weights stay equal, bit for bit.

Where the number of workers may change, a global batch is cut into shares whose gradients are
computed one by one, by whichever worker, and summed in float64. Rounding then leaves no trace of
who computed what: the weights do not depend on how many workers there were.

`Model.fit` does not run under this strategy (keras issue 20585). The loop is in `fit.py`.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from orchestrator.cluster.worker_context import Leave, never
from orchestrator.errors import ClusterError
from orchestrator.model.dropout_masks import DropoutMasks
from orchestrator.model.slices import batch_counts, worker_shares, worker_slice
from orchestrator.model.steps import Array, EpochPart, ModelInputs

# A worker that waits this long for another one gives up, and the run starts again.
_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Group:
    """The workers of a run, as one of them sees it.

    Args:
        rank: this worker's number, from 0.
        size: number of workers.
        strategy: sums tensors over the workers; None where there is one worker.
    """

    rank: int = 0
    size: int = 1
    strategy: Any = None

    def sum(self, tensors: list[Any]) -> list[Any]:
        """Returns the sums of equally shaped tensors over all workers; every worker must call."""
        if self.strategy is None:
            return tensors

        def reduce() -> Any:
            context = tf.distribute.get_replica_context()
            options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=_TIMEOUT_S)
            # Copies made here have a device; the strategy refuses tensors without one.
            copies = [tf.identity(tensor) for tensor in tensors]
            return context.all_reduce(tf.distribute.ReduceOp.SUM, copies, options=options)

        reduced: list[Any] = self.strategy.run(reduce)
        return reduced


def join_group(num_threads: int) -> Group:
    """Joins the workers that `TF_CONFIG` names; call it before any other use of TensorFlow.

    Args:
        num_threads: CPU threads this worker may compute with, >= 1.

    Returns:
        The group; of one worker, and without a strategy, where `TF_CONFIG` names one or is unset.

    Raises:
        ClusterError: the worker has more than one GPU.
    """
    described = json.loads(os.environ.get("TF_CONFIG", "{}"))
    size = len(described.get("cluster", {}).get("worker", [None]))
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    # At least two: a sum over the workers blocks one while it waits for the others.
    tf.config.threading.set_inter_op_parallelism_threads(max(2, num_threads))
    gpus = tf.config.list_physical_devices("GPU")
    if size > 1 and len(gpus) > 1:
        raise ClusterError(
            f"a worker has {len(gpus)} GPUs; expected at most one: give --gpus-per-worker 1 and "
            "more --workers"
        )
    if size == 1:
        return Group()
    rank = int(described["task"]["index"])
    return Group(rank, size, tf.distribute.MultiWorkerMirroredStrategy())


class DistributedStep:
    """Trains with global batches whose rows are shared out among the workers.

    The loss of a global batch is the mean over its rows, whatever their number: padded rows weigh
    nothing. Each worker draws the dropout of the global batch and takes its rows of it. So N
    workers take the steps of one, and the last short batch is weighted exactly.

    Args:
        group: the workers.
        model: compiled, with equal weights on every worker.
        batch_size: rows of a global batch.
        num_examples: rows of an epoch over all workers.
        seed: of the masks of dropout.
        num_shares: into which each batch is cut; 0: one a worker, summed in float32.
        leaving: whether this worker has been told that the group is to leave.
    """

    def __init__(
        self,
        group: Group,
        model: keras.Model,
        batch_size: int,
        num_examples: int,
        seed: int = 0,
        num_shares: int = 0,
        leaving: Callable[[], bool] = never,
    ) -> None:
        self.told = False
        self._leaving = leaving
        self._group = group
        self._model = model
        self._shares = worker_shares(group.rank, group.size, num_shares)
        self._num_shares = num_shares or group.size
        self._train_step = self._train_shares if num_shares else self._train_whole
        self._rows = -(-batch_size // self._num_shares)
        self._counts = batch_counts(num_examples, batch_size)
        self._losses = model.loss.call  # one value a row
        self._start = tf.Variable(0)  # of the rows in work in the global batch
        if self._num_shares > 1:
            for layer in model.layers:
                if type(layer) is keras.layers.Dropout:
                    layer.call = _share_of(layer, batch_size, self._rows, self._start)
        self._masks = DropoutMasks(model, seed, group.rank)
        # Without XLA: on a CPU it makes convolutions ten times slower.
        self._train = tf.function(self._train_batch, reduce_retracing=True)
        self._share = tf.function(self._sums_of_share, reduce_retracing=True)
        self._add = tf.function(lambda ours, more: [a + b for a, b in zip(ours, more, strict=True)])
        self._apply = tf.function(self._apply_sums, reduce_retracing=True)
        self._predict = tf.function(self._predict_batch, reduce_retracing=True)
        self._sum = tf.function(group.sum)

    def train_epoch(
        self, batches: Iterator[tuple[Array, Array]], part: EpochPart | None = None
    ) -> dict[str, float]:
        """Trains on this worker's rows of every global batch; see `Step.train_epoch`.

        The workers agree on the step after which they leave: each adds to the sums whether it was
        told to.

        Args:
            batches: one item a global batch, the same number on every worker: inputs [n, ...] and
                labels float32 [n, 1], where n may be 0.
            part: what is done of the epoch; kept up.
        """
        part = part or EpochPart()
        if not part.steps:  # the seeds of an epoch that has begun came with its checkpoint
            self._masks.reseed()
        sums: list[Any] = []
        for count, (inputs, labels) in zip(self._counts[part.steps :], batches, strict=True):
            # Sums stay tensors until the epoch ends: reading one waits for the device.
            sums.append(self._train_step(inputs, labels, count, np.float32(self._leaving())))
            # That of the step before: this one's is not known before the device has done it.
            if len(sums) > 1 and float(sums[-2][2]):
                break
        loss, correct, told = np.sum([[float(x) for x in step] for step in sums], axis=0)
        part.steps += len(sums)
        part.loss += float(loss)
        part.correct += float(correct)
        self.told = bool(told)
        if part.steps < len(self._counts):
            raise Leave
        total = sum(self._counts)
        return {"loss": part.loss / total, "accuracy": part.correct / total}

    def predict(self, inputs: ModelInputs) -> Array:
        """Returns logits, float64 [n], equal on every worker; each computes a slice."""
        logits = np.zeros(len(inputs), np.float32)
        mine = worker_slice(len(inputs), self._group.rank, self._group.size)
        for start in range(mine.start, mine.stop, self._rows):
            batch = inputs[start : min(start + self._rows, mine.stop)]
            found = self._predict(self._padded(batch)).numpy()
            logits[start : start + len(batch)] = found[: len(batch), 0]
        # The others' places hold zeros, so the sum puts the slices together exactly.
        return np.asarray(self._sum([tf.constant(logits)])[0], np.float64)

    def _train_whole(self, inputs: Array, labels: Array, count: int, told: Any) -> Any:
        """One step of a worker with one share; see `_train_batch`."""
        return self._train(*self._placed(inputs, labels, count, self._group.rank), told)

    def _train_shares(self, inputs: Array, labels: Array, count: int, told: Any) -> Any:
        """One step, share by share; see `_train_batch`."""
        first = worker_slice(count, self._shares.start, self._num_shares).start
        seeds, sums = self._masks.seeds, None
        for share in self._shares:
            rows = worker_slice(count, share, self._num_shares)
            if sums is not None and rows.start == rows.stop:
                continue  # it adds nothing
            self._masks.seeds = seeds  # every share takes its rows of the same masks
            mine = slice(rows.start - first, rows.stop - first)
            found = self._share(*self._placed(inputs[mine], labels[mine], count, share))
            sums = found if sums is None else self._add(sums, found)
        return self._apply(sums, told)

    def _placed(self, inputs: Array, labels: Array, count: int, share: int) -> tuple[Any, ...]:
        """Returns what a step takes of the rows of a share, whose place in the batch it notes."""
        weights = np.zeros(self._rows, np.float32)
        weights[: len(inputs)] = 1.0
        self._start.assign(worker_slice(count, share, self._num_shares).start)
        return self._padded(inputs), self._padded(labels), weights, np.float32(1.0 / count)

    def _sums_of_share(self, *placed: Any) -> list[Any]:
        """Returns the sums of one share, float64; see `_sums`."""
        return [tf.cast(tensor, tf.float64) for tensor in self._sums(*placed)]

    def _apply_sums(self, sums: Any, told: Any) -> tuple[Any, Any, Any]:
        """Applies what all workers have summed; returns as `_train_batch`."""
        *summed, told = self._group.sum([*sums, tf.cast(told, tf.float64)])
        *gradients, loss, correct = (tf.cast(tensor, tf.float32) for tensor in summed)
        self._model.optimizer.apply(gradients, self._model.trainable_variables)
        return loss, correct, told

    def _train_batch(
        self, inputs: Any, labels: Any, weights: Any, scale: Any, told: Any
    ) -> tuple[Any, Any, Any]:
        """One step; returns the sums over the global batch of loss and of right answers, and how
        many workers were told to leave.
        """
        sums = self._sums(inputs, labels, weights, scale)
        *gradients, loss, correct, told = self._group.sum([*sums, told])
        self._model.optimizer.apply(gradients, self._model.trainable_variables)
        return loss, correct, told

    def _sums(self, inputs: Any, labels: Any, weights: Any, scale: Any) -> list[Any]:
        """Returns the gradients of some rows, the sum of their losses and their right answers."""
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self._model(inputs, training=True)
            loss = tf.reduce_sum(self._losses(labels, logits) * weights)
            scaled = loss * scale
        right = tf.cast((logits[:, 0] > 0.0) == (labels[:, 0] >= 0.5), tf.float32)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        return [*gradients, loss, tf.reduce_sum(right * weights)]

    def _predict_batch(self, inputs: Any) -> Any:
        return self._model(inputs, training=False)

    def _padded(self, rows: Array) -> Array:
        """Fills a short batch up to the one shape that the compiled step has."""
        missing = self._rows - len(rows)
        return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows


def _share_of(
    layer: keras.layers.Dropout, batch_size: int, rows: int, start: tf.Variable
) -> Callable[..., Any]:
    """Returns the call of a dropout layer that takes this worker's rows of a global batch's mask.

    Args:
        layer: the layer; keeps its own seed and rate.
        batch_size: rows of a global batch.
        rows: rows of the inputs.
        start: int32 scalar, where the inputs begin in the global batch.
    """
    drop = keras.layers.Dropout.call

    def call(inputs: Any, training: bool = False) -> Any:
        if not training or layer.rate == 0:
            return inputs
        sides = [*inputs.shape[1:]]
        if layer.noise_shape is not None:
            sides = [
                1 if noise == 1 else side
                for noise, side in zip(layer.noise_shape[1:], sides, strict=True)
            ]
        whole = drop(layer, tf.ones([batch_size, *sides], inputs.dtype), training=True)
        padded = tf.concat([whole, tf.zeros([rows, *sides], inputs.dtype)], axis=0)
        return inputs * padded[start : start + rows]

    return call
