"""One training step whose embedding gradients are rows: nothing that it computes is of the tables' size.

The loss is differentiated with respect to the rows that the batch looks up, the table itself being no input of it;
duplicate ids are combined, and only those rows of the donated table and of its slots are written. Everything
else goes through the optimizer of `recjax.training.optimizer` as ever.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.errors import UserError
from recjax.models.contract import Batch
from recjax.replicas import batch_mean
from recjax.training.distillation import Teacher, ask_teacher
from recjax.training.fixed import join_fixed, split_fixed
from recjax.training.lookups import REMEDY, Lookups, Tables, find_lookups, given_rows, split_tables
from recjax.training.optimizer import TableOptimizer
from recjax.training.step import ONE_DEVICE, StepDevices, TrainState, TrainStep, is_solved, make_loss
from recjax.training.table_store import WHOLE_TABLES, RowStep, TableStore
from recjax.transforms.paths import FlatParams
from recjax.transforms.protocol import Params


class SparseOptState(NamedTuple):
    """What the optimizers remember: of the dense parameters, and of the tables in the form of their store."""

    dense: Any
    slots: Any


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
    store: TableStore = WHOLE_TABLES,
    devices: StepDevices = ONE_DEVICE,
) -> TrainStep:
    """Returns the compiled `(state, batch) -> (state, loss)`; the state passed in is donated.

    Args:
      module: looks its tables up by `Embedding` alone; one that uses a whole table raises UserError at its first step.
      optimizer: of all parameters but the tables, without clipping; it sees them by path, not nested.
      tables: of the tables. Its clipping is of all gradients together, as it is where tables are dense.
      seed: of the dropout keys, which are those of `recjax.training.step`.
      teacher: whose scores the loss takes as soft targets; None has labels alone.
      store: of the tables, and so the form of the state's parameters and slots.
      devices: that take the step.

    Raises:
      UserError: the module is solved, without gradients.
    """
    if is_solved(module):
        raise UserError(f"{type(module).__name__} is solved and has no gradient whose rows could be taken; {REMEDY}")

    whole_loss = make_loss(module, teacher)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        key = devices.draws(seed, state.step)
        batch = ask_teacher(teacher, batch, jax.random.fold_in(key, 1)) if teacher else batch
        stored, others, by_path = store.split(state.params)
        dense, fixed = split_fixed(others)

        def loss_of(dense: FlatParams, tables: Tables) -> jax.Array:
            params = store.nested(state.params, {**join_fixed(dense, fixed), **tables})
            return whole_loss(params, batch, state.step, key)

        def loss_given_rows(dense: FlatParams, rows: Lookups) -> jax.Array:
            with given_rows(rows, bags=store.bags):
                return loss_of(dense, by_path)

        ids = find_lookups(lambda tables: loss_of(dense, tables), by_path, type(module).__name__, bags=store.bags)
        rows, kept = store.read(stored, ids)
        loss, (dense_grads, row_grads) = jax.value_and_grad(loss_given_rows, argnums=(0, 1))(dense, rows)
        dense_grads = batch_mean(dense_grads)
        scale: jax.Array | float = 1.0
        if tables.max_grad_norm:
            squares = store.squared_norm(stored, ids, kept, row_grads)
            norm = jnp.sqrt(optax.tree.norm(dense_grads, squared=True) + squares)
            scale = tables.max_grad_norm / jnp.maximum(norm, tables.max_grad_norm)
            dense_grads = jax.tree.map(lambda grad: grad * scale, dense_grads)
        updates, dense_state = optimizer.update(dense_grads, state.opt_state.dense, dense)
        dense = join_fixed(optax.apply_updates(dense, updates), fixed)
        step = RowStep(tables.rule, state.step, tables.learning_rate(state.step), scale)
        stored, slots = store.update(stored, state.opt_state.slots, ids, kept, row_grads, step)
        params = store.join(state.params, stored, dense)
        return TrainState(state.step + 1, params, SparseOptState(dense_state, slots)), loss

    return devices.compile(train_step)
