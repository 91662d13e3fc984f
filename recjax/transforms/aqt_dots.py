"""Quantized products by AQT (package `aqtp`), the library that recjax quantizes with unless told otherwise.

AQT's Linen layers are left aside: its functions of arrays need no state, work inside a scan, and leave it to recjax
how quantized values are stored.

Shapes: I inputs, O outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from aqt.jax.v2 import aqt_dot_general
from aqt.jax.v2 import config as aqt_config
from aqt.jax.v2.aqt_tensor import QTensor

from recjax.transforms.dot_types import DotTypes

_FORWARD: dict[str | None, Any] = {"int8": 8, "int4": 4, "fp8": "e4m3", None: None}
_BACKWARD: dict[str | None, Any] = {"int8": 8, "int4": 4, "fp8": "e5m2", None: None}


def product(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    types: DotTypes,
    key: jax.Array | None = None,
) -> jax.Array:
    """Returns the product of two float operands, quantized on the fly, with the gradients that `types` asks for."""
    return _config(types, key)(lhs, rhs, dimension_numbers)


def quantize_kernel(kernel_IO: jax.Array, types: DotTypes) -> dict[str, jax.Array]:
    """Returns `values` [I, O] and `scale` [1, O] ([1, 1] per tensor), as `product` would make them."""
    quantizer = _config(types, None).fwd.dg_quantizer.rhs
    quantizer.init_calibration()
    tensor, _ = quantizer.quant(kernel_IO, calibration_axes=(0,))
    return {"values": tensor.qvalue, "scale": tensor.scale[0]}


def with_kernel(
    x: jax.Array, values_IO: jax.Array, scale: jax.Array, types: DotTypes, input_scale: jax.Array | None
) -> jax.Array:
    """Returns x [..., I] times a quantized kernel; activations get one scale a row, or the fixed one."""
    config, axis = _config(types, None), x.ndim - 1
    lhs = None
    if input_scale is not None:
        lhs = _tensor(None, input_scale.reshape((1,) * x.ndim).astype(x.dtype), x.dtype)
    kernel = jnp.zeros(values_IO.shape, x.dtype)  # AQT asks for a float kernel; no compiled program ever reads it
    dimension_numbers = (((axis,), (0,)), ((), ()))
    output, _ = config.dg_core(x, kernel, lhs, _tensor(values_IO, scale, x.dtype), dimension_numbers)
    return output


def scale_of(largest: jax.Array, types: DotTypes) -> jax.Array:
    """Returns the scale of activations whose largest magnitude is given."""
    return largest / _config(types, None).fwd.dg_quantizer.lhs.numerics.get_quant_bound()


def _tensor(values: jax.Array | None, scale: jax.Array, dtype: Any) -> QTensor:
    return QTensor(
        qvalue=values,
        scale=[scale],
        scale_t=None,
        bias=[],
        sparsity_mask=None,
        tiling_state=None,
        dequant_dtype=dtype,
    )


def _config(types: DotTypes, key: jax.Array | None) -> aqt_dot_general.DotGeneral:
    weights, activations = _FORWARD[types.weights], _FORWARD[types.activations]
    gradients = _BACKWARD[types.gradients]
    config = aqt_config.default_unquantized_config()
    aqt_config.set_bits(
        config,
        fwd_lhs_bit=activations,
        fwd_rhs_bit=weights,
        dlhs_lhs_bit=gradients,
        dlhs_rhs_bit=gradients,
        drhs_lhs_bit=gradients,
        drhs_rhs_bit=gradients,
    )
    for raw in (config.fwd, config.dlhs, config.drhs):
        sides = (raw.dg_quantizer.lhs, raw.dg_quantizer.rhs)
        for side in sides:
            if side.numerics.get_dtype() == jnp.int4:  # no CPU compiles a dot of int4: four bits in bytes
                side.numerics.dtype = jnp.int8
        if all(side.numerics.get_dtype() == jnp.int8 for side in sides):
            raw.dg_accumulator_dtype = jnp.int32
    if types.per_tensor:
        config.fwd.dg_quantizer.rhs.calib_shared_axes = "per_tensor"
    if types.gradients is not None:
        aqt_config.set_stochastic_rounding(
            config,
            vjp_lhs_stochastic_rounding=types.stochastic_rounding,
            vjp_rhs_stochastic_rounding=False,
            implementation="jax.uniform",
        )
    return aqt_config.set_context(config, key, train_step=None)
