"""Running sums and maxima of long vectors, in blocks.

XLA makes a window of the vector's length of them on a TPU, and takes the better part of a minute to compile one of a
million numbers; of blocks it takes a second. On a CPU both run alike.

Shapes: N numbers, B blocks, L numbers of a block.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

_LONGEST = 1024  # that is left whole


def running_sum(x_N: Int[Array, "N"]) -> Int[Array, "N"]:
    """Returns the sum of each number and all before it."""
    return _running(x_N, jax.lax.cumsum, jnp.add, 0)


def running_max(x_N: Int[Array, "N"]) -> Int[Array, "N"]:
    """Returns the largest of each number and all before it, none of which may be negative."""
    return _running(x_N, jax.lax.cummax, jnp.maximum, 0)


def _running(x_N: Array, scan: Callable[..., Array], join: Callable[[Array, Array], Array], first: int) -> Array:
    n = len(x_N)
    if n <= _LONGEST:
        return scan(x_N)
    x_BL = jnp.pad(x_N, (0, -n % _LONGEST), constant_values=first).reshape(-1, _LONGEST)
    within_BL = scan(x_BL, axis=1)
    until_B = _running(within_BL[:, -1], scan, join, first)
    before_B = jnp.concatenate([jnp.full(1, first, x_N.dtype), until_B[:-1]])
    return join(within_BL, before_B[:, None]).reshape(-1)[:n]
