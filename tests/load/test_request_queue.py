import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.load.request_queue import RequestQueue, batch_size_of


def test_a_query_may_be_spread_over_batches() -> None:
    queue = RequestQueue()
    queue.add([2, 3], np.array([10, 11, 20, 21, 22], np.int32).tobytes())
    taken = [queue.take(n) for n in (1, 2, 2)]
    assert [rows.tolist() for rows, _ in taken] == [[10], [11, 20], [21, 22]]
    assert [completed for _, completed in taken] == [0, 1, 1]
    assert queue.waiting == 0


@given(st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=8), max_size=12), st.data())
def test_every_sample_leaves_once_in_order_and_every_query_is_completed_with_its_last(
    groups: list[list[int]], data: st.DataObject
) -> None:
    queue, given_rows, taken_rows, completed, ends = RequestQueue(), 0, list[int](), 0, list[int]()
    for sizes in groups:
        n = sum(sizes)
        queue.add(sizes, np.arange(given_rows, given_rows + n, dtype=np.int32).tobytes())
        ends += (given_rows + np.cumsum(sizes)).tolist()
        given_rows += n
        rows, finished = queue.take(data.draw(st.integers(0, queue.waiting)))
        taken_rows += rows.tolist()
        completed += finished
        assert completed == sum(end <= len(taken_rows) for end in ends)
        assert queue.waiting == given_rows - len(taken_rows)
    rows, finished = queue.take(queue.waiting)
    assert taken_rows + rows.tolist() == list(range(given_rows))
    assert completed + finished == len(ends)


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        (1, 1),
        (8, 8),
        (9, 8),  # 8 and 1 more in a batch of 8, rather than 9 in one of 32
        (16, 16),  # half of 32: one batch
        (15, 8),  # two of 8 hold them, and 32 would be more than half empty
        (17, 17),  # too many for two batches of 8
        (32, 32),
        (100, 32),
    ],
)
def test_full_small_batches_beat_a_large_one_that_is_mostly_padding(waiting: int, taken: int) -> None:
    assert batch_size_of(waiting, (1, 8, 32)) == taken
