"""Parameters that training leaves as they are: the integers of a form, as in which row an id reads."""

from typing import Any

import jax
import jax.numpy as jnp


def split_fixed(params: Any) -> tuple[Any, Any]:
    """Returns the floats, which are learned, and all other parameters; each with None where the other has an array."""
    return _where(params, is_float=True), _where(params, is_float=False)


def join_fixed(learned: Any, fixed: Any) -> Any:
    """Returns the parameters that `split_fixed` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, learned, fixed, is_leaf=lambda leaf: leaf is None)


def _where(params: Any, *, is_float: bool) -> Any:
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) == is_float else None, params)
