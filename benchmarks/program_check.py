"""Whether a quantized model's compiled program is what its row says: narrow products, and no float copy of a kernel."""

import collections
import re
from collections.abc import Mapping
from typing import Any

from recjax.serving.compiled import Program
from recjax.training.final_model import FinalModel
from recjax.transforms.paths import flatten
from recjax.transforms.quantize import Quantize

_WIDE = re.compile(r"(f32|f16|bf16) x (f32|f16|bf16) ")
_XLA_TYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3fn",
    "int4": "s4",
    "int8": "s8",
    "uint8": "u8",
    "int32": "s32",
    "uint32": "u32",
    "bool": "pred",
}


def quantization_fault(model: FinalModel, program: Program, columns: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with the compiled program of a quantized model, None if nothing is or it is not quantized.

    It must read nothing beside the stored variables and the request, so that a kernel stored as integers is read as
    integers; it must ask for a narrow product for each such kernel, unless activations stay float; and the compiler
    must not have made floats of integers. It may widen them, as XLA does at batch 1 on a CPU, and make floats of fp8
    where the device has none: the row's `products` show that.

    Args:
      model: what was compiled.
      program: of one batch size.
      columns: the request columns it was compiled for.
    """
    quantized = [member for member in model.transform.members if isinstance(member, Quantize)]
    if not quantized:
        return None
    kernels = model.report.details[quantized[0].label]["kernels"]
    flat = flatten(model.variables)
    floats = [path for path in kernels if f"params/{path}" in flat]
    if floats:
        return f"{', '.join(floats)} should be quantized and is stored as floats"
    if program.arguments is None:
        return None
    known = collections.Counter(_described(leaf.dtype, _shape_on_a_device(leaf)) for leaf in flat.values())
    samples = program.batch_size // program.shares
    known += collections.Counter(_described(c.dtype, (samples, *c.shape[1:])) for c in columns.values())
    if beside := collections.Counter(program.arguments) - known:
        return f"the program reads {', '.join(sorted(beside))} beside the stored variables and the request"
    if quantized[0].weight_only:
        return None
    asked_for, made = program.products_asked_for, program.products
    if (found := sum(asked_for.values()) - _floats(asked_for)) < len(kernels):
        return f"the program has {found} narrow products for {len(kernels)} quantized kernels"
    of_integers = not any("f8" in kind for kind in asked_for)
    if made is not None and of_integers and _floats(made) > _floats(asked_for):
        return f"the compiler made {_floats(made)} float products of {_floats(asked_for)}"
    return None


def _floats(products: Mapping[str, int]) -> int:
    """Returns how many of the products are of wide floats on both sides."""
    return sum(number for kind, number in products.items() if _WIDE.match(kind))


def _shape_on_a_device(leaf: Any) -> tuple[int, ...]:
    return leaf.sharding.shard_shape(leaf.shape) if hasattr(leaf, "sharding") else leaf.shape


def _described(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{_XLA_TYPES[str(dtype)]}[{','.join(map(str, shape))}]"
