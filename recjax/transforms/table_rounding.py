"""Trained tables in fewer bits: rows of integers, or a narrower float.

Shapes: V vocabulary, D embedding dim.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recjax.errors import UserError
from recjax.nn.integer_rows import LARGEST, UNIT_IN_TRAINING, stored

HEADROOM = 8  # binary places between a table's largest value in units, 2^8, and float16's smallest normal, 2^-14


def integers(table_VD: Float[Array, "V D"], bits: int) -> dict[str, Array]:
    """Returns the trained table's form, in the unit that suits its largest value."""
    largest = float(jnp.abs(table_VD).max())
    unit = 2.0 ** (math.ceil(math.log2(largest)) - HEADROOM) if largest > 0 else 1.0
    return _stored(table_VD, bits, unit)


def integers_as_trained(table_VD: Float[Array, "V D"], bits: int, path: str) -> dict[str, Array]:
    """Returns the form whose rows are those that training saw rounded.

    Raises:
      UserError: a value is beyond what rows rounded in training can hold.
    """
    largest, limit = float(jnp.abs(table_VD).max()), LARGEST * UNIT_IN_TRAINING
    if not largest <= limit:
        raise UserError(
            f"table {path} has a value of {largest:g}; rows rounded in training hold up to {limit:g}: lower the "
            "learning rate, or round after training (through_training=False)"
        )
    return _stored(table_VD, bits, UNIT_IN_TRAINING)


def narrower_float(table_VD: Float[Array, "V D"], dtype: str, path: str) -> Float[Array, "V D"]:
    """Returns the table rounded to "bfloat16" or "float16"; raises UserError if a value is beyond its range."""
    largest, limit = float(jnp.abs(table_VD).max()), float(jnp.finfo(dtype).max)
    if largest > limit:
        raise UserError(
            f"table {path} has a value of {largest:g} and {dtype} holds up to {limit:g}; use bf16, or leave it out"
        )
    return table_VD.astype(dtype)


# One program, however it is called: the same values as those that training saw.
_stored = jax.jit(stored, static_argnums=(1, 2))
