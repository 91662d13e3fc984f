"""How often training looks each row of each table up, which is how popular it is.

Shapes: V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from recjax.config import Training
from recjax.data.batches import prefetch_to_device
from recjax.evaluation import Data
from recjax.models.contract import Batch
from recjax.training.lookups import Tables, find_lookups, given_rows, split_tables
from recjax.training.step import is_solved
from recjax.transforms.paths import FlatParams, unflatten_like
from recjax.transforms.protocol import Params


def count_rows(module: Any, params: Params, data: Data, training: Training) -> dict[str, NDArray[np.int32]]:
    """Returns, by the table's path as in "table_user", how often one epoch looks each row up, [V].

    A lookup counts if the loss has a gradient there: padding and samples of weight 0 look rows up too. Drawn negatives
    count like everything else. A table of which the loss takes the whole and no rows, and each one of a model that is
    solved, has zeros. Tables in another form than an array are left out.
    """
    tables, dense = split_tables(params)
    counts = {path: jnp.zeros(len(table), jnp.int32) for path, table in tables.items()}
    context = jax.device_put(dict(data.context))

    def loss_of(tables: Tables, dense: FlatParams, batch: Batch) -> jax.Array:
        known = {**batch, "step": jnp.zeros([], jnp.int32)}
        rngs = {"dropout": jax.random.key(training.seed)}
        variables = {"params": unflatten_like(params, {**dense, **tables})}
        return module.apply(variables, known, train=False, method="loss", rngs=rngs)

    # Parameters are arguments: those of several processes may not be closed over.
    def add(counts: dict[str, jax.Array], tables: Tables, dense: FlatParams, batch: Batch) -> dict[str, jax.Array]:
        ids = find_lookups(lambda tables: loss_of(tables, dense, batch), tables, type(module).__name__, rows_only=False)
        rows = {path: [tables[path].at[i].get(mode="promise_in_bounds") for i in ids[path]] for path in ids}

        def loss_given_rows(rows: dict[str, list[jax.Array]]) -> jax.Array:
            with given_rows(rows):
                return loss_of(tables, dense, batch)

        counts = dict(counts)
        for path, grads in jax.grad(loss_given_rows)(rows).items():
            for of_lookup, grad in zip(ids[path], grads, strict=True):
                is_used = jnp.any(grad != 0, axis=-1).astype(jnp.int32)
                counts[path] = counts[path].at[of_lookup].add(is_used, mode="promise_in_bounds")
        return counts

    if tables and not is_solved(module):
        add_batch = jax.jit(add, donate_argnums=0)
        for batch in prefetch_to_device(data.train_batches(training.batch_size, training.seed, 1)):
            counts = add_batch(counts, tables, dense, {**batch, "context": context} if context else batch)
    return {path.removesuffix("table").rstrip("/"): np.asarray(count) for path, count in counts.items()}
