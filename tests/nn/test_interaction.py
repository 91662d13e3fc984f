import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.interaction import LowRankCrossNetwork, pairwise_dots, pairwise_sum


def test_agrees_with_numpy():
    rng = np.random.default_rng(0)
    ranks, D = (2, 3), 5
    params = {}
    for index, rank in enumerate(ranks):
        params[f"down_{index}"] = {"kernel": rng.standard_normal((D, rank)).astype(np.float32)}
        params[f"up_{index}"] = {
            "kernel": rng.standard_normal((rank, D)).astype(np.float32),
            "bias": rng.standard_normal(D).astype(np.float32),
        }
    x0 = rng.standard_normal((4, D)).astype(np.float32)
    x = x0
    for index in range(2):  # x_{i+1} = x_0 * (U (V x_i) + b) + x_i
        low = x @ params[f"down_{index}"]["kernel"]
        x = x0 * (low @ params[f"up_{index}"]["kernel"] + params[f"up_{index}"]["bias"]) + x
    y = LowRankCrossNetwork(ranks=ranks).apply({"params": params}, jnp.asarray(x0))
    np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5)


def test_down_projections_have_no_bias():
    params = LowRankCrossNetwork(ranks=(2,)).init(jax.random.key(0), jnp.ones((1, 5)))["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "down_0": {"kernel": (5, 2)},
        "up_0": {"kernel": (2, 5), "bias": (5,)},
    }


def test_pairs_by_hand():
    vectors = jnp.array([[[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]])
    dots = [3 * 1 - 1 * 2, 0.5 * 1 + 4 * 2, 0.5 * 3 - 4 * 1]  # (1, 0), (2, 0), (2, 1)
    assert pairwise_dots(vectors).tolist() == [dots]
    assert pairwise_sum(vectors).tolist() == [sum(dots)]
