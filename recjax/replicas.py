"""What makes the replicas of a `pmap` compute what one device would: sums over the whole batch, and its random draws.

A replica sees its own part of a batch. Losses are means over all samples, so within `replicas()`, while a program is
traced, their sums are taken over all replicas. A draw with a key of `replica_key` whose first axis is the batch is the
replica's part of the draw for the whole batch.

A loss is then the same on every replica, and JAX gives each of them the gradient of all replicas' losses: the mean of
those gradients over the replicas is that of one device.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp
from jaxtyping import Array

AXIS = "data"  # of the pmap

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("replicas", default=False)


@contextlib.contextmanager
def replicas() -> Iterator[None]:
    """Within the block, what is traced is a part of a `pmap` along AXIS."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def batch_sum(local_sum: Array) -> Array:
    """Returns the sum over the whole batch of which this device has summed its part."""
    return jax.lax.psum(local_sum, AXIS) if _inside.get() else local_sum


def batch_mean(of_replica: Any) -> Any:
    """Returns the mean over all replicas of each array of a tree, of gradients above all."""
    return jax.lax.pmean(of_replica, AXIS) if _inside.get() else of_replica


def replica_key(key: jax.Array) -> jax.Array:
    """Returns a key that draws this replica's part of what the threefry `key` draws for the whole batch."""
    index = jax.lax.axis_index(AXIS).astype(jnp.uint32)
    return jax.random.wrap_key_data(jnp.append(jax.random.key_data(key), index), impl=_generator())


@functools.cache
def _generator() -> Hashable:
    """Returns threefry with the replica's index as a third word of every key."""
    return jax.extend.random.define_prng_impl(
        key_shape=(3,),
        seed=lambda seed: jnp.append(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")), jnp.uint32(0)),
        split=lambda data, shape: _with_index(jax.random.split(_threefry(data), shape), data),
        fold_in=lambda data, number: _with_index(jax.random.fold_in(_threefry(data), number), data),
        random_bits=_random_bits,
        name="replica_threefry",
        tag="rtf",
    )


def _threefry(data: Array) -> jax.Array:
    return jax.random.wrap_key_data(data[:2], impl="threefry2x32")


def _with_index(keys: jax.Array, data: Array) -> Array:
    """Returns the data of keys, each with the index of the replica that `data` is of."""
    index = jnp.broadcast_to(data[2], (*keys.shape, 1))
    return jnp.concatenate([jax.random.key_data(keys), index], axis=-1)


def _random_bits(data: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Returns rows of what `jax.random.bits` gives for the whole batch, whose elements it numbers one by one."""
    assert bit_width <= 32, bit_width  # JAX draws wider ones for 64-bit types alone, which recjax does not turn on
    size = math.prod(shape)
    low = data[2] * jnp.uint32(size) + jnp.arange(size, dtype=jnp.uint32)
    counts = jnp.concatenate([jnp.zeros_like(low), low])
    high_bits, low_bits = jnp.split(jax.extend.random.threefry_2x32(data[:2], counts), 2)
    return (high_bits ^ low_bits).reshape(shape).astype(f"uint{bit_width}")
