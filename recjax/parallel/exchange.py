"""Rows of a table that lies on many devices: ids travel to the rows' owners, rows back, gradients to the owners again.

Everything here runs inside `jax.shard_map`, on one device's part. A device's ids are sorted by owner, and each distinct
one travels once, however often it was looked up. What travels has a fixed shape, C slots for each owner: a little more
than its even share of the ids. Ids that are too uneven for that go in several rounds. Which round an id goes in is
decided by its row alone, the same on every device, so that all gradients of a row arrive in one round and its owner
takes one step of the optimizer.

Shapes: N ids of one device, S shards (owners), C slots an owner, Q rows of one shard, D embedding dim.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from recjax.nn.running import running_max, running_sum

FEWEST_SLOTS = 8  # for an owner
EMPTY = -1  # in the place of a row number: a slot that nobody uses

Axes = str | tuple[str, ...]


class Route(NamedTuple):
    """Where each of a device's ids is sent; equal ids share a slot.

    Attributes:
      slot: of each id among the S x C that travel, behind them for an id that nobody owns.
      round: in which it travels.
      order: the ids sorted by owner, and equal ones next to each other.
      distinct: in that order, the number of each id among the distinct ones, N for one that nobody owns.
      rows: in that order, the row of each id.
      first_slot: in that order, the slot of each distinct id's first place, behind all slots at all other places.
      first_round: in that order, the round of each id.
      rounds: how many there are; the same on every device.
    """

    slot: Int32[Array, "N"]
    round: UInt32[Array, "N"]
    order: Int32[Array, "N"]
    distinct: Int32[Array, "N"]
    rows: Int32[Array, "N"]
    first_slot: Int32[Array, "N"]
    first_round: UInt32[Array, "N"]
    rounds: UInt32[Array, ""]


def capacity(n_ids: int, shards: int, distinct_share: float = 1.0) -> int:
    """Returns C: the even share of the distinct ids, and what chance gives more on one of S x S routes but seldom.

    That is 3.1 standard deviations for 8 shards and 4.3 for 64: 14% of the even share at 512 ids an owner and 8 shards,
    and less for more ids.

    Args:
      n_ids: N.
      shards: S.
      distinct_share: distinct ids over ids, as measured on batches; 1 where that is not known.
    """
    mean = n_ids * distinct_share / shards
    # The largest of n normal deviates is about sqrt(2 ln n).
    deviations = math.sqrt(2 * math.log(shards**2)) + 0.25
    return min(n_ids, max(FEWEST_SLOTS, math.ceil(mean + deviations * math.sqrt(mean))))


def make_route(
    owner_N: Int32[Array, "N"], row_N: Int32[Array, "N"], rows: int, shards: int, slots: int, axes: Axes
) -> Route:
    """Returns the route of every id.

    Ids are sorted once, by one number: their owner, then their row, mixed. A second key would double the time that XLA
    for TPUs takes to compile the sort.

    Args:
      owner_N: shard that holds the id's row; S for an id that nobody is asked for.
      row_N: number of the row on that shard.
      rows: Q, of each shard; S x Q must stay below 2^31.
      shards: S, the number of devices along `axes`.
      slots: C.
      axes: mesh axes of the surrounding `shard_map`.
    """
    n = len(owner_N)
    position_N = jnp.arange(n, dtype=jnp.int32)
    width = max(1, (rows - 1).bit_length())
    assert (shards + 1) << width <= 1 << 32, (shards, rows)
    key_N = (owner_N.astype(jnp.uint32) << width) | _mix(row_N, width)
    sorted_key, order = jax.lax.sort((key_N, position_N), num_keys=1)
    sorted_owner, sorted_mix = (sorted_key >> width).astype(jnp.int32), sorted_key & jnp.uint32((1 << width) - 1)
    is_owned = sorted_owner < shards
    is_first = jnp.concatenate([jnp.ones(1, bool), sorted_key[1:] != sorted_key[:-1]]) & is_owned
    distinct_N = running_sum(is_first.astype(jnp.int32)) - 1  # number of each id among the distinct ones

    bits = _round_bits(sorted_key, width, is_first, distinct_N, slots, axes)
    rank, round_ = _rank_in_bucket(sorted_key, width, is_first, distinct_N, bits)
    sorted_slot = jnp.where(is_owned, sorted_owner * slots + rank, shards * slots)

    def unsorted(values: Array) -> Array:
        return jnp.zeros_like(values).at[order].set(values, mode="promise_in_bounds", unique_indices=True)

    # Of equal ids only the first is sent; the others get a place behind all slots.
    return Route(
        slot=unsorted(sorted_slot),
        round=unsorted(round_),
        order=order,
        distinct=jnp.where(is_owned, distinct_N, n),
        rows=_unmix(sorted_mix, width),
        first_slot=jnp.where(is_first, sorted_slot, shards * slots),
        first_round=round_,
        rounds=jnp.uint32(1) << bits,
    )


def fetch_rows(table_QD: Float[Array, "Q D"], route: Route, shards: int, slots: int, axes: Axes) -> Float[Array, "N D"]:
    """Returns the row of each id; zeros for an id that nobody owns."""

    def exchange(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, rows_ND = carry
        wanted_SC = _send_ids(route, number, shards, slots, axes)
        found_SCD = table_QD.at[jnp.maximum(wanted_SC, 0)].get(mode="promise_in_bounds")
        back_TD = jax.lax.all_to_all(found_SCD, axes, 0, 0).reshape(shards * slots, -1)
        is_mine_N = (route.round == number) & (route.slot < shards * slots)
        mine_ND = back_TD.at[route.slot].get(mode="clip")
        return number + 1, jnp.where(is_mine_N[:, None], mine_ND, rows_ND)

    first = (jnp.uint32(0), jnp.zeros((len(route.slot), table_QD.shape[1]), table_QD.dtype))
    return jax.lax.while_loop(lambda carry: carry[0] < route.rounds, exchange, first)[1]


def visit_gradients(
    grads_ND: Float[Array, "N D"],
    route: Route,
    shards: int,
    slots: int,
    axes: Axes,
    visit: Callable[[Any, Int32[Array, "T"], Float[Array, "T D"]], Any],
    carry: Any,
) -> Any:
    """Returns `carry` after `visit(carry, rows, gradients)` of what every round brings to this shard.

    A device's gradients of equal ids are added up before they travel. `rows` are of this shard, EMPTY where a slot is
    not used; a row may stand in it once for every device. All gradients of a row come in the same round.

    Args:
      grads_ND: of the rows that `fetch_rows` gave, float32.
      route: theirs.
      shards: S.
      slots: C.
      axes: mesh axes of the surrounding `shard_map`.
      visit: takes T = S x C row numbers and their gradients.
      carry: before the first round.
    """
    # In the order of the route: for any other scatter XLA for TPUs sorts, and is most of a minute compiling that.
    ordered_ND = grads_ND.at[route.order].get(mode="promise_in_bounds", unique_indices=True)
    zeros_ND = jnp.zeros_like(grads_ND)
    summed_ND = zeros_ND.at[route.distinct].add(ordered_ND, mode="drop", indices_are_sorted=True)
    n = len(route.order)

    def exchange(state: tuple[Array, Any]) -> tuple[Array, Any]:
        number, carry = state
        wanted_SC = _send_ids(route, number, shards, slots, axes)
        sent_N = jnp.where(route.first_round == number, route.first_slot, shards * slots)
        distinct_T = jnp.full(shards * slots, n, jnp.int32).at[sent_N].set(route.distinct, mode="drop")
        sent_TD = summed_ND.at[distinct_T].get(mode="fill", fill_value=0)
        arrived_SCD = jax.lax.all_to_all(sent_TD.reshape(shards, slots, -1), axes, 0, 0)
        rows_T, arrived_TD = wanted_SC.reshape(-1), arrived_SCD.reshape(shards * slots, -1)
        return number + 1, visit(carry, rows_T, arrived_TD)

    return jax.lax.while_loop(lambda state: state[0] < route.rounds, exchange, (jnp.uint32(0), carry))[1]


def _send_ids(route: Route, number: Array, shards: int, slots: int, axes: Axes) -> Int32[Array, "S C"]:
    """Returns the rows that every device wants of this shard in a round."""
    slot_N = jnp.where(route.first_round == number, route.first_slot, shards * slots)
    wanted = jnp.full(shards * slots, EMPTY, jnp.int32).at[slot_N].set(route.rows, mode="drop")
    return jax.lax.all_to_all(wanted.reshape(shards, slots), axes, 0, 0)


def _round_bits(
    key: Array, width: int, is_first: Bool[Array, "N"], distinct: Array, slots: int, axes: Axes
) -> UInt32[Array, ""]:
    """Returns the least b for which no device sends more than C ids to an owner in one of 2^b rounds."""

    def overflows(bits: Array) -> Array:
        rank, _ = _rank_in_bucket(key, width, is_first, distinct, bits)
        return jax.lax.pmax(jnp.max(jnp.where(is_first, rank, 0)), axes) >= slots

    def one_more(state: tuple[Array, Array]) -> tuple[Array, Array]:
        bits = state[0] + 1
        return bits, overflows(bits)

    none = jnp.uint32(0)
    return jax.lax.while_loop(lambda state: state[1], one_more, (none, overflows(none)))[0]


def _rank_in_bucket(
    key: Array, width: int, is_first: Bool[Array, "N"], distinct: Array, bits: Array
) -> tuple[Int32[Array, "N"], UInt32[Array, "N"]]:
    """Returns each sorted id's number among the distinct ones of its owner and round, and its round.

    The round is the first `bits` of its mixed row of `width` bits, by which ids are sorted: those of one round stand
    together.
    """
    bucket = key >> (width - bits)  # the owner, then the round
    changes = jnp.concatenate([jnp.ones(1, bool), bucket[1:] != bucket[:-1]])
    before = running_max(jnp.where(changes & is_first, distinct, 0))
    return distinct - before, bucket & ((jnp.uint32(1) << bits) - 1)


_ODD = 0x85EBCA6B, 0xC2B2AE35  # of MurmurHash3's 32-bit finaliser (Appleby, public domain), whose form `_mix` has


def _mix(row: Int32[Array, "N"], width: int) -> UInt32[Array, "N"]:
    """Returns the rows as numbers of so many bits in which neighbours are far apart, another one for each row."""
    mask, shift = jnp.uint32((1 << width) - 1), (width + 1) // 2
    x = row.astype(jnp.uint32) & mask
    for factor in _ODD:
        x = (x * jnp.uint32(factor)) & mask
        x = x ^ (x >> shift)
    return x


def _unmix(mixed: UInt32[Array, "N"], width: int) -> Int32[Array, "N"]:
    """Returns the rows that `_mix` was given: its steps backwards, each with its inverse."""
    mask, shift = jnp.uint32((1 << width) - 1), (width + 1) // 2
    x = mixed
    for factor in reversed(_ODD):
        x = x ^ (x >> shift)  # which undoes itself, as it is by half the width or more
        x = (x * jnp.uint32(pow(factor, -1, 1 << 32))) & mask
    return x.astype(jnp.int32)
