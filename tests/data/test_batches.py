import threading
from collections.abc import Iterator

import numpy as np
import pytest

from recjax.data.batches import NumpyBatch, prefetch_to_device, row_chunks, shuffled_rows, take_batch
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData

COLUMNS = {"id": np.arange(5, dtype=np.int32), "pair": np.arange(10, dtype=np.float32).reshape(5, 2)}


def test_take_batch_pads_with_rows_of_zero_weight():
    batch = take_batch(COLUMNS, np.array([3, 1]), 4)
    np.testing.assert_array_equal(batch["id"], np.array([3, 1, 0, 0], np.int32), strict=True)
    expected = np.array([[6, 7], [2, 3], [0, 0], [0, 0]], np.float32)
    np.testing.assert_array_equal(batch["pair"], expected, strict=True)
    np.testing.assert_array_equal(batch["weight"], np.array([1, 1, 0, 0], np.float32), strict=True)


def test_take_batch_pads_nothing_when_full():
    assert take_batch(COLUMNS, np.array([0, 4]), 2)["weight"].tolist() == [1, 1]


def test_row_chunks_are_consecutive_and_whole():
    assert [chunk.tolist() for chunk in row_chunks(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(row_chunks(np.arange(0), 3)) == []


def test_shuffled_rows_depend_on_seed_and_epoch_alone():
    first = shuffled_rows(50, seed=1, epoch=2)
    np.random.default_rng(9).random(7)  # other draws in between change nothing
    assert shuffled_rows(50, seed=1, epoch=2).tolist() == first.tolist()
    assert sorted(first.tolist()) == list(range(50))
    others = [shuffled_rows(50, 1, 3), shuffled_rows(50, 2, 2), shuffled_rows(50, 2, 1)]
    assert all(other.tolist() != first.tolist() for other in others)


def numbered(n: int) -> Iterator[NumpyBatch]:
    for number in range(n):
        yield {"x": np.array([number])}


def test_prefetch_keeps_order_and_values():
    assert [batch["x"].item() for batch in prefetch_to_device(numbered(20))] == list(range(20))
    assert list(prefetch_to_device(numbered(0))) == []


def test_prefetch_raises_the_makers_error_after_the_batches_before_it():
    def failing() -> Iterator[NumpyBatch]:
        yield from numbered(3)
        raise OSError("disk gone")

    seen = []

    def consume() -> None:
        for batch in prefetch_to_device(failing()):
            seen.append(batch["x"].item())

    with pytest.raises(OSError, match="disk gone"):
        consume()
    assert seen == [0, 1, 2]


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_stops_its_thread_when_the_loop_is_left():
    made = []

    def endless() -> Iterator[NumpyBatch]:
        number = 0
        while True:
            made.append(number)
            yield {"x": np.array([number])}
            number += 1

    batches = prefetch_to_device(endless(), depth=2)
    assert next(batches)["x"].item() == 0
    assert len(prefetch_threads()) == 1
    batches.close()  # what leaving a for loop does to its generator
    assert prefetch_threads() == []
    assert len(made) <= 1 + 2 + 2  # the one consumed, `depth` ready, one waiting and one being made


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_every_training_batch_has_one_shape_and_every_row_comes_once(
    next_item: NextItemData, labelled: LabelledData, batch_size: int
):
    for data in (next_item, labelled):
        batches = list(data.train_batches(batch_size, seed=0, epoch=1))
        assert len({str([(k, v.shape, v.dtype) for k, v in sorted(b.items())]) for b in batches}) == 1
        assert all(len(batch["weight"]) == batch_size for batch in batches)
        assert sum(batch["weight"].sum() for batch in batches) == data.n_train
        labels = np.concatenate([batch["labels"][batch["weight"] > 0] for batch in batches])
        columns = data.windows if isinstance(data, NextItemData) else data.parts["train"]
        assert sorted(labels.tolist()) == sorted(columns["labels"].tolist())


def test_training_batches_depend_on_seed_and_epoch_alone(labelled: LabelledData):
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch["sparse_ids"].tolist() for batch in labelled.train_batches(16, seed, epoch)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
