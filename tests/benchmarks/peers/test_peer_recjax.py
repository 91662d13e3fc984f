"""recjax's own part: what is drawn, and that it answers as a plain computation says."""

import numpy as np
import pytest

from benchmarks.peers.draw import draw_requests, draw_weights
from benchmarks.peers.recjax_served import prepare
from benchmarks.peers.workloads import BagSizes, DLRMSizes, SASRecSizes, Sizes, Task, take_rows

DLRM = DLRMSizes(tables=2, rows=9, dim=4, n_dense=3, bottom_mlp=(5,), cross_ranks=(3, 2), top_mlp=(6,))
SASREC = SASRecSizes(items=30, history=6, dim=8, heads=2, mlp_dims=(5, 7), top_k=4)
BAGS = BagSizes(tables=3, rows=9, dim=4, bag_length=2)


def task_of(sizes: Sizes) -> Task:
    return Task(sizes, draw_weights(sizes), draw_requests(sizes, 20), threads=1)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def dense(task: Task, path: str, x: np.ndarray) -> np.ndarray:
    return x @ task.weights[f"{path}/kernel"] + task.weights.get(f"{path}/bias", 0)


def norm(task: Task, path: str, x: np.ndarray) -> np.ndarray:
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normed * task.weights[f"{path}/scale"] + task.weights[f"{path}/bias"]


def test_the_dlrm_is_the_formula() -> None:
    task, rows = task_of(DLRM), np.array([4, 0, 4, 11])
    batch = take_rows(task.columns, rows)
    bottom = relu(dense(task, "bottom_mlp/dense_1", relu(dense(task, "bottom_mlp/dense_0", batch["dense"]))))
    tables = [task.weights[f"table_c0{index}/table"][batch["sparse_ids"][:, index]] for index in range(2)]
    x0 = x = np.concatenate([bottom, *tables], 1)
    for index in range(2):
        x = x0 * dense(task, f"cross/up_{index}", dense(task, f"cross/down_{index}", x)) + x
    logit = dense(task, "logit", relu(dense(task, "top_mlp/dense_0", x)))[:, 0]
    np.testing.assert_allclose(prepare(task)(4)(rows)["probability"], 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_sasrec_is_the_formula_and_leaves_out_what_was_seen() -> None:
    task, rows = task_of(SASREC), np.arange(5)
    batch = take_rows(task.columns, rows)
    answers = prepare(task)(5)(rows)
    for number, (history, length) in enumerate(zip(batch["history"], batch["lengths"], strict=True)):
        x = task.weights["items/table"][history[:length]] * 8**0.5 + task.weights["positions/table"][:length]
        for block in ("block_0", "block_1"):
            normed = norm(task, f"{block}/norm_attention", x)
            query, key, value = (
                dense(task, f"{block}/attention/{name}", normed).reshape(length, 2, 4)
                for name in ("query", "key", "value")
            )
            attended = np.zeros_like(query)
            for position in range(length):
                logits = np.einsum("hk,mhk->hm", query[position], key[: position + 1]) / 2
                weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                attended[position] = np.einsum("hm,mhk->hk", weights, value[: position + 1])
            x = x + dense(task, f"{block}/attention/out", attended.reshape(length, 8))
            hidden = relu(dense(task, f"{block}/mlp/dense_0", norm(task, f"{block}/norm_mlp", x)))
            x = x + dense(task, f"{block}/mlp/dense_1", hidden)
        scores = task.weights["items/table"] @ norm(task, "norm", x)[-1]
        scores[history[:length]] = -np.inf
        best = np.argsort(-scores)[:4]
        np.testing.assert_array_equal(answers["items"][number], best)
        np.testing.assert_allclose(answers["scores"][number], scores[best], atol=1e-5)


def test_bags_are_sums() -> None:
    task, rows = task_of(BAGS), np.array([3, 3, 1])
    ids = task.columns["sparse_ids"][rows].reshape(3, 3, 2)
    expected = np.concatenate([task.weights[f"table_c0{t}/table"][ids[:, t]].sum(1) for t in range(3)], 1)
    np.testing.assert_allclose(prepare(task)(3)(rows)["bags"], expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [DLRM, SASREC, BAGS])
def test_weights_hide_no_mistake_and_are_the_same_every_time(sizes: Sizes) -> None:
    weights = draw_weights(sizes)
    for path, values in weights.items():
        assert values.dtype == np.float32
        assert len(np.unique(values)) > 0.98 * values.size, f"{path} has equal values"
    again = draw_weights(sizes)
    assert all(np.array_equal(values, again[path]) for path, values in weights.items())


def test_requests_are_within_their_bounds() -> None:
    requests = draw_requests(SASREC, 500)
    lengths, history = requests["lengths"], requests["history"]
    assert set(lengths) == set(range(1, 7))
    assert history.min() >= 0
    assert history.max() == 29
    assert not history[np.arange(6)[None] >= lengths[:, None]].any()
    ids = draw_requests(BAGS, 500)["sparse_ids"]
    assert ids.shape == (500, 6)
    assert set(ids.ravel()) == set(range(9))
    assert {name: (column.shape, column.dtype.name) for name, column in draw_requests(DLRM, 7).items()} == {
        "dense": ((7, 3), "float32"),
        "sparse_ids": ((7, 2), "int32"),
    }
