"""Replicas draw, sum and average what one device does: bits exactly, losses and gradients to rounding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import losses
from recjax.replicas import AXIS, batch_mean, batch_sum, replica_key, replicas

B = 16  # samples of the whole batch
KEY = jax.random.key(3, impl="threefry2x32")


def of_replicas(function: Callable, n: int) -> Callable:
    """Returns the function of every replica's part of its arguments: their first axis is split in n."""

    def traced(*parts: Any) -> Any:
        with replicas():
            return function(*parts)

    mapped = jax.pmap(traced, axis_name=AXIS, devices=jax.devices()[:n])
    return lambda *whole: mapped(*(np.asarray(x).reshape(n, -1, *np.shape(x)[1:]) for x in whole))


DRAWS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "uniform": lambda key, b: jax.random.uniform(key, (b, 5)),
    "vector": lambda key, b: jax.random.uniform(key, (b,)),
    "bernoulli": lambda key, b: jax.random.bernoulli(key, 0.3, (b, 4, 3)),
    "normal": lambda key, b: jax.random.normal(key, (b, 7)),
    "randint": lambda key, b: jax.random.randint(key, (b, 6), 0, 1000),
    "gumbel": lambda key, b: jax.random.gumbel(key, (b, 3)),
    "bits": lambda key, b: jax.random.bits(key, (b, 2)),
    "bytes": lambda key, b: jax.random.bits(key, (b, 3), jnp.uint8),
    "bfloat16": lambda key, b: jax.random.uniform(key, (b, 5), jnp.bfloat16),
    "split": lambda key, b: jax.random.uniform(jax.random.split(key, 3)[1], (b, 5)),
    "fold_in": lambda key, b: jax.random.normal(jax.random.fold_in(key, 7), (b, 5)),
    "nested": lambda key, b: jax.random.bernoulli(
        jax.random.fold_in(jax.random.split(jax.random.fold_in(key, 1), (2, 2))[1, 0], 5), 0.5, (b, 3)
    ),
    # As a recurrent layer does: a key for each time, taken by a scan.
    "scanned": lambda key, b: jnp.moveaxis(
        jax.lax.map(lambda one: jax.random.uniform(one, (b, 2)), jax.random.split(key, 4)), 0, 1
    ),
}


def all_draws(key: jax.Array, b: int) -> dict[str, jax.Array]:
    return {name: draw(key, b) for name, draw in DRAWS.items()}


@pytest.fixture(scope="module")
def of_one_device() -> dict[str, jax.Array]:
    return jax.jit(functools.partial(all_draws, b=B))(KEY)


@pytest.mark.parametrize("n", [2, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_draws_are_the_rows_of_the_whole_batchs(n: int, of_one_device: dict[str, jax.Array]):
    drawn = of_replicas(lambda _: all_draws(replica_key(KEY), B // n), n)(np.zeros(n))
    for name, of_one in of_one_device.items():
        found = np.asarray(drawn[name]).reshape(of_one.shape)
        if name in ("normal", "fold_in", "gumbel"):  # XLA rounds their functions of equal bits as vectors' lengths say
            np.testing.assert_allclose(found, of_one, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found, of_one, err_msg=name)


def test_replicas_draw_different_numbers():
    drawn = of_replicas(lambda _: jax.random.uniform(replica_key(KEY), (2,)), 8)(np.zeros(8))
    assert len(np.unique(drawn)) == 16


def test_outside_replicas_sums_and_means_are_the_devices_own():
    assert batch_sum(jnp.float32(3.0)) == 3.0
    assert batch_mean({"a": jnp.float32(3.0)}) == {"a": 3.0}


def test_replicas_end_with_their_block():
    with pytest.raises(ValueError, match="stop"), replicas():
        raise ValueError("stop")
    assert batch_sum(jnp.float32(3.0)) == 3.0


def test_sums_and_means_by_hand():
    values = np.arange(8.0, dtype=np.float32)
    sums, means = of_replicas(lambda x: (batch_sum(x.sum()), batch_mean({"x": x.sum()})), 4)(values)
    assert sums.tolist() == [28.0] * 4
    assert means["x"].tolist() == [7.0] * 4  # of 1, 5, 9 and 13


# Losses of parameters and a batch. Samples that do not count are spread unevenly, so that a mean of means is no mean.
V, D, L = 6, 4, 3
RNG = np.random.default_rng(0)
REAL = np.array([True] * 7 + [False] * 5 + [True, False, False, False])
PARAMS = {
    "kernel": RNG.normal(size=(D, V)).astype(np.float32),
    "table": RNG.normal(size=(V, D)).astype(np.float32),
    "bias": RNG.normal(size=V).astype(np.float32),
}
BATCH = {
    "x": RNG.normal(size=(B, D)).astype(np.float32),
    "sequence": RNG.normal(size=(B, L, D)).astype(np.float32),
    "labels": RNG.integers(2, size=B).astype(np.float32),
    "counts": RNG.integers(3, size=(B, V)).astype(np.float32),
    "items": RNG.integers(V, size=(B, L)).astype(np.int32),
    "lengths": np.where(REAL, RNG.integers(1, L + 1, B), 0).astype(np.int32),
    "real": REAL,
    "allowed": (RNG.random((B, V)) < 0.7) & REAL[:, None],
}
POPULARITY = np.array([9.0, 1.0, 4.0, 2.0, 7.0, 1.0], np.float32)

Loss = Callable[[Any, Any], jax.Array]
LOSSES: dict[str, Loss] = {
    "masked_mean": lambda p, b: losses.masked_mean((b["x"] @ p["kernel"]).sum(1) ** 2, b["real"]),
    "sigmoid_cross_entropy": lambda p, b: losses.sigmoid_cross_entropy(
        b["x"] @ p["kernel"][:, 0], b["labels"], b["real"]
    ),
    "multinomial_cross_entropy": lambda p, b: losses.multinomial_cross_entropy(
        b["x"] @ p["kernel"] + p["bias"][None], b["counts"], b["real"]
    ),
    "bpr_loss": lambda p, b: losses.masked_mean(losses.bpr_loss(b["x"] @ p["kernel"]), b["real"]),
    "exposure_gap": lambda p, b: losses.exposure_gap(b["x"] @ p["kernel"], b["allowed"], jnp.asarray(POPULARITY), 0.5),
    "next_item_cross_entropy": lambda p, b: losses.next_item_cross_entropy(
        b["sequence"] * p["bias"][None, None, :D], p["table"], b["items"], b["lengths"], 5
    ),
    "chunked_softmax_cross_entropy": lambda p, b: losses.chunked_softmax_cross_entropy(
        b["x"] * p["bias"][None, :D], p["table"], b["items"][:, 0], b["real"], 3
    ),
    # A penalty that is the same in every replica adds once.
    "with_a_penalty": lambda p, b: (
        losses.masked_mean(jnp.sum(b["x"] @ p["kernel"], 1), b["real"]) + (p["table"] ** 2).sum()
    ),
}


def losses_and_gradients(params: Any, batch: Any) -> dict[str, Any]:
    found = {name: jax.value_and_grad(loss)(params, batch) for name, loss in LOSSES.items()}
    return {name: (loss, batch_mean(gradients)) for name, (loss, gradients) in found.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return jax.jit(losses_and_gradients)(PARAMS, BATCH)


@pytest.mark.parametrize("n", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 8))])
def test_losses_and_gradients_are_one_devices(n: int, expected: dict[str, Any]):
    def traced(params: Any, batch: Any) -> Any:
        with replicas():
            return losses_and_gradients(params, batch)

    parts = jax.tree.map(lambda column: column.reshape(n, -1, *column.shape[1:]), BATCH)
    found = jax.pmap(traced, axis_name=AXIS, in_axes=(None, 0), devices=jax.devices()[:n])(PARAMS, parts)
    for name, (loss, gradients) in expected.items():
        assert np.isfinite(loss)
        of_loss, of_gradients = found[name]
        np.testing.assert_allclose(of_loss, [loss] * n, rtol=1e-5, err_msg=name)  # the same in every replica
        for path, gradient in gradients.items():
            for replica in range(n):
                np.testing.assert_allclose(
                    of_gradients[path][replica], gradient, rtol=1e-4, atol=1e-6, err_msg=f"{name} {path}"
                )


def test_every_loss_is_tested():
    named = {name for name, value in vars(losses).items() if callable(value) and value.__module__ == losses.__name__}
    assert {name for name in named if not name.startswith("_")} <= LOSSES.keys()


def test_a_mean_of_the_replicas_means_would_be_another():
    # What the sums over the batch are for: 7 of the first 8 samples count, and one of the last 8.
    mean = losses.masked_mean(jnp.asarray(BATCH["x"][:, 0]), jnp.asarray(REAL))
    halves = [
        losses.masked_mean(jnp.asarray(x), jnp.asarray(w))
        for x, w in zip(np.split(BATCH["x"][:, 0], 2), np.split(REAL, 2), strict=True)
    ]
    assert abs(mean - sum(halves) / 2) > 0.01
