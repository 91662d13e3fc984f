"""Row updates against plain NumPy loops: duplicates, padding, and rows that nobody looked up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.training.row_updates import RowUpdate, combine_duplicates, lazy_adam, rowwise_adagrad, sgd, update_rows

RULES: dict[str, Callable[[], RowUpdate]] = {"sgd": sgd, "rowwise_adagrad": rowwise_adagrad, "lazy_adam": lazy_adam}
V, D, RATE = 11, 3, 0.5


def numpy_step(name: str, table: np.ndarray, slots: dict[str, np.ndarray], grad: dict[int, Any], step: int) -> None:
    """Updates rows one by one, in place, as the formulas in the docstrings say."""
    for row, g in grad.items():
        if name == "sgd":
            table[row] -= RATE * g
        elif name == "rowwise_adagrad":
            slots["sum_of_squares"][row] += np.mean(g**2)
            table[row] -= RATE * g / (np.sqrt(slots["sum_of_squares"][row]) + 1e-8)
        else:
            mean, square = slots["moments"][row, :D], slots["moments"][row, D:]  # views
            mean[:] = 0.9 * mean + 0.1 * g
            square[:] = 0.999 * square + 0.001 * g**2
            b1, b2, count = np.float32(0.9), np.float32(0.999), np.float32(step + 1)  # 1 - b2 loses digits, as in optax
            table[row] -= RATE * (mean / (1 - b1**count)) / (np.sqrt(square / (1 - b2**count)) + 1e-8)


def summed(ids: np.ndarray, grads: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the summed gradient of each id; ids whose sum is all zeros are left out."""
    sums = {int(i): grads[ids == i].sum(0) for i in np.unique(ids)}
    return {i: g for i, g in sums.items() if g.any()}


@pytest.mark.parametrize("name", RULES)
def test_rules_agree_with_numpy_and_spare_rows_that_are_not_looked_up(name: str):
    rule, rng = RULES[name](), np.random.default_rng(0)
    table = rng.normal(size=(V, D)).astype(np.float32)
    jax_table, jax_slots = jnp.asarray(table), rule.init(jnp.asarray(table))
    start, slots = table.copy(), {key: np.array(slot) for key, slot in jax_slots.items()}
    step_of = jax.jit(
        lambda table, slots, ids, grads, step: update_rows(
            rule, table, slots, combine_duplicates([ids], [grads], V), step, RATE
        )
    )
    for step in range(5):
        ids = rng.choice([0, 2, 3, 7, 10], 8).astype(np.int32)  # 8 of 5 rows: there are always duplicates
        grads = rng.normal(size=(8, D)).astype(np.float32)
        grads[ids == 0] = 0  # where an Embedding looks padding up
        jax_table, jax_slots = step_of(jax_table, jax_slots, ids, grads, jnp.int32(step))
        numpy_step(name, table, slots, summed(ids, grads), step)
        np.testing.assert_allclose(jax_table, table, rtol=1e-5, atol=1e-6)
        for key, slot in slots.items():
            np.testing.assert_allclose(jax_slots[key], slot, rtol=1e-5, atol=1e-7)
    spared = [0, 1, 4, 5, 6, 8, 9]
    np.testing.assert_array_equal(np.asarray(jax_table)[spared], start[spared])
    assert not any(np.asarray(slot)[spared].any() for slot in jax_slots.values())
    assert (np.asarray(jax_table)[[2, 3, 7, 10]] != start[[2, 3, 7, 10]]).all()


def test_an_untouched_rows_moments_do_not_decay():
    rule = lazy_adam()
    table = jnp.ones((V, D))
    slots = rule.init(table)
    gradients = [combine_duplicates([jnp.array([i])], [jnp.ones((1, D))], V) for i in (4, 5)]
    table, slots = update_rows(rule, table, slots, gradients[0], jnp.int32(0), RATE)
    row, moments = np.asarray(table[4]), {key: np.asarray(slot[4]) for key, slot in slots.items()}
    np.testing.assert_allclose(row, 1 - RATE, rtol=1e-5)  # Adam's first step is the learning rate
    table, slots = update_rows(rule, table, slots, gradients[1], jnp.int32(1), RATE)
    np.testing.assert_array_equal(table[4], row)
    for key, moment in moments.items():
        np.testing.assert_array_equal(slots[key][4], moment)


def test_lazy_adam_is_adam_for_rows_that_every_step_touches():
    rule, rng = lazy_adam(), np.random.default_rng(0)
    table = expected = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
    slots, adam = rule.init(table), optax.adam(RATE)
    state = adam.init(expected)
    for step in range(4):
        grads = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
        updates, state = adam.update(grads, state)
        expected = optax.apply_updates(expected, updates)
        gradient = combine_duplicates([jnp.arange(V)], [grads], V)
        table, slots = update_rows(rule, table, slots, gradient, jnp.int32(step), RATE)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)


def test_a_late_first_touch_of_lazy_adam_takes_a_longer_step_as_documented():
    rule = lazy_adam()
    gradient = combine_duplicates([jnp.array([4])], [jnp.ones((1, D))], V)
    table, _ = update_rows(rule, jnp.zeros((V, D)), rule.init(jnp.zeros((V, D))), gradient, jnp.int32(100_000), 1.0)
    np.testing.assert_allclose(table[4], -0.1 / np.sqrt(0.001), rtol=1e-3)


def test_duplicates_of_several_lookups_are_combined_by_hand():
    first = jnp.array([[5, 2], [5, 0]]), jnp.array([[[1.0], [2.0]], [[3.0], [0.0]]])
    second = jnp.array([2, 9]), jnp.array([[10.0], [20.0]])
    gradient = combine_duplicates([first[0], second[0]], [first[1], second[1]], V)
    # Slots are sorted by id: 0 (untouched: its gradient is zero), 2, 5, 9; two are left over.
    assert gradient.ids.tolist() == [0, 2, 5, 9, V + 4, V + 5]
    assert gradient.rows[:, 0].tolist() == [0, 12, 4, 20, 0, 0]
    assert gradient.is_touched.tolist() == [False, True, True, True, False, False]
    in_order = combine_duplicates([first[0], second[0]], [first[1], second[1]], V, in_order=True)
    assert [part.tolist() for part in in_order] == [part.tolist() for part in gradient]


def test_gradients_that_cancel_leave_the_row_alone():
    gradient = combine_duplicates([jnp.array([3, 3])], [jnp.array([[1.0, -2.0], [-1.0, 2.0]])], V)
    assert not gradient.is_touched.any()


def test_a_short_table_needs_no_more_slots_than_it_has_rows():
    ids = jnp.array([0, 1, 1, 0, 1, 0, 0])
    gradient = combine_duplicates([ids], [jnp.ones((7, 1))], 2)
    assert gradient.ids.tolist() == [0, 1]
    assert gradient.rows[:, 0].tolist() == [4, 3]


def test_bfloat16_gradients_are_summed_in_float32():
    grads = jnp.concatenate([jnp.full((1, 1), 256.0), jnp.ones((255, 1))]).astype(jnp.bfloat16)
    gradient = combine_duplicates([jnp.zeros(256, int)], [grads], V)
    assert gradient.rows[0, 0] == 511  # in bfloat16, 256 + 1 is 256


@given(st.lists(st.integers(0, V - 1), min_size=14, max_size=14), st.integers(0, 2**32 - 1))
def test_combined_rows_are_the_dense_gradient(ids: list[int], seed: int):
    grads = np.random.default_rng(seed).normal(size=(len(ids), D)).astype(np.float32)
    gradient = combine_duplicates([jnp.array(ids)], [jnp.asarray(grads)], V)
    dense = np.zeros((V, D), np.float32)
    np.add.at(dense, ids, grads)
    scattered = jnp.zeros((V, D)).at[gradient.ids].add(gradient.rows, mode="drop")
    np.testing.assert_allclose(scattered, dense, rtol=1e-5, atol=1e-6)
    assert len(set(gradient.ids.tolist())) == len(gradient.ids)
