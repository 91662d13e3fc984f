"""Quantized products by Qwix, AQT's successor.

Only its functions of arrays are used. The public ones have no backward pass, so this file reads Qwix's `_src`: it is
the one place that a new version of Qwix can break.

Shapes: I inputs, O outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import qwix
from qwix._src.core import qarray
from qwix._src.core.dot_general_qt import DotGeneralQtConfig, dot_general_qt
from qwix._src.core.numerics import get_symmetric_bound
from qwix._src.core.stochastic_rounding import get_noise_fn

from recjax.transforms.dot_types import DotTypes

_FORWARD: dict[str | None, Any] = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e4m3fn, None: None}
_BACKWARD: dict[str | None, Any] = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e5m2, None: None}


def product(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    types: DotTypes,
    key: jax.Array | None = None,
) -> jax.Array:
    """Returns the product of two float operands, quantized on the fly, with the gradients that `types` asks for."""
    gradients = _BACKWARD[types.gradients]
    noise = None
    if key is not None and types.stochastic_rounding:
        noise = [get_noise_fn("uniform", part, (0, 1, 2, 3)) for part in jax.random.split(key)]
    config = DotGeneralQtConfig(
        lhs_qtype=_FORWARD[types.activations],
        rhs_qtype=_FORWARD[types.weights],
        rhs_disable_channelwise_axes=types.per_tensor,
        dlhs_grad_qtype=gradients,
        drhs_grad_qtype=gradients,
        dlhs_stochastic_rounding_noise_fn=noise[0] if noise else None,
        drhs_stochastic_rounding_noise_fn=noise[1] if noise else None,
        use_original_residuals=gradients is None,
    )
    return dot_general_qt(lhs, rhs, dimension_numbers, config)


def quantize_kernel(kernel_IO: jax.Array, types: DotTypes) -> dict[str, jax.Array]:
    """Returns `values` [I, O] and `scale` [1, O] ([1, 1] per tensor), as `product` would make them."""
    axes = () if types.per_tensor else (1,)
    array = qwix.quantize(kernel_IO, _FORWARD[types.weights], channelwise_axes=axes)
    return {"values": _in_bytes(array.qvalue), "scale": array.scale}


def with_kernel(
    x: jax.Array, values_IO: jax.Array, scale: jax.Array, types: DotTypes, input_scale: jax.Array | None
) -> jax.Array:
    """Returns x [..., I] times a quantized kernel; activations get one scale a row, or the fixed one."""
    qtype = _FORWARD[types.activations]
    lhs: jax.Array | qwix.QArray = x
    if input_scale is not None:
        fixed = input_scale.reshape((1,) * x.ndim).astype(x.dtype)
        lhs = qarray.quantize_with_scale_zero_point(x, qtype, fixed, None)
    elif qtype is not None:
        lhs = qwix.quantize(x, qtype, channelwise_axes=range(x.ndim - 1))
    rhs = qwix.QArray(_in_bytes(values_IO), scale.astype(x.dtype))
    if isinstance(lhs, qwix.QArray):
        lhs = qwix.QArray(_in_bytes(lhs.qvalue), lhs.scale)
    return qwix.dot_general(lhs, rhs, (((x.ndim - 1,), (0,)), ((), ())))


def scale_of(largest: jax.Array, types: DotTypes) -> jax.Array:
    """Returns the scale of activations whose largest magnitude is given."""
    return largest / get_symmetric_bound(_FORWARD[types.activations])


def _in_bytes(values: jax.Array) -> jax.Array:
    """Returns four-bit integers as int8: of mixed widths Qwix makes int32, and no CPU compiles a dot of int4."""
    return values.astype(jnp.int8) if values.dtype == jnp.int4 else values
