"""Transforms from what `Transform.to_json` wrote: the "transforms" of a checkpoint's metadata or of a result row."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from recjax.config import check, from_dict
from recjax.errors import UserError, unknown_name
from recjax.transforms.compress_embeddings import CompressEmbeddings
from recjax.transforms.distill import Distill
from recjax.transforms.low_rank import LowRank
from recjax.transforms.mixed_precision import MixedPrecision
from recjax.transforms.precision import BF16
from recjax.transforms.protocol import Chain, Transform, chain
from recjax.transforms.prune import Prune
from recjax.transforms.quantize import Quantize
from recjax.transforms.shrink import Shrink
from recjax.transforms.sparse_layout import SparseLayout

KNOWN: dict[str, type[Transform]] = {
    "bf16": BF16,
    "compress_embeddings": CompressEmbeddings,
    "distill": Distill,
    "low_rank": LowRank,
    "mixed_precision": MixedPrecision,
    "prune": Prune,
    "quantize": Quantize,
    "shrink": Shrink,
    "sparse_layout": SparseLayout,
}


def from_json(transforms: Any) -> Chain:
    """Returns the chain of a list that `to_json` wrote, a dict a transform: its name at "transform", and its fields.

    Fields that are left out have their defaults.

    Raises:
      UserError: no such transform or field, a value that it cannot have, or an order that is not legal.
    """
    check(isinstance(transforms, list | tuple), "transforms", transforms, "a list of what to_json gives")
    return chain(*map(_member, transforms))


def _member(values: Any) -> Transform:
    if not isinstance(values, Mapping) or not isinstance(values.get("transform"), str):
        raise UserError(f"{values!r} is no transform; it is a dict with its name at 'transform', as to_json gives it")
    name = values["transform"]
    if name not in KNOWN:
        raise unknown_name("transform", name, KNOWN)
    fields = {key: _with_tuples(value) for key, value in values.items() if key != "transform"}
    required = [field.name for field in dataclasses.fields(KNOWN[name]) if field.default is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [field for field in required if field not in fields]:
        raise UserError(f"transform {name!r} lacks {', '.join(missing)}, which has no default")
    return from_dict(KNOWN[name], fields)


def _with_tuples(value: Any) -> Any:
    """Returns the value with tuples for JSON's lists: a config holds no list, and may hold tuples of any type."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
