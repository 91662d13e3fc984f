"""The exchange against plain NumPy: every id gets its row, and every row its gradients, in one visit."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from recjax.parallel.exchange import EMPTY, capacity, fetch_rows, make_route, visit_gradients
from recjax.parallel.mesh import make_mesh

S, N, Q, D = 8, 40, 96, 3  # shards, ids of each device, rows of each shard, columns
FEW = 2  # slots an owner, of the smallest exchange that is tested

Ids = tuple[np.ndarray, np.ndarray]  # owner [S x N] and row [S x N] of all devices' ids


class Exchanged(NamedTuple):
    """What one exchange did; the last three count, for each row [S x Q] of the table, what its owner saw."""

    rows: np.ndarray  # [S x N, D]
    sums: np.ndarray  # [S x Q, D] of gradients
    visits: np.ndarray  # rounds in which the row was there
    askers: np.ndarray  # how often it was there, over all rounds
    round: np.ndarray  # [S x N] of each id
    rounds: int


@functools.cache
def compiled(slots: int, axes: tuple[str, ...]) -> Callable:
    """Returns (table [S x Q, D], owner, row, gradients [S x N, D]) -> the fields of `Exchanged`."""
    mesh = make_mesh({"data": 8} if axes == ("data",) else {"data": 4, "model": 2})

    def local(table: jax.Array, owner: jax.Array, row: jax.Array, grads: jax.Array) -> tuple[jax.Array, ...]:
        route = make_route(owner, row, len(table), S, slots, axes)
        rows = fetch_rows(table, route, S, slots, axes)

        def visit(carry: tuple[jax.Array, ...], rows_T: jax.Array, grads_TD: jax.Array) -> tuple[jax.Array, ...]:
            sums, visits, askers = carry
            at = jnp.where(rows_T == EMPTY, Q, rows_T)
            is_here = jnp.zeros(Q, jnp.int32).at[at].set(1, mode="drop")
            return sums.at[at].add(grads_TD, mode="drop"), visits + is_here, askers.at[at].add(1, mode="drop")

        none = jnp.zeros(Q, jnp.int32)
        seen = visit_gradients(grads, route, S, slots, axes, visit, (jnp.zeros((Q, D)), none, none))
        return rows, *seen, route.round, route.rounds

    outputs = (*[P(axes)] * 5, P())
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(axes), out_specs=outputs, check_vma=False))


def exchange(ids: Ids, slots: int, axes: tuple[str, ...] = ("data",)) -> Exchanged:
    """Returns what an exchange does, having asserted that it is what one device would."""
    owner, row = ids
    rng = np.random.default_rng(0)
    table, grads = (rng.normal(size=(S * n, D)).astype(np.float32) for n in (Q, N))
    *arrays, rounds = compiled(slots, axes)(table, owner, row, grads)
    found = Exchanged(*map(np.asarray, arrays), int(rounds))

    is_owned, at = owner < S, owner * Q + row
    expected = np.zeros((S * N, D), np.float32)
    expected[is_owned] = table[at[is_owned]]
    np.testing.assert_array_equal(found.rows, expected)
    sums = np.zeros((S * Q, D))
    np.add.at(sums, at[is_owned], grads[is_owned])
    np.testing.assert_allclose(found.sums, sums, rtol=1e-5, atol=1e-5)

    asked = [set(at[part][is_owned[part]].tolist()) for part in np.arange(S * N).reshape(S, N)]
    askers = np.bincount([one for of_device in asked for one in of_device], minlength=S * Q)
    np.testing.assert_array_equal(found.askers, askers)  # a device sends equal ids once
    np.testing.assert_array_equal(found.visits, askers > 0)  # and all devices send a row in one round
    return found


def fullest_slot(ids: Ids, round_: np.ndarray) -> int:
    """Returns the most distinct rows that a device asks of an owner in a round."""
    device = np.repeat(np.arange(S), N)
    sent = np.unique(np.stack([device, ids[0], round_, ids[1]])[:, ids[0] < S], axis=1)
    return np.unique(sent[:3], axis=1, return_counts=True)[1].max(initial=0)


def uniform(rng: np.random.Generator) -> Ids:
    return rng.integers(S, size=S * N), rng.integers(Q, size=S * N)


def even(rng: np.random.Generator) -> Ids:
    """Returns ids of which every device asks N / S rows of each owner."""
    return np.tile(np.arange(S), N), np.concatenate([np.repeat(rng.permutation(Q)[: N // S], S) for _ in range(S)])


def one_owner(rng: np.random.Generator) -> Ids:
    return np.full(S * N, 5), np.concatenate([rng.permutation(Q)[:N] for _ in range(S)])


def power_law(rng: np.random.Generator) -> Ids:
    item = np.minimum(rng.zipf(1.2, S * N) - 1, S * Q - 1)
    return item % S, item // S


def all_equal(rng: np.random.Generator) -> Ids:
    return np.full(S * N, 3), np.full(S * N, int(rng.integers(Q)))


def nobody(rng: np.random.Generator) -> Ids:
    return np.full(S * N, S), rng.integers(Q, size=S * N)


def some_of_nobody(rng: np.random.Generator) -> Ids:
    return rng.integers(S + 1, size=S * N), rng.integers(Q, size=S * N)


CASES = (uniform, even, one_owner, power_law, all_equal, nobody, some_of_nobody)


def drawn(case: Callable[[np.random.Generator], Ids], seed: int = 0) -> Ids:
    owner, row = case(np.random.default_rng(seed))
    return owner.astype(np.int32), row.astype(np.int32)


@pytest.mark.parametrize("slots", [FEW, capacity(N, S)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_rows_and_gradients_arrive(case: Callable, slots: int):
    exchange(drawn(case), slots)


@pytest.mark.parametrize("case", [uniform, one_owner], ids=lambda case: case.__name__)
def test_owners_are_numbered_along_both_axes_of_a_mesh(case: Callable):
    exchange(drawn(case), capacity(N, S), ("data", "model"))


@pytest.mark.parametrize("case", [even, all_equal, nobody], ids=lambda case: case.__name__)
def test_even_ids_travel_in_one_round(case: Callable):
    found = exchange(drawn(case), capacity(N, S))
    assert found.rounds == 1
    assert not found.round[drawn(case)[0] < S].any()


@pytest.mark.parametrize("slots", [FEW, capacity(N, S)])
def test_uneven_ids_travel_in_the_fewest_rounds_that_hold_them(slots: int):
    ids = drawn(one_owner)
    found = exchange(ids, slots)
    assert found.rounds >= N / slots  # 40 distinct rows of one owner
    assert found.rounds.bit_count() == 1
    assert fullest_slot(ids, found.round) <= slots < fullest_slot(ids, found.round >> 1)  # half as many are too few


@pytest.mark.slow
def test_slots_that_hold_one_row_alone():
    found = exchange(drawn(uniform), 1)
    assert fullest_slot(drawn(uniform), found.round) == 1
    assert found.rounds > 8


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    owners=st.integers(1, S),
    rows=st.integers(1, Q),
    nobodys=st.sampled_from([0.0, 0.3, 0.9]),
    slots=st.sampled_from([FEW, capacity(N, S)]),
)
def test_every_row_is_visited_once_whatever_the_ids(seed: int, owners: int, rows: int, nobodys: float, slots: int):
    rng = np.random.default_rng(seed)
    owner = rng.choice(S, owners, replace=False)[rng.integers(owners, size=S * N)]
    owner = np.where(rng.random(S * N) < nobodys, S, owner).astype(np.int32)
    ids = owner, rng.choice(Q, rows, replace=False)[rng.integers(rows, size=S * N)].astype(np.int32)
    found = exchange(ids, slots)
    assert fullest_slot(ids, found.round) <= slots
    assert found.rounds == 1 or fullest_slot(ids, found.round >> 1) > slots


def test_large_row_numbers_are_told_apart():
    # Rows whose numbers differ in their highest bits alone, as of a table of two billion rows.
    mesh = make_mesh({"data": -1})
    row = np.tile(np.arange(N, dtype=np.int32) * (2**28 // N), S)

    def local(owner: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        route = make_route(owner, row, 2**28, S, N, ("data",))
        return route.slot, route.rounds

    both = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P()), check_vma=False)
    slot, rounds = jax.jit(both)(np.full(S * N, 2, np.int32), row)
    assert rounds == 1
    assert sorted(slot[:N].tolist()) == list(range(2 * N, 3 * N))  # those of owner 2, each for one row


@pytest.mark.parametrize(
    ("n_ids", "shards", "share", "slots"),
    [
        (3200, 8, 1.0, 463),  # 400 + (sqrt(2 ln 64) + 0.25) x 20
        (3200, 8, 0.25, 132),  # 100 + 3.134 x 10
        (80, 8, 1.0, 20),  # 10 + 9.91
        (16, 8, 1.0, 8),  # 2 + 4.43, but 8 at least
        (4, 8, 1.0, 4),  # no more than there are ids
        (100, 1, 1.0, 100),
        (1, 8, 0.0, 1),
    ],
)
def test_capacity_by_hand(n_ids: int, shards: int, share: float, slots: int):
    assert capacity(n_ids, shards, share) == slots


@pytest.mark.parametrize("per_owner", [512, 777, 5000])
def test_from_512_ids_an_owner_on_slots_are_at_most_15_percent_more(per_owner: int):
    assert capacity(8 * per_owner, 8) <= -(-115 * per_owner // 100)  # rounded up
