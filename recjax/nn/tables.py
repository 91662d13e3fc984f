"""What an embedding table may be stored as, and how rows are read from each form.

- an array [V, D] of any float type;
- {"values" uint8 [V, D], "affine" uint32 [V], "unit" []}: eight bits a value, a scale and an offset a row; or
  {"packed" uint8 [V, D / 2], ...}: four bits (recjax.nn.integer_rows);
- {"rounded_int8" [V, D]} or {"rounded_int4" [V, D]}: floats that are read as if they were stored so, for training;
- {"hashed" [M, D]}: ids share rows by a hash; {"quotient" [V / M, D], "remainder" [M, D]}: a row is a product of two;
  {"kept" [K + 1, D], "row_of" int32 [V]}: rare ids share the last row (recjax.nn.shared_rows);
- {"place" int32 [V], "block_0" {"rows" [V0, D0], "projection" [D0, D]}, "block_1" ...}: blocks of rows of several
  widths, without a projection where that is D; {"core_0" [V1, D1, R], "core_1" [V2, R, D2, R],
  "core_2" [V3, R, D3]}: a tensor train (recjax.nn.factored_rows).

Forms are plain dicts of arrays, so checkpoints hold them as they are and no model knows of them. Integers in them are
not trained.

Shapes: V vocabulary, D embedding dim, B batch.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recjax.nn import factored_rows, integer_rows, shared_rows
from recjax.nn.integer_rows import take

Table = Array | Mapping[str, Any]


def holds_integers(table: Table) -> TypeGuard[Mapping[str, Any]]:
    """Returns whether rows are stored as integers with a scale and an offset."""
    return isinstance(table, Mapping) and "affine" in table


def read_rows(table: Table, ids: Int[Array, "*batch"], dtype: Any) -> Float[Array, "*batch D"]:
    """Returns the row of each id, which must lie in [0, V)."""
    if holds_integers(table):
        # What follows is compiled behind a barrier, as where these rows are rounded in training: XLA would contract
        # the products and sums of both programs in other ways.
        return jax.lax.optimization_barrier(integer_rows.read(table, ids)).astype(dtype)
    return _float_rows(table, ids).astype(dtype)


def _float_rows(table: Table, ids: Array) -> Array:
    if not isinstance(table, Mapping):
        return take(table, ids)  # the caller casts it: before the gather, XLA would convert the whole table
    if bits := _rounded_bits(table):
        return jax.lax.optimization_barrier(integer_rows.rounded(take(table[f"rounded_int{bits}"], ids), bits))
    if "hashed" in table or "kept" in table:
        return take(_shared(table), shared_rows.row_of(table, ids))
    if "quotient" in table:
        return shared_rows.read_composed(table, ids)
    if "place" in table:
        return factored_rows.read_blocks(table, ids)
    if "core_0" in table:
        return factored_rows.read_train(table, ids)
    raise AssertionError(f"no such form of a table: {sorted(table)}")


def all_rows(table: Table, vocab_size: int, dtype: Any) -> Float[Array, "V D"]:
    """Returns the whole table as floats."""
    if not isinstance(table, Mapping):
        return table.astype(dtype)
    if "affine" in table:
        return integer_rows.read_all(table).astype(dtype)
    if bits := _rounded_bits(table):
        return integer_rows.rounded(table[f"rounded_int{bits}"], bits).astype(dtype)
    if "place" in table:
        return factored_rows.read_all_blocks(table).astype(dtype)
    if "core_0" in table:
        return factored_rows.read_whole_train(table, vocab_size).astype(dtype)
    return read_rows(table, jnp.arange(vocab_size), dtype)


def scores(table: Table, x_BD: Float[Array, "B D"], vocab_size: int) -> Float[Array, "B V"]:
    """Returns the float32 inner product of each vector with every row."""
    if isinstance(table, Mapping):
        if "affine" in table:
            return integer_rows.scores(table, x_BD)
        if bits := _rounded_bits(table):
            return integer_rows.rounded_scores(table[f"rounded_int{bits}"], x_BD, bits)
        if "hashed" in table or "kept" in table:  # each row is multiplied once, however many ids share it
            by_row = jnp.dot(x_BD, _shared(table).astype(x_BD.dtype).T, preferred_element_type=jnp.float32)
            return by_row.at[:, shared_rows.row_of(table, jnp.arange(vocab_size))].get(mode="promise_in_bounds")
    rows_VD = all_rows(table, vocab_size, x_BD.dtype)
    return jnp.dot(x_BD, rows_VD.T, preferred_element_type=jnp.float32)


def _rounded_bits(table: Mapping[str, Any]) -> int:
    """Returns the bits that the table's rows are rounded to in training, 0 if it is another form."""
    return next((bits for bits in (8, 4) if f"rounded_int{bits}" in table), 0)


def _shared(table: Mapping[str, Any]) -> Array:
    return table["hashed"] if "hashed" in table else table["kept"]
