"""How many of a model's kernel values are zeros that are still stored, and how many are stored no more.

Shapes: I inputs, O outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.transforms.layers import dense_layers
from recjax.transforms.paths import Params, flatten, kernel_of

_QUANTIZED = ("values", "packed")  # the parts of a form that hold a kernel's values
_OTHER_PARTS = ("scale", "input_scale", "indices", "indptr")


def sparsity_report(float_params: Params, params: Params) -> dict[str, Any]:
    """Returns shares of the values of the float model's kernels, all dense layers' but no tables'.

    "masked_share": zeros that are stored, and multiplied like other values. Rounding to integers makes some too.
    "realised_share": values that are stored no more, because a unit, a layer or a sparse row's zero is gone or factors
    stand in a kernel's place; negative where more is stored.

    Args:
      float_params: of the model before any transform; shapes will do.
      params: of the final model, in whatever forms.
    """
    total = sum(layer.shape[0] * layer.shape[1] for layer in dense_layers(float_params).values())
    stored = zeros = 0
    for path, leaf in flatten(params).items():
        parameter, _, part = path.rpartition("/")
        if part in _OTHER_PARTS or not _holds_kernel(path, parameter, part):
            continue
        values = _nibbles(leaf) if part == "packed" else leaf
        stored += values.size
        zeros += int(jnp.sum(values == 0)) if part != "data" else 0
    share = 1 / total if total else 0.0
    return {"masked_share": zeros * share, "realised_share": 1 - stored * share if total else 0.0}


def _holds_kernel(path: str, parameter: str, part: str) -> bool:
    return kernel_of(path) is not None or (part in (*_QUANTIZED, "data") and kernel_of(parameter) is not None)


def _nibbles(packed: jax.Array) -> jax.Array:
    """Returns the four-bit values of bytes, two a byte."""
    return jnp.concatenate([packed & 15, (packed >> 4) & 15])
