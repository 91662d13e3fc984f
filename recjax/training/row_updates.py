"""Optimizers that touch only the rows of a table that a batch looked up.

A row is touched if its gradient, duplicate ids combined, is not all zeros: padding and samples of weight 0 look
rows up too, and must not move them. Rows that are not touched keep every bit, of their slots as well.

Shapes: N ids looked up, U slots for distinct rows, D embedding dim, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from recjax.nn.running import running_sum
from recjax.parallel.table_exchange import OverColumns, all_columns_here

Slots = dict[str, Array]  # of a table, by name: [V] or [V, 2 D]; within an update their touched rows


class RowUpdate(NamedTuple):
    """An optimizer of rows, as two pure functions.

    Attributes:
      init: table [V, D] -> its slots before the first step.
      update: (gradient [U, D], the rows' slots, step from 0, learning rate, `OverColumns`) -> what to add to the rows
        [U, D], and the rows' new slots.
    """

    init: Callable[[Array], Slots]
    update: Callable[[Array, Slots, Array, Array, OverColumns], tuple[Array, Slots]]


class RowGradient(NamedTuple):
    """A table's gradient by distinct rows.

    Attributes:
      ids: distinct and ascending; slots without a row hold ids of V and more, which gathers clip and scatters drop.
      rows: the gradient of each of those rows.
      is_touched: whether it is not all zeros.
    """

    ids: Int32[Array, "U"]
    rows: Float[Array, "U D"]
    is_touched: Bool[Array, "U"]


def sgd() -> RowUpdate:
    """Returns plain gradient descent: row -= learning rate x gradient."""
    return RowUpdate(lambda table_VD: {}, lambda grad_UD, slots, step, rate, over: (-rate * grad_UD, slots))


def rowwise_adagrad(epsilon: float = 1e-8) -> RowUpdate:
    """Returns Adagrad with one accumulator a row, which gathers the mean over D of the squared gradient.

    row -= learning rate x gradient / (sqrt(accumulator) + epsilon). The step that a row takes depends on its own
    past alone, so a rare row's first steps are as long as a common row's first steps were.

    Source: Mudigere et al., Software-Hardware Co-design for Fast and Scalable Training of Deep Learning
    Recommendation Models (arXiv 2104.05158), whose tables are trained so.
    """

    def update(
        grad_UD: Array, slots: Slots, step: Array, rate: Array, over_columns: OverColumns
    ) -> tuple[Array, Slots]:
        del step
        sum_U = slots["sum_of_squares"] + over_columns(jnp.mean(jnp.square(grad_UD), axis=1))
        return -rate * grad_UD / (jnp.sqrt(sum_U) + epsilon)[:, None], {"sum_of_squares": sum_U}

    return RowUpdate(lambda table_VD: {"sum_of_squares": jnp.zeros(table_VD.shape[0], jnp.float32)}, update)


def lazy_adam(b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> RowUpdate:
    """Returns Adam whose moments of a row decay only in the steps that touch it.

    Bias is corrected by the number of the training step, as if a row had been touched in all of them: a row that is
    touched in every step moves exactly as under Adam, and a row whose first gradient comes late takes a longer first
    step, up to (1 - b1) / sqrt(1 - b2) = 3.2 learning rates instead of one.

    Source: Kingma and Ba, Adam (arXiv 1412.6980), algorithm 1, with the moments kept as they are in between.
    """

    def init(table_VD: Array) -> Slots:
        # One array, so that a row's two moments are one miss of cache and page tables instead of two.
        return {"moments": jnp.zeros((table_VD.shape[0], 2 * table_VD.shape[1]), jnp.float32)}

    def update(
        grad_UD: Array, slots: Slots, step: Array, rate: Array, over_columns: OverColumns
    ) -> tuple[Array, Slots]:
        del over_columns
        old_mean_UD, old_square_UD = jnp.split(slots["moments"], 2, axis=1)
        mean_UD = b1 * old_mean_UD + (1 - b1) * grad_UD
        square_UD = b2 * old_square_UD + (1 - b2) * jnp.square(grad_UD)
        count = (step + 1).astype(jnp.float32)
        unbiased_UD = mean_UD / (1 - b1**count)
        scale_UD = jnp.sqrt(square_UD / (1 - b2**count)) + epsilon
        return -rate * unbiased_UD / scale_UD, {"moments": jnp.concatenate([mean_UD, square_UD], axis=1)}

    return RowUpdate(init, update)


def combine_duplicates(
    ids: Sequence[Int[Array, "..."]],
    grads: Sequence[Float[Array, "..."]],
    vocab_size: int,
    over_columns: OverColumns = all_columns_here,
    *,
    in_order: bool = False,
) -> RowGradient:
    """Returns the gradient of each distinct row: the sum over all places where it was looked up, in float32.

    Everything in it is of the size of the lookups; nothing is of the size of the table.

    Args:
      ids: of each lookup, of any shape, in [0, vocab_size).
      grads: of each lookup's rows, [..., D].
      vocab_size: V; it and the number of ids together must stay below 2^31.
      over_columns: where a device has some columns of each row: whether a row is touched is for all of them to say.
      in_order: whether gradients are brought into the order of ids before they are added up. XLA for TPUs sorts for
        every scatter that is not known to be in order, and is most of a minute compiling that; a CPU only has to
        move more.
    """
    ids_N = jnp.concatenate([i.reshape(-1) for i in ids]).astype(jnp.int32)
    grads_ND = jnp.concatenate([g.reshape(-1, g.shape[-1]) for g in grads]).astype(jnp.float32)
    n_slots = min(len(ids_N), vocab_size)
    # Empty slots get distinct ids behind the table: the scatters promise that no id stands twice.
    outside_U = vocab_size + jnp.arange(n_slots, dtype=jnp.int32)
    sorted_N, order_N = jax.lax.sort((ids_N, jnp.arange(len(ids_N), dtype=jnp.int32)), num_keys=1)
    is_first_N = jnp.concatenate([jnp.ones(1, bool), sorted_N[1:] != sorted_N[:-1]])
    slot_N = running_sum(is_first_N.astype(jnp.int32)) - 1
    ids_U = outside_U.at[slot_N].set(sorted_N, mode="promise_in_bounds", indices_are_sorted=True)
    if in_order:
        grads_ND = grads_ND.at[order_N].get(mode="promise_in_bounds", unique_indices=True)
    else:
        slot_N = jnp.zeros_like(ids_N).at[order_N].set(slot_N, mode="promise_in_bounds", unique_indices=True)
    zeros_UD = jnp.zeros((n_slots, grads_ND.shape[1]))
    rows_UD = zeros_UD.at[slot_N].add(grads_ND, mode="promise_in_bounds", indices_are_sorted=in_order)
    is_touched_U = over_columns(jnp.any(rows_UD != 0, axis=1).astype(jnp.float32)) > 0
    return RowGradient(ids_U, rows_UD, is_touched_U & (ids_U < vocab_size))


def update_rows(
    rule: RowUpdate,
    table_VD: Float[Array, "V D"],
    slots: Slots,
    gradient: RowGradient,
    step: Int32[Array, ""],
    learning_rate: Float32[Array, ""] | float,
    over_columns: OverColumns = all_columns_here,
) -> tuple[Float[Array, "V D"], Slots]:
    """Returns the table and its slots with the gradient's touched rows updated; in place where both are donated.

    A table may hold some columns of each row, and other devices the rest: `over_columns` then averages over them.
    """
    ids_U, is_touched_U = gradient.ids, gradient.is_touched

    def of_touched(new: Array, other: Array | float) -> Array:
        return jnp.where(is_touched_U.reshape((-1,) + (1,) * (new.ndim - 1)), new, other)

    old = {name: slot.at[ids_U].get(mode="clip") for name, slot in slots.items()}
    added_UD, new = rule.update(gradient.rows, old, step, jnp.asarray(learning_rate), over_columns)
    added_UD = of_touched(added_UD, -0.0).astype(table_VD.dtype)  # which leaves every number as it is, 0 and -0 too
    ordered: dict[str, Any] = {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}
    table_VD = table_VD.at[ids_U].add(added_UD, **ordered)
    slots = {name: slots[name].at[ids_U].set(of_touched(new[name], old[name]), **ordered) for name in slots}
    return table_VD, slots
