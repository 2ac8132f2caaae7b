import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from orchestrator.model import live
from orchestrator.model.augment import augment
from orchestrator.model.live import FeatureBatches, ImageBatches, KeptFeatures, made_ahead
from tests.model.worker_run import NUM_TRAIN, MemoryStore


def batches_of(rank: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    store = MemoryStore(32)
    rows = np.arange(NUM_TRAIN)
    made = ImageBatches(store, rows, store.labels[rows], 8, 3, "light", rank, size)
    return list(made.epoch(2))


def test_global_batches_do_not_depend_on_the_number_of_workers() -> None:
    whole = batches_of(0, 1)
    assert [len(labels) for _, labels in whole] == [8, 8, 8, 8, 8, 5]
    shares = [batches_of(rank, 3) for rank in range(3)]
    for index, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([s[index][0] for s in shares]), images)
        np.testing.assert_array_equal(np.concatenate([s[index][1] for s in shares]), labels)


def test_features_do_not_depend_on_the_number_of_workers() -> None:
    store, rows = MemoryStore(32), np.arange(NUM_TRAIN)

    def features_of(rank: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        made = ImageBatches(store, rows, store.labels[rows], 8, 3, "light", rank, size)
        return list(FeatureBatches(made, mean_of_images).epoch(2))

    whole, shares = features_of(0, 1), [features_of(rank, 3) for rank in range(3)]
    for index, (features, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([s[index][0] for s in shares]), features)
        np.testing.assert_array_equal(np.concatenate([s[index][1] for s in shares]), labels)


def test_every_row_once_an_epoch_in_an_order_of_its_own() -> None:
    store = MemoryStore(32)
    rows = np.arange(NUM_TRAIN)
    made = ImageBatches(store, rows, store.labels[rows], 8, 3, "none")
    epochs = [np.concatenate([images for images, _ in made.epoch(e)])[..., 0] for e in (0, 1)]
    for epoch in epochs:
        shown = sorted(image.tobytes() for image in epoch)
        assert shown == sorted(image.tobytes() for image in store.images[rows])
    assert not np.array_equal(*epochs)


def test_a_batch_is_augmented_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def augment_together(*given: Any, **named: Any) -> Any:
        together.wait(timeout=10)  # until another thread is here too
        return augment(*given, **named)

    monkeypatch.setattr(live, "count_cpus", lambda: 2)
    monkeypatch.setattr(live, "augment", augment_together)
    store = MemoryStore(32)
    rows = np.arange(32)
    made = ImageBatches(store, rows, store.labels[rows], 16, 3, "paper")
    order = np.random.default_rng([3, 1]).permutation(32)
    views = augment(store.images[order], order, 1, 3)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in made.epoch(1)])[..., 0], views)


def mean_of_images(images: np.ndarray) -> np.ndarray:
    assert images.dtype == np.uint8 and images.ndim == 3  # as an engine takes them
    return images.mean((1, 2), dtype=np.float32)[:, np.newaxis]


def test_features_of_batches_are_those_of_their_images() -> None:
    store = MemoryStore(32)
    rows = np.arange(NUM_TRAIN)
    images = ImageBatches(store, rows, store.labels[rows], 8, 3, "light")
    found = list(FeatureBatches(images, mean_of_images).epoch(2, first=1))
    for (features, labels), (batch, expected) in zip(found, images.epoch(2, 1), strict=True):
        np.testing.assert_array_equal(features, mean_of_images(batch[..., 0]))
        np.testing.assert_array_equal(labels, expected)


def test_features_to_measure_on_are_computed_once() -> None:
    images, computed = MemoryStore(32).images[:10, ..., np.newaxis], []

    def predict(some: np.ndarray) -> np.ndarray:
        computed.append(len(some))
        return mean_of_images(some)

    kept = KeptFeatures(images, predict)
    for _ in range(2):
        slices = [kept[start : start + 4] for start in range(0, len(kept), 4)]
        np.testing.assert_array_equal(np.concatenate(slices), mean_of_images(images[..., 0]))
    assert computed == [4, 4, 2]


def test_items_are_made_ahead_in_order_and_only_a_few() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    reader = made_ahead(items(), ahead=3)
    assert next(reader) == 0
    time.sleep(0.3)
    assert 3 <= len(made) <= 6
    assert list(reader) == list(range(1, 50))


def test_an_error_in_the_thread_reaches_the_reader() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    reader = made_ahead(items())
    assert next(reader) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(reader)


def test_a_reader_that_leaves_stops_the_thread() -> None:
    reader = made_ahead(iter(range(1000)), ahead=2)
    next(reader)
    reader.close()
    assert not [t for t in threading.enumerate() if t.name == "batches"]
