"""The transforms; `chain`, which composes them, `explain`, which tells what one does, and `from_json`."""

from recjax.transforms.compress_embeddings import compress_embeddings
from recjax.transforms.distill import distill
from recjax.transforms.explain import explain
from recjax.transforms.low_rank import low_rank
from recjax.transforms.mixed_precision import mixed_precision
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.serialised import from_json
from recjax.transforms.shrink import shrink
from recjax.transforms.sparse_layout import sparse_layout

__all__ = [
    "bf16",
    "chain",
    "compress_embeddings",
    "distill",
    "explain",
    "from_json",
    "low_rank",
    "mixed_precision",
    "prune",
    "quantize",
    "shrink",
    "sparse_layout",
]
