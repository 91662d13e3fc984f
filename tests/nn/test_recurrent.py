from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.recurrent import GATES, Recurrent, last_state

B, L, D, H = 3, 5, 4, 3
CELLS = tuple(GATES)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((B, L, D)).astype(np.float32)


@pytest.fixture(scope="module", params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def apply(cell: str) -> Any:
    return jax.jit(Recurrent(units=H, cell=cell).apply)


@pytest.fixture(scope="module")
def params(cell: str, x: np.ndarray) -> Any:
    shapes = jax.eval_shape(Recurrent(units=H, cell=cell).init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda shape: rng.standard_normal(shape.shape).astype(np.float32), shapes)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def states(cell: str, params: Any, x_LD: np.ndarray) -> np.ndarray:
    """Returns the [L, H] states of one sequence, one step and one gate at a time."""
    gate = [slice(i * H, (i + 1) * H) for i in range(GATES[cell])]
    W, b, U = params["input"]["kernel"], params["input"]["bias"], params["state_kernel"]
    h, c, seen = np.zeros(H), np.zeros(H), []
    for x in x_LD:
        if cell == "gru":
            reset, update = (sigmoid(x @ W[:, g] + b[g] + h @ U[:, g]) for g in gate[:2])
            g = gate[2]
            h = (1 - update) * np.tanh(x @ W[:, g] + b[g] + reset * (h @ U[:, g] + params["state_bias"])) + update * h
        else:
            i, f, n, o = (x @ W[:, g] + b[g] + h @ U[:, g] for g in gate)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(n)
            h = sigmoid(o) * np.tanh(c)
        seen.append(h)
    return np.stack(seen)


def test_states_agree_with_numpy(cell: str, apply: Any, params: Any, x: np.ndarray):
    expected = np.stack([states(cell, params, sequence) for sequence in x])
    np.testing.assert_allclose(apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_later_positions_never_reach_earlier_states(apply: Any, params: Any, x: np.ndarray):
    before = apply({"params": params}, x)
    for changed in range(1, L):
        other = x.copy()
        other[:, changed:] += 1
        after = apply({"params": params}, other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_each_gate_starts_with_an_orthogonal_matrix(cell: str, x: np.ndarray):
    kernel = jax.jit(Recurrent(units=H, cell=cell).init)(jax.random.key(0), x)["params"]["state_kernel"]
    assert kernel.shape == (H, GATES[cell] * H)
    for gate in np.split(np.asarray(kernel), GATES[cell], axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(H), atol=1e-5)


def test_bfloat16_states_are_near_the_float32_ones(cell: str, apply: Any, params: Any, x: np.ndarray):
    rounded = jax.jit(Recurrent(units=H, cell=cell, dtype=jnp.bfloat16).apply)({"params": params}, x)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), apply({"params": params}, x), atol=0.05)


def test_last_state_is_at_the_last_position_and_zero_before_the_first():
    states_BLH = jnp.arange(2 * 3 * 2, dtype=jnp.float32).reshape(2, 3, 2) + 1
    np.testing.assert_array_equal(last_state(states_BLH, jnp.array([2, 3])), [[3, 4], [11, 12]])
    np.testing.assert_array_equal(last_state(states_BLH, jnp.array([0, 1])), [[0, 0], [7, 8]])
