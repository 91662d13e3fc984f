from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_hidden_units, check_one_program_a_shape
from random_variables import random_variables

from recjax.data.next_item import NextItemSchema
from recjax.models.sasrec import SASRec, SASRecConfig

B, L, D, H, V = 4, 6, 8, 2, 11
CONFIG = SASRecConfig(embedding_dim=D, heads=H, mlp_dims=(12, 5), dropout_rate=0.3, loss_chunk=5)
LENGTHS = np.array([6, 3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def model() -> SASRec:
    return CONFIG.build(NextItemSchema(n_items=V, max_history=L))


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    used = np.arange(L) < LENGTHS[:, None]
    history = np.where(used, np.stack([rng.permutation(V)[:L] for _ in range(B)]), 0).astype(np.int32)
    labels = np.where(used, rng.integers(V, size=(B, L)), 0).astype(np.int32)
    return {"history": history, "labels": labels, "lengths": LENGTHS, "weight": np.ones(B, np.float32)}


@pytest.fixture(scope="module")
def variables(model: SASRec, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: SASRec) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def serve(model: SASRec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, top_k=5, method="serve"))


@pytest.fixture(scope="module")
def loss_of(model: SASRec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def hidden_states(params: Any, history: np.ndarray) -> np.ndarray:
    """Returns the [L, D] hidden states of one history, in plain NumPy."""
    params = jax.tree.map(np.asarray, params)

    def dense(layer: Any, x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer: Any, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    x = params["items"]["table"][history] * np.sqrt(D) + params["positions"]["table"][: len(history)]
    for index in range(len(CONFIG.mlp_dims)):
        block = params[f"block_{index}"]
        normed = norm(block["norm_attention"], x)
        query, key, value = (dense(block["attention"][name], normed) for name in ("query", "key", "value"))
        heads = []
        for columns in np.split(np.arange(D), H):
            logits = query[:, columns] @ key[:, columns].T / np.sqrt(D / H)
            logits[np.triu_indices(len(history), 1)] = -np.inf
            weights = np.exp(logits - logits.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, columns])
        x = x + dense(block["attention"]["out"], np.concatenate(heads, 1))
        mlp = block["mlp"]
        x = x + dense(mlp["dense_1"], np.maximum(dense(mlp["dense_0"], norm(block["norm_mlp"], x)), 0))
    return norm(params["norm"], x)


def test_scores_agree_with_numpy(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    table = np.asarray(variables["params"]["items"]["table"])
    expected = [
        hidden_states(variables["params"], history[:length])[-1] @ table.T  # no padding at all
        for history, length in zip(batch["history"], LENGTHS, strict=True)
    ]
    scores = score(variables, batch)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    table = np.asarray(variables["params"]["items"]["table"])
    losses = []
    for history, labels, length in zip(batch["history"], batch["labels"], LENGTHS, strict=True):
        logits = hidden_states(variables["params"], history[:length]) @ table.T
        chosen = logits[np.arange(length), labels[:length]]
        losses.append(np.log(np.exp(logits).sum(1)) - chosen)
    assert loss_of(variables, batch) == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)


def test_later_items_never_change_earlier_positions(model: SASRec, variables: Any):
    encode = jax.jit(lambda variables, history: model.apply(variables, history, method="encode"))
    history = np.random.default_rng(2).integers(V, size=(B, L)).astype(np.int32)
    before = encode(variables, history)
    for changed in range(1, L):
        other = history.copy()
        other[:, changed:] = (other[:, changed:] + 1) % V
        after = encode(variables, other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_what_stands_in_the_padding_means_nothing(
    model: SASRec, score: Any, serve: Any, variables: Any, batch: dict[str, np.ndarray]
):
    used = np.arange(L) < LENGTHS[:, None]
    junk = np.random.default_rng(3).integers(1, V, size=(B, L)).astype(np.int32)
    other = batch | {
        "history": np.where(used, batch["history"], junk),
        "labels": np.where(used, batch["labels"], junk),
    }
    np.testing.assert_array_equal(score(variables, other), score(variables, batch))
    for name, values in serve(variables, batch).items():
        np.testing.assert_array_equal(serve(variables, other)[name], values)
    loss = jax.jit(lambda v, b: jax.value_and_grad(lambda v: model.apply(v, b, train=False, method="loss"))(v))
    value, gradient = loss(variables, batch)
    other_value, other_gradient = loss(variables, other)
    assert other_value == value
    # The junk rows' gradients are zeros, but they are added at other places of a scatter: sums may round otherwise.
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_rows_of_a_batch_do_not_see_each_other(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    order = np.array([2, 0, 3, 1])
    permuted = score(variables, {name: column[order] for name, column in batch.items()})
    np.testing.assert_allclose(permuted, score(variables, batch)[order], rtol=1e-5, atol=1e-6)


def test_a_padding_row_adds_nothing_to_the_loss(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    padded = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
    assert loss_of(variables, padded) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_serve_returns_the_best_unseen_items_in_order(
    score: Any, serve: Any, variables: Any, batch: dict[str, np.ndarray]
):
    scores, answer = np.asarray(score(variables, batch)), serve(variables, batch)
    assert answer["items"].shape == answer["scores"].shape == (B, 5)
    assert answer["items"].dtype == jnp.int32
    for row in range(B):
        seen = set(batch["history"][row, : LENGTHS[row]].tolist())
        unseen = [item for item in np.argsort(-scores[row], kind="stable").tolist() if item not in seen]
        assert answer["items"][row].tolist() == unseen[:5]
        np.testing.assert_allclose(answer["scores"][row], scores[row, unseen[:5]], rtol=1e-6)


def test_dropout_changes_the_training_loss_by_its_key(model: SASRec, variables: Any, batch: dict[str, np.ndarray]):
    loss = jax.jit(lambda v, b, key: model.apply(v, b, train=True, method="loss", rngs={"dropout": key}))
    first = loss(variables, batch, jax.random.key(0, impl="unsafe_rbg"))
    assert loss(variables, batch, jax.random.key(0, impl="unsafe_rbg")) == first
    assert loss(variables, batch, jax.random.key(1, impl="unsafe_rbg")) != first


def test_one_program_a_shape(model: SASRec, variables: Any, batch: dict[str, np.ndarray]):
    check_one_program_a_shape(model, variables, batch)


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)
    assert [layer.name for layer in CONFIG.hidden_units()] == ["mlp_dims[0]", "mlp_dims[1]"]
