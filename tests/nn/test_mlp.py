import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.mlp import MLP


def reference(params: dict, x: np.ndarray, linear_end: bool) -> np.ndarray:
    for index in range(len(params)):
        layer = params[f"dense_{index}"]
        x = x @ layer["kernel"] + layer["bias"]
        if not (linear_end and index == len(params) - 1):
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize("linear_end", [False, True])
def test_agrees_with_numpy(linear_end: bool):
    rng = np.random.default_rng(0)
    shapes = {"dense_0": (5, 7), "dense_1": (7, 3)}
    params = {
        name: {
            "kernel": rng.standard_normal(shape).astype(np.float32),
            "bias": rng.standard_normal(shape[1]).astype(np.float32),
        }
        for name, shape in shapes.items()
    }
    x = rng.standard_normal((2, 4, 5)).astype(np.float32)
    y = MLP(widths=(7, 3), linear_end=linear_end).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(y, reference(params, x, linear_end), atol=1e-5)
    assert bool((y < 0).any()) == linear_end


def test_dropout_acts_in_training_only_and_never_after_a_linear_end():
    mlp, x = MLP(widths=(64,), dropout_rate=0.5), jnp.ones((8, 4))
    params = jax.tree.map(jnp.ones_like, mlp.init(jax.random.key(0), x))
    assert mlp.apply(params, x).tolist() == [[5.0] * 64] * 8
    dropped = mlp.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert set(np.unique(dropped)) == {0.0, 10.0}  # 5 / (1 - 0.5)
    straight = MLP(widths=(64,), dropout_rate=0.5, linear_end=True)
    assert straight.apply(params, x, train=True).tolist() == [[5.0] * 64] * 8


def test_computes_in_the_given_type_with_float32_parameters():
    mlp = MLP(widths=(3,), dtype=jnp.bfloat16)
    params = mlp.init(jax.random.key(0), jnp.ones((2, 4)))
    assert params["params"]["dense_0"]["kernel"].dtype == jnp.float32
    assert mlp.apply(params, jnp.ones((2, 4))).dtype == jnp.bfloat16


def test_without_an_activation_each_layer_learns_the_slope_of_negative_values():
    mlp, x = MLP(widths=(2, 1), activation=None), jnp.array([[-1.0]])
    slopes = {
        path: leaf.item()
        for path, leaf in jax.tree_util.tree_leaves_with_path(mlp.init(jax.random.key(0), x))
        if "negative_slope" in str(path)
    }
    assert list(slopes.values()) == [0.25, 0.25]
    params = {
        "dense_0": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.0, 1.0])},
        "prelu_0": {"negative_slope": jnp.array(0.5)},
        "dense_1": {"kernel": jnp.array([[4.0], [-1.0]]), "bias": jnp.array([0.0])},
        "prelu_1": {"negative_slope": jnp.array(0.1)},
    }
    # -1 and 3, after the first PReLU -0.5 and 3; -5, after the second one -0.5.
    np.testing.assert_allclose(mlp.apply({"params": params}, x), [[-0.5]], rtol=1e-6)


def test_another_activation_stands_in_the_place_of_relu():
    mlp, x = MLP(widths=(2,), activation=jnp.tanh), jnp.array([[-1.0]])
    params = {"params": {"dense_0": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.0, 1.0])}}}
    np.testing.assert_allclose(mlp.apply(params, x), [[np.tanh(-1), np.tanh(3)]], rtol=1e-6)
