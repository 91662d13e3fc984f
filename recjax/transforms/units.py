"""The parameter slices that hidden units own, whatever form their layers' kernels have."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.models.contract import HiddenUnits


def owned_slices(layer: HiddenUnits, flat: Mapping[str, Array]) -> tuple[tuple[str, int], ...]:
    """Returns (path, axis) of each parameter with one index per unit; a factored kernel's is the factor that has it.

    A kernel [I, O] stored as "down" [I, R] and "up" [R, O] has its inputs in the first and its outputs in the second.
    """
    return tuple(
        (path if path in flat else f"{path}/{'down' if axis == 0 else 'up'}", axis) for path, axis in layer.slices
    )


def unit_norms(layer: HiddenUnits, flat: Mapping[str, Array]) -> Float[Array, "U"]:
    """Returns the L2 norm of everything that each unit of the layer owns."""
    total = jnp.zeros([])
    for path, axis in owned_slices(layer, flat):
        others = tuple(i for i in range(flat[path].ndim) if i != axis)
        total += jnp.sum(jnp.square(flat[path].astype(jnp.float32)), axis=others)
    return jnp.sqrt(total)
