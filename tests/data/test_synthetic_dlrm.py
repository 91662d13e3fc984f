import tracemalloc

import numpy as np
import pytest

from recjax.data.batches import NumpyBatch
from recjax.data.hashing import unit_hash
from recjax.data.synthetic_dlrm import (
    BAG_LENGTHS,
    PAIRS_A_QUERY,
    TABLE_ROWS,
    DLRMv2Options,
    DLRMv3Options,
    SyntheticDLRMv2,
    dlrm_v3_batch,
    query_sizes,
)
from recjax.errors import UserError

SMALL = DLRMv2Options(table_scale=1e-3, n_train=500, n_valid=90, n_test=70, serving_rows=50)


@pytest.fixture(scope="module")
def small() -> SyntheticDLRMv2:
    return SyntheticDLRMv2(SMALL)


def assert_in_range(data: SyntheticDLRMv2, batch: NumpyBatch) -> None:
    sizes = np.repeat([field.vocab_size for field in data.schema.fields], BAG_LENGTHS)
    assert batch["sparse_ids"].min() >= 0
    assert (batch["sparse_ids"] < sizes).all()


def test_tables_and_bags_are_the_published_ones():
    assert len(TABLE_ROWS) == len(BAG_LENGTHS) == 26
    assert sum(BAG_LENGTHS) == 214
    assert TABLE_ROWS.count(40_000_000) == 5
    assert sum(TABLE_ROWS) == 204_184_588
    # 4 bytes each of 128 numbers: the "about 100 GB" of MLCommons' model.
    assert 95e9 < sum(TABLE_ROWS) * 128 * 4 < 110e9
    fields = SyntheticDLRMv2(DLRMv2Options()).schema.fields
    assert tuple(field.vocab_size for field in fields) == TABLE_ROWS
    assert tuple(field.length for field in fields) == BAG_LENGTHS
    assert {field.combiner for field in fields} == {"sum"}


def test_scaled_tables_are_rounded_up_and_never_below_two(small: SyntheticDLRMv2):
    sizes = [field.vocab_size for field in small.schema.fields]
    assert sizes[:6] == [40_000, 40, 18, 8, 21, 2]
    assert small.schema.n_dense == 13


def test_batches_have_the_shapes_of_the_schema(small: SyntheticDLRMv2):
    batches = list(small.eval_batches("valid", 32))
    assert [batch["weight"].sum() for batch in batches] == [32, 32, 26]
    for batch in batches:
        assert {name: (column.shape, column.dtype) for name, column in batch.items()} == {
            "dense": ((32, 13), np.float32),
            "sparse_ids": ((32, 214), np.int32),
            "labels": ((32,), np.float32),
            "weight": ((32,), np.float32),
        }
        assert_in_range(small, batch)
    assert not batches[-1]["sparse_ids"][26:].any()
    assert not batches[-1]["dense"][26:].any()
    assert len(list(small.train_batches(100, 0, 1))) == 5
    assert small.n_train == 500
    assert len(list(small.eval_batches("test", 35))) == 2


def test_full_size_ids_stay_in_range_and_fill_the_tables():
    data = SyntheticDLRMv2(DLRMv2Options())
    batch = data.batch("train", 0, 512)
    assert_in_range(data, batch)
    assert batch["sparse_ids"][:, :3].max() > 30_000_000


def test_a_batch_depends_on_seed_part_epoch_and_index_alone(small: SyntheticDLRMv2):
    first = small.batch("train", 3, 16, seed=1, epoch=2)
    again = SyntheticDLRMv2(SMALL).batch("train", 3, 16, seed=1, epoch=2)
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name], strict=True)
    others = [
        small.batch("valid", 3, 16, seed=1, epoch=2),
        small.batch("train", 2, 16, seed=1, epoch=2),
        small.batch("train", 3, 16, seed=0, epoch=2),
        small.batch("train", 3, 16, seed=1, epoch=0),
        SyntheticDLRMv2(DLRMv2Options(table_scale=1e-3, seed=7)).batch("train", 3, 16, seed=1, epoch=2),
    ]
    for other in others:
        assert not np.array_equal(other["dense"], first["dense"])
    streamed = list(small.train_batches(16, 1, 2))[3]
    np.testing.assert_array_equal(streamed["sparse_ids"], first["sparse_ids"])


def test_popular_ids_follow_the_power_law():
    data = SyntheticDLRMv2(DLRMv2Options(exponent=1.05))
    ids = np.concatenate([data.batch("train", index, 4_096)["sparse_ids"][:, 50:150].ravel() for index in range(3)])
    counts = np.sort(np.unique(ids, return_counts=True)[1])[::-1]
    # Column 62 to 161 is the field of 100 ids a bag; others are in 50 to 61. Its table has 40M rows.
    ranks = np.arange(20, 1_000)
    assert np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0] == pytest.approx(-1.05, abs=0.1)


def test_labels_can_be_learned_and_a_quarter_is_positive(small: SyntheticDLRMv2):
    batch = small.batch("train", 0, 8_192)
    assert 0.2 < batch["labels"].mean() < 0.3
    assert small.train_positive_share == pytest.approx(batch["labels"].mean(), abs=0.02)
    firsts = np.cumsum((0, *BAG_LENGTHS[:-1]))
    weights = sum(unit_hash(batch["sparse_ids"][:, at].astype(np.int64), i) for i, at in enumerate(firsts))
    dense = 0.3 * (batch["dense"][:, ::2].sum(1) - batch["dense"][:, 1::2].sum(1))
    positive = batch["labels"] == 1
    ranks = np.argsort(np.argsort(1.2 * weights + dense)) + 1
    n = positive.sum()
    auc = (ranks[positive].sum() - n * (n + 1) / 2) / (n * (8_192 - n))
    assert 0.75 < auc < 0.95


def test_memory_is_that_of_a_batch():
    data = SyntheticDLRMv2(DLRMv2Options(n_train=40_960))
    next(data.train_batches(16, 0, 0))
    tracemalloc.start()
    for batch in data.train_batches(4_096, 0, 0):
        size = sum(column.nbytes for column in batch.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size  # 3.7 MB a batch; the tables would be 52 GB and the epoch 37 MB


def test_serving_samples_are_bounded(small: SyntheticDLRMv2):
    samples = small.serving_samples()
    assert {name: column.shape for name, column in samples.items()} == {"dense": (50, 13), "sparse_ids": (50, 214)}
    assert small.selection_metric == "auc"


def test_queries_hold_the_published_numbers_of_pairs():
    assert np.mean(PAIRS_A_QUERY) == 270
    sizes = query_sizes(40_000, 0)
    assert sizes.mean() == pytest.approx(270, abs=3)
    assert (sizes == 200).mean() == pytest.approx(0.6, abs=0.02)
    assert set(np.unique(sizes)) == set(PAIRS_A_QUERY)
    np.testing.assert_array_equal(sizes, query_sizes(40_000, 0))
    assert not np.array_equal(sizes, query_sizes(40_000, 1))


def test_names_and_protocols_say_synthetic(small: SyntheticDLRMv2):
    assert small.name == "synthetic-dlrm-v2"
    assert small.protocol == "synthetic-dlrm-v2/scale=0.001/exponent=1.05/n=500/seed=0"
    assert DLRMv3Options().protocol == (
        "synthetic-dlrm-v3/users=5000000/items=1000000000/candidates=2048/periods=100x100/exponent=0/seed=0"
    )


V3 = DLRMv3Options(n_items=128_000, n_candidates=64, n_periods=20, items_a_period=50.0)


def test_requests_have_jagged_histories_and_equal_candidates():
    batch = dlrm_v3_batch(V3, 0, 8)
    n = len(batch["history"])
    assert {name: (column.shape, column.dtype) for name, column in batch.items()} == {
        "user": ((8,), np.int32),
        "lengths": ((8,), np.int32),
        "offsets": ((9,), np.int32),
        "history": ((n,), np.int32),
        "timestamps": ((n,), np.int64),
        "ratings": ((n,), np.float32),
        "candidates": ((8, 64), np.int32),
        "query_time": ((8,), np.int64),
        "labels": ((8, 64), np.float32),
    }
    assert len(set(batch["lengths"].tolist())) > 4
    np.testing.assert_array_equal(np.diff(batch["offsets"]), batch["lengths"])
    assert batch["offsets"][-1] == n
    for name in ("history", "candidates"):
        assert batch[name].min() >= 0
        assert batch[name].max() < 128_000
    assert 1 <= batch["ratings"].min() <= batch["ratings"].max() <= 5


def test_histories_are_in_time_order_before_the_query():
    batch = dlrm_v3_batch(V3, 0, 8)
    for row, (first, stop) in enumerate(zip(batch["offsets"], batch["offsets"][1:], strict=False)):
        times = batch["timestamps"][first:stop]
        assert (np.diff(times) >= 0).all()
        assert times[-1] < batch["query_time"][row]


def test_full_size_requests_have_mlcommons_statistics():
    batch = dlrm_v3_batch(DLRMv3Options(), 0, 32)
    assert batch["candidates"].shape == (32, 2_048)
    # A first period and 0.7 of the 90 to 99 periods before the request, of 100 items each.
    assert batch["lengths"].mean() == pytest.approx(100 * (1 + 0.7 * 94.5), rel=0.04)
    assert batch["lengths"].std() > 300
    assert batch["candidates"].max() > 900_000_000
    categories = batch["candidates"] // (1_000_000_000 // 128)
    assert {len(np.unique(row)) for row in categories} <= {1, 2, 3, 4}
    assert 0.3 < batch["labels"].mean() < 0.7
    history_categories = batch["history"][: batch["lengths"][0]] // (1_000_000_000 // 128)
    assert set(history_categories) <= set(categories[0]) | set(np.unique(history_categories))
    assert len(set(history_categories) | set(categories[0])) <= 4


def test_new_items_appear_with_every_period():
    batch = dlrm_v3_batch(V3, 0, 32)
    within = batch["history"] % 1_000
    period = batch["timestamps"] // 86_400
    assert within[period <= 1].max() < 50  # a twentieth of a category's thousand items
    assert within[period == period.max()].max() > 700


def test_the_newest_items_are_kept():
    whole = dlrm_v3_batch(V3, 0, 8)
    held = dlrm_v3_batch(
        DLRMv3Options(n_items=128_000, n_candidates=64, n_periods=20, items_a_period=50.0, max_history=99), 0, 8
    )
    assert held["lengths"].tolist() == [99] * 8
    ends = whole["offsets"][1:] - 1
    assert (held["timestamps"][held["offsets"][1:] - 1] // 86_400 == whole["timestamps"][ends] // 86_400).all()


def test_requests_depend_on_seed_and_index_alone():
    first, again, other = (dlrm_v3_batch(V3, index, 4) for index in (5, 5, 6))
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name], strict=True)
    assert not np.array_equal(first["candidates"], other["candidates"])


def test_item_popularity_can_follow_a_power_law():
    skewed = DLRMv3Options(n_items=128_000, n_candidates=2_000, n_periods=1, exponent=1.2)
    within = dlrm_v3_batch(skewed, 0, 64)["candidates"].ravel() % 1_000
    counts = np.bincount(within, minlength=1_000)
    ranks = np.arange(5, 300)
    assert np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0] == pytest.approx(-1.2, abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DLRMv2Options(table_scale=0.0), "DLRMv2Options.table_scale is 0.0; allowed: (0, 1]"),
        (lambda: DLRMv2Options(exponent=-1.0), "DLRMv2Options.exponent is -1.0; allowed: >= 0"),
        (lambda: DLRMv2Options(n_test=0), "DLRMv2Options.n_test is 0; allowed: >= 1"),
        (lambda: DLRMv3Options(n_items=1 << 31), f"DLRMv3Options.n_items is {1 << 31}; allowed: 12800 to 2147483647"),
        (lambda: DLRMv3Options(n_items=100), "DLRMv3Options.n_items is 100; allowed: 12800 to 2147483647"),
        (
            lambda: DLRMv3Options(categories_a_user=129),
            "DLRMv3Options.categories_a_user is 129; allowed: 1 to n_categories, 128",
        ),
        (lambda: DLRMv3Options(period_share=0.0), "DLRMv3Options.period_share is 0.0; allowed: (0, 1]"),
        (lambda: DLRMv3Options(max_history=0), "DLRMv3Options.max_history is 0; allowed: >= 1"),
    ],
)
def test_options_out_of_range(make, message: str):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message
