"""In which types a quantized product runs: what both quantization libraries are told."""

import dataclasses
from typing import Literal

Type = Literal["int8", "int4", "fp8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotTypes:
    """The types of one product's operands.

    Attributes:
      weights: of the kernel, or of the right operand of a product of activations. "fp8" is e4m3.
      activations: of the left operand; None leaves it float.
      gradients: of both operands in both backward products; None leaves those float. "fp8" is e5m2 there. Qwix gives
        the type to the incoming gradient alone; the other operand stays as the forward product has it.
      stochastic_rounding: whether gradients are rounded up or down by chance, so that small ones survive on average.
      per_tensor: one scale for a whole kernel in the place of one an output.
    """

    weights: Type
    activations: Type | None
    gradients: Type | None = None
    stochastic_rounding: bool = False
    per_tensor: bool = False
