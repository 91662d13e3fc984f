from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, check_padding_rows
from random_variables import random_variables

from recjax.data.batches import PADDING_ID
from recjax.data.features import Field, LabelledSchema
from recjax.models.dlrm_dcnv2 import DLRMDCNv2, DLRMDCNv2Config

B, N, D = 5, 3, 4
FIELDS = (Field("user", 6), Field("tags", 5, length=3), Field("sizes", 4, length=2, combiner="sum"), Field("item", 7))
CONFIG = DLRMDCNv2Config(
    embedding_dim=D,
    bottom_mlp=(6, 5),
    cross_ranks=(2, 3),
    top_mlp=(8, 7),
    dropout_rate=0.3,
    embedding_dropout_rate=0.2,
)
P = PADDING_ID


@pytest.fixture(scope="module")
def model() -> DLRMDCNv2:
    return CONFIG.build(LabelledSchema(n_dense=N, fields=FIELDS))


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = [
        [0, 1, 4, P, 3, P, 6],
        [5, 2, 2, 2, 0, 1, 0],
        [3, P, P, P, P, P, 1],
        [1, 0, P, P, 2, 2, 5],
        [2, 3, 1, 0, 1, P, 2],
    ]
    return {
        "dense": rng.standard_normal((B, N)).astype(np.float32),
        "sparse_ids": np.array(ids, np.int32),
        "labels": np.array([1, 0, 0, 1, 1], np.float32),
        "weight": np.ones(B, np.float32),
    }


@pytest.fixture(scope="module")
def variables(model: DLRMDCNv2, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: DLRMDCNv2) -> Any:
    return jax.jit(model.apply)


def logits(variables: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the logits in plain NumPy, bag by bag."""
    params = jax.tree.map(np.asarray, variables["params"])

    def dense(layer: Any, x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer.get("bias", 0)

    x = batch["dense"]
    for index in range(3):
        x = np.maximum(dense(params["bottom_mlp"][f"dense_{index}"], x), 0)
    features, start = [x], 0
    for field in FIELDS:
        rows = np.zeros((B, D), np.float32)
        for row, bag in enumerate(batch["sparse_ids"][:, start : start + field.length]):
            used = params[f"table_{field.name}"]["table"][bag[bag != PADDING_ID]]
            if len(used):
                rows[row] = used.sum(0) if field.combiner == "sum" else used.mean(0)
        features.append(rows)
        start += field.length
    x0 = x = np.concatenate(features, 1)
    for index in range(2):
        low = dense(params["cross"][f"down_{index}"], x)
        x = x0 * dense(params["cross"][f"up_{index}"], low) + x
    for index in range(2):
        x = np.maximum(dense(params["top_mlp"][f"dense_{index}"], x), 0)
    return dense(params["logit"], x)[:, 0]


def test_logits_agree_with_numpy(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    actual = score(variables, batch)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, logits(variables, batch), rtol=1e-5, atol=1e-5)


def test_loss_is_the_logloss_of_rows_that_count(model: DLRMDCNv2, variables: Any, batch: dict[str, np.ndarray]):
    weight = np.array([1, 1, 0, 1, 0], np.float32)
    p = 1 / (1 + np.exp(-logits(variables, batch).astype(np.float64)))
    expected = -(np.log(p[0]) + np.log(1 - p[1]) + np.log(p[3])) / 3
    loss = jax.jit(lambda v, b: model.apply(v, b, train=False, method="loss"))
    assert loss(variables, batch | {"weight": weight}) == pytest.approx(expected, rel=1e-5)


def test_serve_returns_probabilities(model: DLRMDCNv2, variables: Any, batch: dict[str, np.ndarray]):
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, batch)
    assert sorted(answer) == ["probability"]
    np.testing.assert_allclose(answer["probability"], 1 / (1 + np.exp(-logits(variables, batch))), rtol=1e-5)


def test_order_within_a_bag_and_place_of_its_padding_mean_nothing(
    score: Any, variables: Any, batch: dict[str, np.ndarray]
):
    ids = batch["sparse_ids"].copy()
    ids[:, 1:4] = ids[:, [3, 1, 2]]
    ids[:, 4:6] = ids[:, [5, 4]]
    shuffled = score(variables, batch | {"sparse_ids": ids})
    np.testing.assert_allclose(shuffled, score(variables, batch), rtol=1e-5, atol=1e-6)


def test_padding_rows_change_neither_loss_nor_gradient(model: DLRMDCNv2, variables: Any, batch: dict[str, np.ndarray]):
    check_padding_rows(model, variables, batch)


def test_rows_of_a_batch_do_not_see_each_other(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    order = np.array([4, 2, 0, 3, 1])
    permuted = score(variables, {name: column[order] for name, column in batch.items()})
    np.testing.assert_allclose(permuted, score(variables, batch)[order], rtol=1e-5, atol=1e-6)


def test_one_program_a_shape(model: DLRMDCNv2, variables: Any, batch: dict[str, np.ndarray]):
    check_one_program_a_shape(model, variables, batch)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    for layer in CONFIG.hidden_units():
        for path, axis in layer.slices:
            leaf = variables["params"]
            for key in path.split("/"):
                leaf = leaf[key]
            assert leaf.shape[axis] == getattr(CONFIG, layer.field)[layer.index]
    names = [layer.name for layer in CONFIG.hidden_units()]
    assert names == [f"{field}[{i}]" for field in ("bottom_mlp", "cross_ranks", "top_mlp") for i in (0, 1)]


def test_zeroing_all_slices_of_a_unit_equals_removing_it(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    for layer in CONFIG.hidden_units():
        smaller, params = {}, jax.tree.map(np.array, variables["params"])
        removed = {}
        for path, axis in layer.slices:
            node = params
            *parents, name = path.split("/")
            for key in parents:
                node = node[key]
            index = [slice(None)] * node[name].ndim
            index[axis] = slice(0, 1)
            node[name][tuple(index)] = 0
            removed[path] = np.delete(node[name], 0, axis)
        zeroed = score({"params": jax.tree.map(jnp.asarray, params)}, batch)
        for path in removed:
            node = params
            *parents, name = path.split("/")
            for key in parents:
                node = node[key]
            node[name] = removed[path]
        smaller = {"params": params}
        np.testing.assert_allclose(zeroed, logits(smaller, batch), rtol=1e-5, atol=1e-5)
