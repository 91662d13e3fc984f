"""recjax itself: the model compiled ahead of time for each batch size, as the suites serve it.

Shapes: B batch, T the fields' bag lengths summed, D embedding dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jaxtyping import Array

from benchmarks.peers.workloads import Answer, BagSizes, SASRecSizes, Sizes, Task
from recjax.data.features import Field, LabelledSchema
from recjax.data.next_item import NextItemSchema
from recjax.models.contract import Batch
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.sasrec import SASRecConfig
from recjax.nn.embedding import Embedding
from recjax.serving.compiled import CompiledModel


class Bags(nn.Module):
    """Lookups alone, by the layer that recjax's models have; batches hold `sparse_ids` [B, T]."""

    schema: LabelledSchema
    embedding_dim: int

    @nn.compact
    def serve(self, batch: Batch, *, top_k: int) -> dict[str, Array]:
        """Returns `bags` [B, tables x D]; `top_k` has no meaning."""
        del top_k
        bags = [
            Embedding(field.vocab_size, self.embedding_dim, field.combiner, name=f"table_{field.name}")(ids_BL)
            for field, ids_BL in self.schema.split_fields(batch["sparse_ids"])
        ]
        return {"bags": jnp.concatenate(bags, axis=1)}


def build_model(sizes: Sizes) -> Any:
    """Returns recjax's module of those sizes."""
    if isinstance(sizes, SASRecSizes):
        config = SASRecConfig(embedding_dim=sizes.dim, heads=sizes.heads, head_dim=0, mlp_dims=sizes.mlp_dims)
        return config.build(NextItemSchema(sizes.items, sizes.history))
    if isinstance(sizes, BagSizes):
        return Bags(_schema(sizes.tables, sizes.rows, sizes.bag_length, 0), sizes.dim)
    dlrm = DLRMDCNv2Config(
        embedding_dim=sizes.dim, bottom_mlp=sizes.bottom_mlp, cross_ranks=sizes.cross_ranks, top_mlp=sizes.top_mlp
    )
    return dlrm.build(_schema(sizes.tables, sizes.rows, 1, sizes.n_dense))


def top_k_of(sizes: Sizes) -> int:
    """Returns how many items an answer has; 1 where it has none."""
    return sizes.top_k if isinstance(sizes, SASRecSizes) else 1


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that compiles the task for a batch size."""
    answer = functools.partial(build_model(task.sizes).apply, top_k=top_k_of(task.sizes), method="serve")
    params = unflatten_dict(dict(task.weights), sep="/")
    variables = jax.device_put({"params": params})

    def compile_for(batch_size: int) -> Answer:
        compiled = CompiledModel(answer, variables, task.columns, (batch_size,))
        return functools.partial(compiled, task.columns)

    return compile_for


def _schema(tables: int, rows: int, length: int, n_dense: int) -> LabelledSchema:
    fields = (Field(f"c{index:02d}", rows, length, "sum") for index in range(tables))
    return LabelledSchema(n_dense, tuple(fields))
