"""One training step whose embedding gradients are rows: nothing that it computes is of the tables' size.

The loss is differentiated with respect to the rows that the batch looks up, the table itself being no input of it;
duplicate ids are combined, and only those rows of the donated table and of its slots are written. Everything
else goes through the optimizer of `recjax.training.optimizer` as ever.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.errors import UserError
from recjax.models.contract import Batch
from recjax.training.distillation import Teacher, ask_teacher
from recjax.training.fixed import join_fixed, split_fixed
from recjax.training.lookups import REMEDY, Tables, find_lookups, given_rows, split_tables
from recjax.training.optimizer import TableOptimizer
from recjax.training.row_updates import Slots, combine_duplicates, update_rows
from recjax.training.step import TrainState, is_solved, make_loss
from recjax.transforms.paths import unflatten_like
from recjax.transforms.protocol import Params


class SparseOptState(NamedTuple):
    """What the optimizers remember: of the dense parameters, and of each table by its path."""

    dense: Any
    slots: dict[str, Slots]


def init_sparse_state(params: Params, optimizer: optax.GradientTransformation, tables: TableOptimizer) -> TrainState:
    """Returns the state before the first step; it owns copies, because steps donate it.

    Raises:
      UserError: there is no table among the parameters.
    """
    params = jax.tree.map(jnp.copy, params)
    by_path, dense = split_tables(params)
    if not by_path:
        raise UserError(f"training.table_optimizer needs a model with an embedding table; {REMEDY}")
    slots = {path: tables.rule.init(table) for path, table in by_path.items()}
    return TrainState(jnp.zeros([], jnp.int32), params, SparseOptState(optimizer.init(split_fixed(dense)[0]), slots))


def make_sparse_train_step(
    module: Any,
    optimizer: optax.GradientTransformation,
    tables: TableOptimizer,
    seed: int,
    teacher: Teacher | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """Returns the compiled `(state, batch) -> (state, loss)`; the state passed in is donated.

    Args:
      module: looks its tables up by `Embedding` alone; one that uses a whole table raises UserError at its first step.
      optimizer: of all parameters but the tables, without clipping; it sees them by path, not nested.
      tables: of the tables. Its clipping is of all gradients together, as it is where tables are dense.
      teacher: whose scores the loss takes as soft targets; None has labels alone.
      seed: of the dropout keys, which are those of `recjax.training.step`.

    Raises:
      UserError: the module is solved, without gradients.
    """
    if is_solved(module):
        raise UserError(f"{type(module).__name__} is solved and has no gradient whose rows could be taken; {REMEDY}")

    whole_loss = make_loss(module, teacher)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed, impl="unsafe_rbg"), state.step)
        batch = ask_teacher(teacher, batch, jax.random.fold_in(key, 1)) if teacher else batch
        by_path, others = split_tables(state.params)
        dense, fixed = split_fixed(others)

        def loss_of(dense: dict[str, jax.Array], tables: Tables) -> jax.Array:
            params = unflatten_like(state.params, {**join_fixed(dense, fixed), **tables})
            return whole_loss(params, batch, state.step, key)

        def loss_given_rows(dense: dict[str, jax.Array], rows: dict[str, list[jax.Array]]) -> jax.Array:
            with given_rows(rows):
                return loss_of(dense, by_path)

        ids = find_lookups(lambda tables: loss_of(dense, tables), by_path, type(module).__name__)
        rows = {path: [by_path[path].at[i].get(mode="promise_in_bounds") for i in ids[path]] for path in ids}
        loss, (dense_grads, row_grads) = jax.value_and_grad(loss_given_rows, argnums=(0, 1))(dense, rows)
        combined = {path: combine_duplicates(ids[path], row_grads[path], len(by_path[path])) for path in ids}
        if tables.max_grad_norm:
            norm = optax.tree.norm((dense_grads, [gradient.rows for gradient in combined.values()]))
            scale = tables.max_grad_norm / jnp.maximum(norm, tables.max_grad_norm)
            dense_grads = jax.tree.map(lambda grad: grad * scale, dense_grads)
            combined = {path: grad._replace(rows=grad.rows * scale) for path, grad in combined.items()}
        updates, dense_state = optimizer.update(dense_grads, state.opt_state.dense, dense)
        dense = join_fixed(optax.apply_updates(dense, updates), fixed)
        flat, slots = {**by_path, **dense}, dict(state.opt_state.slots)
        for path, gradient in combined.items():
            rate = tables.learning_rate(state.step)
            flat[path], slots[path] = update_rows(tables.rule, flat[path], slots[path], gradient, state.step, rate)
        new = TrainState(state.step + 1, unflatten_like(state.params, flat), SparseOptState(dense_state, slots))
        return new, loss

    return jax.jit(train_step, donate_argnums=0)
