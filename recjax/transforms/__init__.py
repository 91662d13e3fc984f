"""Quantize, prune, shrink, precision; and `chain`, which composes them."""

from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

__all__ = ["bf16", "chain", "prune", "quantize", "shrink"]
