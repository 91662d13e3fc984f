import dataclasses

import numpy as np
import pytest

from recjax.data.candidates import FULL_HISTORY, CandidatesSchema, SyntheticDLRMv3, scaled_dlrm_v3
from recjax.data.synthetic_dlrm import DLRMv3Options, dlrm_v3_batch

OPTIONS = DLRMv3Options(
    n_users=50,
    n_items=12_800,
    n_candidates=40,
    items_a_period=0.3,
    shortest_period=1,
    max_history=70,
    seed=5,
)


@pytest.fixture(scope="module")
def data() -> SyntheticDLRMv3:
    return SyntheticDLRMv3(
        options=OPTIONS, n_train=70, n_valid=30, n_test=9, training_candidates=6, serving_requests=11
    )


def test_batches_are_padded_and_have_the_columns_that_models_read(data: SyntheticDLRMv3):
    batches = list(data.train_batches(32, 0, 1))
    assert [batch["weight"].sum() for batch in batches] == [32, 32, 6]
    for batch in batches:
        assert {name: (column.shape, str(column.dtype)) for name, column in batch.items()} == {
            "user": ((32,), "int32"),
            "history": ((32, 70), "int32"),
            "actions": ((32, 70), "int32"),
            "times": ((32, 70), "int32"),
            "lengths": ((32,), "int32"),
            "query_time": ((32,), "int32"),
            "candidates": ((32, 6), "int32"),
            "labels": ((32, 6), "float32"),
            "weight": ((32,), "float32"),
        }
        used = np.arange(70) < batch["lengths"][:, None]
        real = batch["weight"] > 0
        for name in ("history", "actions", "times"):
            assert not batch[name][~used].any()
        assert set(np.unique(batch["actions"][used])) <= {1, 2, 3, 4, 5}
        assert not any(column[~real].any() for column in batch.values())
        ascending = np.diff(np.where(used, batch["times"], batch["times"].max(1)[:, None])) >= 0
        assert ascending.all()
        assert (batch["times"].max(1)[real] < batch["query_time"][real]).all()


def test_a_padded_history_is_the_jagged_one(data: SyntheticDLRMv3):
    options = dataclasses.replace(OPTIONS, n_candidates=6)
    jagged = dlrm_v3_batch(options, 2, 8, stream=(1, 4, 1))
    batch = data.batch("train", 2, 8, seed=1, epoch=4)
    assert len(set(batch["lengths"].tolist())) > 2
    for row, (start, end) in enumerate(zip(jagged["offsets"], jagged["offsets"][1:], strict=False)):
        n = end - start
        np.testing.assert_array_equal(batch["history"][row, :n], jagged["history"][start:end])
        np.testing.assert_array_equal(batch["times"][row, :n], jagged["timestamps"][start:end])
        np.testing.assert_array_equal(batch["actions"][row, :n], np.floor(jagged["ratings"][start:end]))
    np.testing.assert_array_equal(batch["candidates"], jagged["candidates"])


def test_a_batch_depends_on_seed_part_epoch_and_index_alone(data: SyntheticDLRMv3):
    first = data.batch("valid", 1, 8, seed=1, epoch=2)
    again = dataclasses.replace(data, n_train=1).batch("valid", 1, 8, seed=1, epoch=2)
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name], strict=True)
    others = [
        data.batch("train", 1, 8, seed=1, epoch=2),
        data.batch("valid", 0, 8, seed=1, epoch=2),
        data.batch("valid", 1, 8, seed=0, epoch=2),
        data.batch("valid", 1, 8, seed=1, epoch=0),
        dataclasses.replace(data, options=dataclasses.replace(OPTIONS, seed=6)).batch("valid", 1, 8, seed=1, epoch=2),
    ]
    for other in others:
        assert not np.array_equal(other["candidates"], first["candidates"])
    streamed = list(data.train_batches(8, 3, 2))[4]
    np.testing.assert_array_equal(streamed["history"], data.batch("train", 4, 8, seed=3, epoch=2)["history"])


def test_requests_have_all_candidates_and_no_labels(data: SyntheticDLRMv3):
    (test,) = data.eval_batches("test", 16)
    assert test["candidates"].shape == (16, 40)
    assert test["weight"].sum() == 9
    requests = data.serving_samples()
    assert requests["candidates"].shape == (11, 40)
    assert "labels" not in requests
    assert "weight" not in requests
    assert [batch["candidates"].shape for batch in data.eval_batches("valid", 16)] == [(16, 6), (16, 6)]


def test_the_schema_and_the_words_of_the_data(data: SyntheticDLRMv3):
    assert data.schema == CandidatesSchema(
        n_users=50, n_items=12_800, n_categories=128, max_history=70, max_candidates=40
    )
    assert data.schema.items_a_category == 100
    assert data.protocol == (
        "synthetic-dlrm-v3/users=50/items=12800/candidates=40/periods=100x0.3/exponent=0/seed=5/newest=70/n=70x6"
    )
    assert (data.name, data.selection_metric, data.n_train, dict(data.context)) == ("synthetic-dlrm-v3", "auc", 70, {})
    assert 0.3 < data.train_positive_share < 0.7


@pytest.mark.parametrize("max_history", [FULL_HISTORY, 256])
def test_histories_are_as_uneven_at_any_length(max_history: int):
    """MLCommons' law: a first period, and 0.7 of the 90 to 99 before the request, each of items_a_period items."""
    data = scaled_dlrm_v3(1e-4, max_history, 0)
    lengths = data.batch("test", 0, 256)["lengths"]
    a_period = 100 * max_history / FULL_HISTORY
    assert data.options.items_a_period == a_period
    assert lengths.mean() == pytest.approx(a_period * (1 + 0.7 * 94.5), rel=0.02)
    assert 0.05 < lengths.std() / lengths.mean() < 0.09
    assert (lengths == max_history).mean() < 0.02
    assert (data.schema.n_users, data.schema.n_items, data.schema.max_candidates) == (500, 100_000, 2_048)


def test_full_length_is_mlcommons_law():
    assert scaled_dlrm_v3(1.0, FULL_HISTORY, 0).options == DLRMv3Options(max_history=FULL_HISTORY)
