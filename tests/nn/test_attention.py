from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.attention import SelfAttention, TransformerBlock

B, L, D, H = 2, 5, 8, 2
CAUSAL = np.tril(np.ones((1, L, L), bool))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((B, L, D)).astype(np.float32)


@pytest.fixture(scope="module")
def block_params(x: np.ndarray) -> Any:
    shapes = jax.eval_shape(TransformerBlock(heads=H, mlp_dim=12).init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda shape: rng.standard_normal(shape.shape).astype(np.float32), shapes)


def attention(params: Any, x: np.ndarray, mask: np.ndarray = CAUSAL) -> np.ndarray:
    """Returns attention to what the [B or 1, L or 1, L] mask allows, one position and head at a time."""

    def dense(name: str, values: np.ndarray) -> np.ndarray:
        return values @ params[name]["kernel"] + params[name]["bias"]

    query, key, value = (dense(name, x).reshape(B, L, H, -1) for name in ("query", "key", "value"))
    K = query.shape[-1]
    attended = np.zeros((B, L, H, K), np.float32)
    for b, position, head in np.ndindex(B, L, H):
        past = np.broadcast_to(mask, (B, L, L))[b, position]
        logits = key[b, past, head] @ query[b, position, head] / np.sqrt(K)
        weights = np.exp(logits - logits.max())
        attended[b, position, head] = weights / weights.sum() @ value[b, past, head]
    return dense("out", attended.reshape(B, L, H * K))


def norm(params: Any, x: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / deviation * params["scale"] + params["bias"]


def test_attention_agrees_with_numpy(block_params: Any, x: np.ndarray):
    y = jax.jit(SelfAttention(heads=H).apply)({"params": block_params["attention"]}, x)
    np.testing.assert_allclose(y, attention(block_params["attention"], x), rtol=1e-5, atol=1e-5)


def test_heads_may_be_of_any_width(x: np.ndarray):
    module = SelfAttention(heads=H, head_dim=3)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert shapes["query"]["kernel"].shape == (D, H * 3)
    assert shapes["out"]["kernel"].shape == (H * 3, D)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda shape: rng.standard_normal(shape.shape).astype(np.float32), shapes)
    y = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(y, attention(params, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(B, L, L), (1, L, L), (B, 1, L), (1, 1, L)])
def test_attention_sees_what_the_mask_allows(block_params: Any, x: np.ndarray, shape: tuple[int, ...]):
    mask = np.random.default_rng(3).random(shape) < 0.5
    mask[..., 1] = True  # every position sees something
    y = jax.jit(SelfAttention(heads=H).apply)({"params": block_params["attention"]}, x, mask)
    np.testing.assert_allclose(y, attention(block_params["attention"], x, mask), rtol=1e-5, atol=1e-5)


def test_a_causal_mask_is_what_no_mask_means(block_params: Any, x: np.ndarray):
    block = jax.jit(TransformerBlock(heads=H, mlp_dim=12).apply)
    np.testing.assert_array_equal(block({"params": block_params}, x, CAUSAL), block({"params": block_params}, x))


def test_a_masked_position_never_reaches_the_others(block_params: Any, x: np.ndarray):
    block, mask = jax.jit(TransformerBlock(heads=H, mlp_dim=12).apply), np.arange(L)[None, None] != 2
    other = x.copy()
    other[:, 2] += 1
    before, after = (np.delete(block({"params": block_params}, values, mask), 2, 1) for values in (x, other))
    np.testing.assert_array_equal(after, before)


def test_block_agrees_with_numpy(block_params: Any, x: np.ndarray):
    y = x + attention(block_params["attention"], norm(block_params["norm_attention"], x))
    mlp = block_params["mlp"]
    hidden = np.maximum(norm(block_params["norm_mlp"], y) @ mlp["dense_0"]["kernel"] + mlp["dense_0"]["bias"], 0)
    expected = y + hidden @ mlp["dense_1"]["kernel"] + mlp["dense_1"]["bias"]
    actual = jax.jit(TransformerBlock(heads=H, mlp_dim=12).apply)({"params": block_params}, x)
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
    plain, dropping = (TransformerBlock(heads=H, mlp_dim=12, dropout_rate=rate) for rate in (0.0, 0.5))
    variables, key = {"params": block_params}, jax.random.key(0, impl="unsafe_rbg")
    expected = jax.jit(plain.apply)(variables, x)
    np.testing.assert_array_equal(jax.jit(dropping.apply)(variables, x), expected)
    dropped = jax.jit(lambda v, x: dropping.apply(v, x, train=True, rngs={"dropout": key}))(variables, x)
    assert (dropped != expected).any()
