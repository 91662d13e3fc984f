"""What an embedding table may be stored as, and how rows are read from each form.

- an array [V, D] of any float type;
- {"values" uint8 [V, D], "scale" [V], "offset" [V], "unit" []}: eight bits a value. A row is
  unit x (values x scale + offset); scale and offset are float16, and `unit` (float32) brings them into its range;
- {"packed" uint8 [V, D / 2], ...}: the same in four bits; byte j holds value j in its lower half and value j + D / 2
  in its upper one.

Forms are plain dicts of arrays, so checkpoints hold them as they are and no model knows of them.

Source of the row-wise scale and offset: Guan et al., Post-Training 4-bit Quantization on Embedding Tables (arXiv
1911.02079), and FBGEMM, which keep them as float16 beside the row.

Shapes: V vocabulary, D embedding dim, B batch.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Table = Array | Mapping[str, Any]


def read_rows(table: Table, ids: Int[Array, "*batch"], dtype: Any) -> Float[Array, "*batch D"]:
    """Returns the row of each id, which must lie in [0, V)."""
    if not isinstance(table, Mapping):
        # Cast after the gather: before it, XLA converts the whole table where the types differ.
        return _take(table, ids).astype(dtype)
    if "scale" in table:
        of_rows = {name: _take(part, ids) for name, part in table.items() if name != "unit"}
        return _dequantized(of_rows, table["unit"], dtype)
    raise AssertionError(f"no such form of a table: {sorted(table)}")


def all_rows(table: Table, vocab_size: int, dtype: Any) -> Float[Array, "V D"]:
    """Returns the whole table as floats."""
    if not isinstance(table, Mapping):
        return table.astype(dtype)
    if "scale" in table:
        return _dequantized(table, table["unit"], dtype)
    return read_rows(table, jnp.arange(vocab_size), dtype)


def scores(table: Table, x_BD: Float[Array, "B D"], vocab_size: int) -> Float[Array, "B V"]:
    """Returns the float32 inner product of each vector with every row."""
    rows_VD = all_rows(table, vocab_size, x_BD.dtype)
    return jnp.dot(x_BD, rows_VD.T, preferred_element_type=jnp.float32)


def _take(part: Array, ids: Array) -> Array:
    return part.at[ids].get(mode="promise_in_bounds")


def _dequantized(parts: Mapping[str, Array], unit: Array, dtype: Any) -> Array:
    values = parts["values"] if "values" in parts else _unpacked(parts["packed"])
    scale, offset = (parts[name].astype(jnp.float32)[..., None] * unit for name in ("scale", "offset"))
    return (values.astype(jnp.float32) * scale + offset).astype(dtype)


def _unpacked(packed: Array) -> Array:
    """Returns [..., D] values of 0 to 15 from [..., D / 2] bytes."""
    return jnp.concatenate([packed & 15, packed >> 4], axis=-1)
