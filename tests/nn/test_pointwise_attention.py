from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.pointwise_attention import MAX_DOUBLINGS, PointwiseAttentionBlock, time_buckets

B, L, D, H, K, V, N = 2, 5, 6, 2, 3, 4, 7


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((B, L, D)).astype(np.float32)


@pytest.fixture(scope="module")
def buckets() -> np.ndarray:
    return np.random.default_rng(1).integers(N, size=(B, L, L)).astype(np.int32)


@pytest.fixture(scope="module")
def block() -> PointwiseAttentionBlock:
    return PointwiseAttentionBlock(heads=H, key_dim=K, value_dim=V, n_buckets=N, dropout_rate=0.5)


@pytest.fixture(scope="module")
def apply(block: PointwiseAttentionBlock) -> Any:
    return jax.jit(block.apply)


@pytest.fixture(scope="module")
def params(block: PointwiseAttentionBlock, x: np.ndarray, buckets: np.ndarray) -> Any:
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, buckets)["params"]
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda shape: rng.standard_normal(shape.shape).astype(np.float32), shapes)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def reference(params: Any, x: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Returns the layer's output, one position, head and earlier item at a time."""
    normed = norm(x) * params["norm_input"]["scale"] + params["norm_input"]["bias"]
    gate, value, query, key = np.split(
        silu(normed @ params["uvqk"]["kernel"]), [H * V, 2 * H * V, H * (2 * V + K)], axis=-1
    )
    attended = np.zeros((B, L, H * V))
    for b, i, h in np.ndindex(B, L, H):
        of_keys, of_values = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
        for j in range(i + 1):
            bias = params["distance_bias"]["table"][i - j, 0] + params["time_bias"]["table"][buckets[b, i, j], 0]
            weight = silu(query[b, i, of_keys] @ key[b, j, of_keys] + bias) / L
            attended[b, i, of_values] += weight * value[b, j, of_values]
    return x + (norm(attended) * gate) @ params["out"]["kernel"] + params["out"]["bias"]


def test_block_agrees_with_numpy(apply: Any, params: Any, x: np.ndarray, buckets: np.ndarray):
    expected = reference(params, x, buckets)
    actual = apply({"params": params}, x, buckets)
    # Random weights of deviation 1 make large outputs: float32 sums there are good to 1e-5 of the largest.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_absent_heads_count_as_zeros_in_the_norm(params: Any, x: np.ndarray, buckets: np.ndarray):
    uvqk = params["uvqk"]["kernel"].copy()
    gate, value, query, key = np.split(uvqk, [H * V, 2 * H * V, H * (2 * V + K)], axis=1)  # views
    value[:, V:] = 0
    emptied = params | {
        "uvqk": {"kernel": uvqk},
        "out": params["out"] | {"kernel": params["out"]["kernel"] * (np.arange(H * V) < V)[:, None]},
    }
    kept = params | {
        "uvqk": {"kernel": np.concatenate([gate[:, :V], value[:, :V], query[:, :K], key[:, :K]], axis=1)},
        "out": params["out"] | {"kernel": params["out"]["kernel"][:V]},
    }
    one = PointwiseAttentionBlock(heads=1, key_dim=K, value_dim=V, n_buckets=N, normed_heads=H)
    expected = reference(emptied, x, buckets)
    actual = jax.jit(one.apply)({"params": kept}, x, buckets)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_later_positions_never_reach_earlier_ones(apply: Any, params: Any, x: np.ndarray, buckets: np.ndarray):
    before = apply({"params": params}, x, buckets)
    for changed in range(1, L):
        other, other_buckets = x.copy(), buckets.copy()
        other[:, changed:] += 1
        other_buckets[:, :, changed:] = (buckets[:, :, changed:] + 1) % N
        other_buckets[:, changed:] = (buckets[:, changed:] + 1) % N
        after = apply({"params": params}, other, other_buckets)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_dropout_acts_in_training_only(
    block: PointwiseAttentionBlock, apply: Any, params: Any, x: np.ndarray, buckets: np.ndarray
):
    key = jax.random.key(0, impl="unsafe_rbg")
    train = jax.jit(lambda p, *inputs: block.apply({"params": p}, *inputs, train=True, rngs={"dropout": key}))
    assert (train(params, x, buckets) != apply({"params": params}, x, buckets)).any()


@pytest.mark.parametrize(
    ("elapsed", "per_doubling", "bucket"),
    [
        (0, 1, 0),
        (1, 1, 1),
        (2, 1, 1),
        (3, 1, 2),
        (7, 1, 3),
        (86_400, 1, 16),  # 2**16 < 86,401 < 2**17
        (3 * 2**29, 1, 30),
        (1, 3, 3),
        (4, 3, 6),  # floor(3 log2 5) = floor(6.97)
        (-5, 2, 0),
    ],
)
def test_time_buckets_are_powers_of_two_of_the_seconds_between(elapsed: int, per_doubling: int, bucket: int):
    start = 0 if elapsed > 2**30 else 1_000_000_000  # or the sum would not be an int32
    query, key = jnp.full((1, 1), start + elapsed, jnp.int32), jnp.full((1, 1), start, jnp.int32)
    assert time_buckets(query, key, per_doubling).tolist() == [[[bucket]]]
    assert bucket < MAX_DOUBLINGS * per_doubling


def test_time_buckets_put_queries_before_items():
    query, key = jnp.array([[10, 20]], jnp.int32), jnp.array([[9, 13]], jnp.int32)
    assert time_buckets(query, key, 1).tolist() == [[[1, 0], [3, 3]]]
