"""Rows as integers of eight or four bits with a scale and an offset a row.

A row is unit x (values x scale + offset). Scale and offset are float16 in one 32-bit word a row, so that a lookup
misses the cache once for both; `unit`, a power of two a table, brings them into the range of float16. The product of
an integer of eight bits and a float16 is exact in float32, so a row has one rounding, however XLA fuses what reads it:
the rows that training sees rounded are those that are served, bit for bit.

Source of the row-wise scale and offset: Guan et al., Post-Training 4-bit Quantization on Embedding Tables (arXiv
1911.02079), and FBGEMM, which keep them as float16 beside the row.

Shapes: V vocabulary, D embedding dim, B batch.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8, UInt32

UNIT_IN_TRAINING = 2.0**-8  # of rows rounded in training, where no pass over the table can choose it
LARGEST = 65504.0  # of float16
SMALLEST = 2.0**-14  # normal number of float16


def round_rows(rows: Float[Array, "*n D"], bits: int, unit: Array | float) -> tuple[Array, Array, Array]:
    """Returns the rows' values [..., D], and scale and offset [...] in units, both float16 numbers held as float32.

    The offset is the smallest value rounded down, the scale whatever then reaches the largest value, rounded up: no
    value is cut off, and each is wrong by half a scale at most.
    """
    levels = 2**bits - 1
    in_units = rows.astype(jnp.float32) / unit
    offset = _rounded_down(in_units.min(-1))
    scale = _rounded_up((in_units.max(-1) - offset) / levels)
    steps = (in_units - offset[..., None]) / jnp.where(scale > 0, scale, 1)[..., None]
    return jnp.clip(jnp.round(steps), 0, levels).astype(jnp.uint8), scale, offset


def join_affine(scale: Float[Array, "*n"], offset: Float[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Returns scale and offset as float16 in one word each: the scale in its lower half."""
    low, high = (
        jax.lax.bitcast_convert_type(part.astype(jnp.float16), jnp.uint16).astype(jnp.uint32)
        for part in (scale, offset)
    )
    return low | (high << 16)


def split_affine(words: UInt32[Array, "*n"], unit: Array) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """Returns scale and offset as float32, no longer in units."""
    low, high = (
        jax.lax.bitcast_convert_type(half.astype(jnp.uint16), jnp.float16).astype(jnp.float32) * unit
        for half in (words & 0xFFFF, words >> 16)
    )
    return low, high


def pack(values: UInt8[Array, "V D"]) -> UInt8[Array, "V half"]:
    """Returns values of 0 to 15 two a byte: value j in the lower half of byte j, value j + D / 2 in its upper one."""
    low, high = jnp.split(values, 2, axis=-1)
    return low | (high << 4)


def read(form: Mapping[str, Any], ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    """Returns the row of each id."""
    scale, offset = split_affine(take(form["affine"], ids), form["unit"])
    return _values(form, ids) * scale[..., None] + offset[..., None]


def sum_rows(form: Mapping[str, Any], ids_BL: Int[Array, "B L"], used_BL: Float[Array, "B L"], dtype: Any) -> Array:
    """Returns the sum [B, D] of each bag's rows, those whose `used` is 0 and not 1 left out.

    Scales and offsets of all positions are read at once, behind a barrier: else XLA for CPUs makes a program of each
    position's, which took bags of 26 up to twice as long.
    """
    scale_BL, offset_BL = split_affine(take(form["affine"], ids_BL), form["unit"])
    scale_BL, offset_BL, ids_BL = jax.lax.optimization_barrier((scale_BL * used_BL, offset_BL * used_BL, ids_BL))
    sum_BD = jnp.zeros((), dtype)
    for position in range(ids_BL.shape[1]):
        scale_B1, offset_B1 = scale_BL[:, position, None], offset_BL[:, position, None]
        sum_BD += (_values(form, ids_BL[:, position]) * scale_B1 + offset_B1).astype(dtype)
    return sum_BD


def read_all(form: Mapping[str, Any]) -> Float[Array, "V D"]:
    """Returns the whole table."""
    scale, offset = split_affine(form["affine"], form["unit"])
    return _values(form) * scale[..., None] + offset[..., None]


def scores(form: Mapping[str, Any], x_BD: Float[Array, "B D"]) -> Float[Array, "B V"]:
    """Returns the float32 inner product of each vector with every row, of which no float copy is made.

    x . row = scale (x . values) + offset sum(x). One vector is multiplied and summed by hand: there XLA's CPU dot
    first writes the values out as floats, which costs five times as much at a million rows.
    """
    scale_V, offset_V = split_affine(form["affine"], form["unit"])
    if "values" in form:
        products_BV = _products(x_BD, form["values"])
    else:
        low_BD, high_BD = jnp.split(x_BD, 2, axis=1)
        products_BV = _products(low_BD, form["packed"] & 15) + _products(high_BD, form["packed"] >> 4)
    sums_B1 = x_BD.astype(jnp.float32).sum(1, keepdims=True)
    return products_BV * scale_V[None] + sums_B1 * offset_V[None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(rows: Float[Array, "*n D"], bits: int) -> Float[Array, "*n D"]:
    """Returns the rows as they will be served, in float32; the gradient is that of the rows themselves."""
    values, scale, offset = round_rows(rows, bits, UNIT_IN_TRAINING)
    scale, offset = scale * UNIT_IN_TRAINING, offset * UNIT_IN_TRAINING
    return values.astype(jnp.float32) * scale[..., None] + offset[..., None]


rounded.defvjp(
    lambda rows, bits: (rounded(rows, bits), jnp.zeros([], rows.dtype)),
    lambda bits, like, grad: (grad.astype(like.dtype),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rounded_scores(table_VD: Float[Array, "V D"], x_BD: Float[Array, "B D"], bits: int) -> Float[Array, "B V"]:
    """Returns the scores that the table will give when it is stored as integers, by the same operations.

    Of the same rows to the last bit; XLA may add the terms of a product up in another order in the two programs.
    """
    # Behind the barrier stands the program that serves; without it XLA could fuse the rounding into its products.
    return scores(jax.lax.optimization_barrier(stored(table_VD, bits, UNIT_IN_TRAINING)), x_BD)


def _rounded_scores_backward(bits: int, known: tuple[Array, Array], grad_BV: Array) -> tuple[Array, Array]:
    table_VD, x_BD = known
    x_grad = grad_BV @ rounded(table_VD, bits)
    table_grad = grad_BV.T @ x_BD.astype(jnp.float32)
    return table_grad.astype(table_VD.dtype), x_grad.astype(x_BD.dtype)


rounded_scores.defvjp(
    lambda table_VD, x_BD, bits: (rounded_scores(table_VD, x_BD, bits), (table_VD, x_BD)), _rounded_scores_backward
)


def stored(table_VD: Float[Array, "V D"], bits: int, unit: float) -> dict[str, Array]:
    """Returns the table's form: {"values", "affine", "unit"}, or with "packed" for four bits."""
    values, scale, offset = round_rows(table_VD, bits, unit)
    parts = {"values": values} if bits == 8 else {"packed": pack(values)}
    return {**parts, "affine": join_affine(scale, offset), "unit": jnp.asarray(unit, jnp.float32)}


def take(part: Array, ids: Array) -> Array:
    """Returns the part of each id, which must lie within it."""
    return part.at[ids].get(mode="promise_in_bounds")


def _values(form: Mapping[str, Any], ids: Array | None = None) -> Float[Array, "*n D"]:
    """Returns the integers of each id, or of all rows, as float32."""
    part = form["values"] if "values" in form else form["packed"]
    part = part if ids is None else take(part, ids)
    return (part if "values" in form else _unpack(part)).astype(jnp.float32)


def _unpack(packed: UInt8[Array, "*n half"]) -> UInt8[Array, "*n D"]:
    """Returns values of 0 to 15; every byte twice, then shifted: on a CPU faster than joining two halves' values."""
    twice = jnp.concatenate([packed, packed], axis=-1)
    shifts = jnp.where(jnp.arange(twice.shape[-1]) < packed.shape[-1], 0, 4).astype(jnp.uint8)
    return (twice >> shifts.reshape((1,) * (twice.ndim - 1) + (-1,))) & 15


def _products(x_BD: Array, values_VD: Array) -> Float[Array, "B V"]:
    values_VD = values_VD.astype(x_BD.dtype)  # exact in bfloat16 too
    if len(x_BD) == 1:
        return jnp.sum(values_VD * x_BD, axis=1, dtype=jnp.float32)[None]
    return jax.lax.dot_general(x_BD, values_VD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def _rounded_up(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the smallest float16 number that is not below x, which is not negative; in float32.

    By its bits: XLA may leave out a conversion to float16 that is followed by one back.
    """
    return jnp.where((x > 0) & (x < SMALLEST), SMALLEST, _away_from_zero(x))


def _rounded_down(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the largest float16 number that is not above x, in float32."""
    truncated = jax.lax.bitcast_convert_type(_bits(x) & jnp.uint32(0xFFFFE000), jnp.float32)
    tiny = jnp.where(x < 0, -SMALLEST, 0.0)
    return jnp.where(jnp.abs(x) < SMALLEST, tiny, jnp.where(x < 0, _away_from_zero(x), truncated))


def _away_from_zero(x: Array) -> Array:
    return jax.lax.bitcast_convert_type((_bits(x) + jnp.uint32(0x1FFF)) & jnp.uint32(0xFFFFE000), jnp.float32)


def _bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)
