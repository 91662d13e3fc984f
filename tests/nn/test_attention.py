from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.attention import CausalSelfAttention, TransformerBlock

B, L, D, H = 2, 5, 8, 2


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((B, L, D)).astype(np.float32)


@pytest.fixture(scope="module")
def block_params(x: np.ndarray) -> Any:
    params = TransformerBlock(heads=H, mlp_dim=12).init(jax.random.key(0), jnp.asarray(x))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params)


def attention(params: Any, x: np.ndarray) -> np.ndarray:
    """Returns causal attention, one position and head at a time."""

    def dense(name: str, values: np.ndarray) -> np.ndarray:
        return values @ params[name]["kernel"] + params[name]["bias"]

    query, key, value = (dense(name, x).reshape(B, L, H, D // H) for name in ("query", "key", "value"))
    attended = np.zeros((B, L, H, D // H), np.float32)
    for b, position, head in np.ndindex(B, L, H):
        past = slice(0, position + 1)
        logits = key[b, past, head] @ query[b, position, head] / np.sqrt(D // H)
        weights = np.exp(logits - logits.max())
        attended[b, position, head] = weights / weights.sum() @ value[b, past, head]
    return dense("out", attended.reshape(B, L, D))


def norm(params: Any, x: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / deviation * params["scale"] + params["bias"]


def test_attention_agrees_with_numpy(block_params: Any, x: np.ndarray):
    y = CausalSelfAttention(heads=H).apply({"params": block_params["attention"]}, jnp.asarray(x))
    np.testing.assert_allclose(y, attention(block_params["attention"], x), rtol=1e-5, atol=1e-5)


def test_block_agrees_with_numpy(block_params: Any, x: np.ndarray):
    y = x + attention(block_params["attention"], norm(block_params["norm_attention"], x))
    mlp = block_params["mlp"]
    hidden = np.maximum(norm(block_params["norm_mlp"], y) @ mlp["dense_0"]["kernel"] + mlp["dense_0"]["bias"], 0)
    expected = y + hidden @ mlp["dense_1"]["kernel"] + mlp["dense_1"]["bias"]
    actual = TransformerBlock(heads=H, mlp_dim=12).apply({"params": block_params}, jnp.asarray(x))
    # Random weights of deviation 1 make outputs of up to 60: float32 sums there are good to 1e-5 of that.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_later_positions_never_reach_earlier_ones(block_params: Any, x: np.ndarray, dtype: Any):
    block = jax.jit(TransformerBlock(heads=H, mlp_dim=12, dtype=dtype).apply)
    before = block({"params": block_params}, x)
    for changed in range(1, L):
        other = x.copy()
        other[:, changed:] = 100 * np.random.default_rng(changed).standard_normal((B, L - changed, D))
        after = block({"params": block_params}, other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_dropout_acts_in_training_only(block_params: Any, x: np.ndarray):
    plain = TransformerBlock(heads=H, mlp_dim=12)
    dropping = TransformerBlock(heads=H, mlp_dim=12, dropout_rate=0.5)
    variables = {"params": block_params}
    expected = plain.apply(variables, jnp.asarray(x))
    np.testing.assert_array_equal(dropping.apply(variables, jnp.asarray(x)), expected)
    dropped = dropping.apply(variables, jnp.asarray(x), train=True, rngs={"dropout": jax.random.key(0)})
    assert (dropped != expected).any()
