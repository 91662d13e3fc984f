"""The products of a quantized model: while it trains, and from frozen values.

Shapes: I inputs, O outputs.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from recjax.errors import UserError
from recjax.nn.dots import Dots, Kernel
from recjax.transforms.protocol import Mode


@dataclasses.dataclass(frozen=True)
class QuantizedDots(Dots):
    """Products as a rule says; where it says nothing, those of `inner`."""

    inner: Dots
    rule: Any  # recjax.transforms.quantize.Quantize: which products run in which types
    logits: tuple[str, ...]
    mode: Mode

    @property
    def needs_key(self) -> bool:  # type: ignore[override]
        """Returns whether gradients are rounded by chance."""
        return (self.rule.rounds_by_chance and self.mode == Mode.TRAIN) or self.inner.needs_key

    def with_kernel(self, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
        """Returns x times the kernel: quantized now if it is an array, or frozen."""
        backend = library(self.rule.backend)
        if isinstance(kernel, Mapping):
            values = unpack(kernel["packed"], x.shape[-1]) if "packed" in kernel else kernel["values"]
            frozen_types = self.rule.types_of(path)
            return backend.with_kernel(x, values, kernel["scale"], frozen_types, kernel.get("input_scale"))
        found = self.rule.types_at(path, kernel.shape[-1], self.logits)
        if found is None or self.mode == Mode.SERVE:
            return self.inner.with_kernel(x, kernel, path, key)
        dimension_numbers = (((x.ndim - 1,), (0,)), ((), ()))
        return backend.product(x, kernel, dimension_numbers, found, key if self.needs_key else None)

    def einsum(self, equation: str, lhs: Array, rhs: Array, path: str, key: Array | None = None) -> Array:
        """Returns the product of two activations, quantized on the fly if the rule says so."""
        types = self.rule.types_of_product(path)
        if types is None:
            return self.inner.einsum(equation, lhs, rhs, path, key)

        def product(lhs: Array, rhs: Array, dimension_numbers: Any, *_: Any, **__: Any) -> Array:
            narrow = library(self.rule.backend).product
            return narrow(lhs, rhs, dimension_numbers, types, key if self.needs_key else None)

        return jnp.einsum(equation, lhs, rhs, _dot_general=product)


@dataclasses.dataclass(frozen=True)
class WatchingDots(Dots):
    """The products of `inner`; notes the largest magnitude of each layer's input, while it is traced."""

    inner: Dots
    largest: dict[str, Array] = dataclasses.field(hash=False, compare=False)

    def with_kernel(self, x: Array, kernel: Kernel, path: str, key: Array | None = None) -> Array:
        """Returns what `inner` does."""
        if not path.endswith("/state"):  # inside a scan, whose values end with it: a row's scale is found there
            value = jnp.max(jnp.abs(x)).astype(jnp.float32)
            self.largest[path] = jnp.maximum(self.largest[path], value) if path in self.largest else value
        return self.inner.with_kernel(x, kernel, path, key)


def pack(values_IO: Array) -> Array:
    """Returns four-bit integers [I, O], two a byte: row i in the lower half, row i + ceil(I / 2) in the upper."""
    padded = jnp.pad(values_IO.astype(jnp.int8), ((0, values_IO.shape[0] % 2), (0, 0)))
    lower, upper = jnp.split(padded, 2)
    return (lower & 15) | (upper << 4)


def unpack(packed: Array, n_inputs: int) -> Array:
    """Returns the int8 values [I, O] of what `pack` made."""
    lower = jax.lax.shift_right_arithmetic(packed << 4, jnp.int8(4))
    upper = jax.lax.shift_right_arithmetic(packed, jnp.int8(4))
    return jnp.concatenate([lower, upper])[:n_inputs]


@functools.cache
def library(name: str) -> types.ModuleType:
    """Returns the library's file; it is imported here, because it takes a second."""
    if name == "aqt":
        from recjax.transforms import aqt_dots

        return aqt_dots
    try:
        from recjax.transforms import qwix_dots
    except ImportError as error:
        raise UserError(f"quantize backend 'qwix' needs the package qwix ({error}); pip install qwix") from error
    return qwix_dots
