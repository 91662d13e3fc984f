import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recjax import beyond_accuracy
from recjax.losses import (
    chunked_softmax_cross_entropy,
    exposure_gap,
    masked_mean,
    multinomial_cross_entropy,
    sigmoid_cross_entropy,
)

N, D, V = 10, 4, 7


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(jnp.array([2.0, 4.0, 9.0]), jnp.array([True, True, False])) == (2 + 4) / 2
    assert masked_mean(jnp.array([2.0, 4.0]), jnp.zeros(2, bool)) == 0


def test_sigmoid_cross_entropy_by_hand():
    logits = jnp.array([0.0, np.log(3.0), -np.log(3.0), 5.0])  # p = 1/2, 3/4, 1/4
    labels = jnp.array([1.0, 0.0, 1.0, 0.0])
    where = jnp.array([True, True, True, False])
    expected = (-np.log(1 / 2) - np.log(1 - 3 / 4) - np.log(1 / 4)) / 3
    assert sigmoid_cross_entropy(logits, labels, where) == pytest.approx(expected, rel=1e-6)


def test_sigmoid_cross_entropy_cannot_overflow():
    logits, labels = jnp.array([1e4, -1e4, 1e4, -1e4]), jnp.array([0.0, 1.0, 1.0, 0.0])
    assert sigmoid_cross_entropy(logits, labels, jnp.ones(4, bool)) == (1e4 + 1e4 + 0 + 0) / 4


def test_multinomial_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0], [1.0, 1.0, 1.0]]))  # p = 1/8 2/8 5/8, 1/4 1/4 1/2
    counts = jnp.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0], [9.0, 9.0, 9.0]])
    expected = (-np.log(1 / 8) - 2 * np.log(5 / 8) - np.log(1 / 2)) / 2
    where = jnp.array([True, True, False])
    assert multinomial_cross_entropy(logits, counts, where) == pytest.approx(expected, rel=1e-6)


def test_sigmoid_cross_entropy_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal(500).astype(np.float32), rng.integers(2, size=500).astype(np.float32)
    where = rng.random(500) < 0.7
    expected = sklearn.metrics.log_loss(labels[where], 1 / (1 + np.exp(-logits[where].astype(np.float64))))
    assert sigmoid_cross_entropy(*map(jnp.asarray, (logits, labels, where))) == pytest.approx(expected, rel=1e-5)


def test_sigmoid_cross_entropy_has_the_gradient_p_minus_y():
    logits, labels = jnp.array([0.0, 2.0, -3.0, 1.0]), jnp.array([1.0, 0.0, 1.0, 1.0])
    where = jnp.array([True, True, True, False])
    gradient = jax.grad(sigmoid_cross_entropy)(logits, labels, where)
    np.testing.assert_allclose(gradient, (jax.nn.sigmoid(logits) - labels) * where / 3, rtol=1e-5, atol=1e-7)


@given(
    hnp.arrays(np.float32, 6, elements=st.floats(-50, 50, width=32)),
    hnp.arrays(bool, 6),
    st.floats(-1e6, 1e6, width=32),
)
def test_sigmoid_cross_entropy_ignores_what_is_masked(logits: np.ndarray, where: np.ndarray, junk: float):
    labels = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    before = sigmoid_cross_entropy(jnp.asarray(logits), labels, jnp.asarray(where))
    after = sigmoid_cross_entropy(jnp.where(where, logits, jnp.float32(junk)), labels, jnp.asarray(where))
    assert before == after


def plain(hidden: jax.Array, table: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
    """Returns the softmax cross-entropy with all logits at once."""
    log_p = jax.nn.log_softmax(hidden @ table.T)
    picked = jnp.take_along_axis(log_p, jnp.where(where, labels, 0)[:, None], 1)[:, 0]
    return -jnp.sum(picked * where) / jnp.maximum(where.sum(), 1)


@pytest.fixture(scope="module")
def inputs() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    where = np.array([1, 1, 0, 1, 1, 1, 0, 1, 0, 1], bool)
    labels = np.where(where, rng.integers(V, size=N), 10**6).astype(np.int32)  # any value where not kept
    hidden, table = rng.standard_normal((N, D)).astype(np.float32), rng.standard_normal((V, D)).astype(np.float32)
    return jnp.asarray(hidden), jnp.asarray(table), jnp.asarray(labels), jnp.asarray(where)


def test_chunked_softmax_cross_entropy_by_hand():
    hidden, table = jnp.array([[1.0], [0.0], [7.0]]), jnp.array([[np.log(2.0)], [0.0]])
    labels, where = jnp.array([0, 1, 1]), jnp.array([True, True, False])
    expected = (-np.log(2 / (2 + 1)) - np.log(1 / 2)) / 2
    assert chunked_softmax_cross_entropy(hidden, table, labels, where, 2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk_size", [3, 10, 16])
def test_chunks_change_neither_loss_nor_gradients(inputs: tuple[jax.Array, ...], chunk_size: int):
    hidden, table, labels, where = inputs

    def scaled(hidden: jax.Array, table: jax.Array) -> jax.Array:  # a cotangent other than 1
        return 3 * chunked_softmax_cross_entropy(hidden, table, labels, where, chunk_size)

    loss, gradients = jax.jit(jax.value_and_grad(scaled, argnums=(0, 1)))(hidden, table)
    expected, expected_gradients = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(*inputs)
    np.testing.assert_allclose(loss, 3 * expected, rtol=1e-6)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, 3 * expected_gradient, rtol=1e-5, atol=1e-7)
    undifferentiated = chunked_softmax_cross_entropy(hidden, table, labels, where, chunk_size)
    np.testing.assert_allclose(undifferentiated, expected, rtol=1e-6)


def test_chunked_loss_agrees_with_finite_differences(inputs: tuple[jax.Array, ...]):
    hidden, table, labels, where = (np.asarray(x) for x in inputs)
    gradient = jax.grad(chunked_softmax_cross_entropy, argnums=1)(*inputs, 4)

    def loss(table: np.ndarray) -> float:
        logits = hidden.astype(np.float64) @ table.T
        chosen = logits[np.arange(N), np.where(where, labels, 0)]
        return float(np.mean((np.log(np.exp(logits).sum(1)) - chosen)[where]))

    step = 1e-5
    for index in np.ndindex(V, D):
        nudge = np.zeros((V, D))
        nudge[index] = step
        slope = (loss(table + nudge) - loss(table - nudge)) / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=1e-5)


def test_chunked_loss_of_nothing_is_zero(inputs: tuple[jax.Array, ...]):
    hidden, table, labels, _ = inputs
    nothing = jnp.zeros(N, bool)
    loss, gradient = jax.value_and_grad(chunked_softmax_cross_entropy)(hidden, table, labels, nothing, 4)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((N, D)))


def test_chunked_loss_cannot_overflow(inputs: tuple[jax.Array, ...]):
    hidden, table, labels, where = inputs
    loss, gradient = jax.value_and_grad(chunked_softmax_cross_entropy)(1e4 * hidden, table, labels, where, 4)
    np.testing.assert_allclose(loss, plain(1e4 * hidden, table, labels, where), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_chunked_loss_takes_bfloat16_and_sums_in_float32(inputs: tuple[jax.Array, ...]):
    hidden, table, labels, where = inputs
    hidden, table = hidden.astype(jnp.bfloat16), table.astype(jnp.bfloat16)
    of_rounded = (hidden.astype(jnp.float32), table.astype(jnp.float32), labels, where)
    loss, gradients = jax.value_and_grad(chunked_softmax_cross_entropy, argnums=(0, 1))(hidden, table, labels, where, 4)
    expected, expected_gradients = jax.value_and_grad(plain, argnums=(0, 1))(*of_rounded)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-6)  # products of bfloat16 are exact in float32
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == jnp.bfloat16
        # The softmax weights and the result are rounded to 8 bits: relative 2^-8 of the largest entries.
        np.testing.assert_allclose(gradient.astype(jnp.float32), expected_gradient, atol=2**-8, rtol=2**-7)


def test_chunked_loss_never_holds_all_logits():
    shapes = (
        jax.ShapeDtypeStruct((96, D), jnp.float32),
        jax.ShapeDtypeStruct((50, D), jnp.float32),
        jax.ShapeDtypeStruct((96,), jnp.int32),
        jax.ShapeDtypeStruct((96,), bool),
    )
    both = jax.value_and_grad(chunked_softmax_cross_entropy, argnums=(0, 1))
    chunked = jax.jit(both, static_argnums=4).lower(*shapes, 8).as_text()
    assert "tensor<8x50xf32>" in chunked
    assert "tensor<96x50x" not in chunked
    assert "tensor<96x50xf32>" in jax.jit(jax.value_and_grad(plain, argnums=(0, 1))).lower(*shapes).as_text()


def test_exposure_gap_by_hand():
    counts = jnp.array([1.0, 5.0, 2.0, 2.0])  # item 1 alone has half: the head, with 5 of 10 interactions
    logits = jnp.log(jnp.array([[1.0, 2.0, 3.0, 9.0], [4.0, 4.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    where = jnp.array([[True, True, True, False], [True, True, True, True], [False, False, False, False]])
    at_one = ((2 / 6) + (4 / 10)) / 2 - 0.5
    assert exposure_gap(logits, where, counts, 1.0) == pytest.approx(at_one, rel=1e-5)
    at_half = ((4 / 14) + (16 / 34)) / 2 - 0.5  # a temperature of 1/2 squares the odds
    assert exposure_gap(logits, where, counts, 0.5) == pytest.approx(at_half, rel=1e-5)
    gradient = jax.grad(exposure_gap)(logits, where, counts, 0.5)
    assert jnp.isfinite(gradient).all()
    assert (gradient[:2, 1] > 0).all()  # raising the head item widens the gap
    assert (gradient[2] == 0).all()


@pytest.fixture(scope="module")
def exposure() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns scores of 7 items for 10 users, of which no two are close; what may be recommended; distinct counts."""
    rng = np.random.default_rng(0)
    logits = np.stack([rng.permutation(V) for _ in range(N)]).astype(np.float32)
    where = rng.random((N, V)) < 0.7
    where[:, 0] = True
    return logits, where, np.array([3, 9, 1, 20, 6, 14, 2], np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_exposure_gap_agrees_with_numpy(exposure: tuple[np.ndarray, ...], temperature: float):
    logits, where, _ = exposure
    head = [3, 5]  # 20 + 14 of 55 are the fewest with half
    shares = []
    for row, kept in zip(logits.astype(np.float64), where, strict=True):
        odds = np.where(kept, np.exp(row / temperature), 0)
        shares.append(odds[head].sum() / odds.sum())
    expected = np.mean(shares) - (20 + 14) / 55
    assert exposure_gap(*map(jnp.asarray, exposure), temperature) == pytest.approx(expected, abs=1e-6)


def test_exposure_gap_approaches_that_of_the_first_items_as_the_temperature_falls(exposure: tuple[np.ndarray, ...]):
    logits, where, counts = exposure
    first = np.where(where, logits, -np.inf).argmax(1)[:, None]
    limit = beyond_accuracy.exposure_gap(first, counts.astype(np.float64))
    away = [abs(float(exposure_gap(*map(jnp.asarray, exposure), t)) - limit) for t in (2.0, 1.0, 0.5, 0.05)]
    assert away == sorted(away, reverse=True)
    assert away[0] > 0.05
    assert away[-1] < 1e-6


def test_items_that_tie_with_the_last_of_the_head_are_in_it():
    counts = jnp.array([4.0, 2.0, 2.0, 1.0])  # half is 4.5: item 0 and one of two that tie, here both
    logits, where = jnp.zeros((1, 4)), jnp.ones((1, 4), bool)
    assert exposure_gap(logits, where, counts, 1.0) == pytest.approx(3 / 4 - 8 / 9)
