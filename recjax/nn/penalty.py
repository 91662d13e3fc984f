"""Penalties on parameters, for losses that name one of their own."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_kernels(params: Any) -> Float[Array, ""]:
    """Returns the sum of the squares of every `kernel` in the tree, or its factors; biases and tables are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if any(getattr(part, "key", None) == "kernel" for part in path)]
    return jnp.sum(jnp.stack([jnp.sum(kernel**2) for kernel in kernels]))
