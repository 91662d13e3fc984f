"""Bytes by hand for programs that the CPU compiles, and for lines of TPU and GPU programs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from recjax.hardware.memory_traffic import memory_traffic

TABLE = jax.ShapeDtypeStruct((100_000, 64), jnp.float32)
IDS = jax.ShapeDtypeStruct((256,), jnp.int32)
ROWS, WHOLE = 256 * 64 * 4, 100_000 * 64 * 4


def traffic(function: Callable, *shapes: jax.ShapeDtypeStruct, donate: tuple[int, ...] = ()) -> int:
    text = jax.jit(function, donate_argnums=donate).lower(*shapes).compile().as_text()
    assert text is not None
    found = memory_traffic(text)
    assert found.loops_known
    return found.n_bytes


def test_a_pass_over_an_array_reads_and_writes_it_once() -> None:
    assert traffic(lambda x: x * 2 + 1, TABLE) == 2 * WHOLE


def test_a_product_reads_its_operands_and_writes_its_result() -> None:
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 512), (512, 128)))
    assert traffic(lambda a, b: a @ b, a, b) == 4 * (256 * 512 + 512 * 128 + 256 * 128)


def test_a_lookup_moves_the_rows_and_not_the_table() -> None:
    found = traffic(lambda table, ids: table.at[ids].get(mode="promise_in_bounds"), TABLE, IDS)
    assert 2 * ROWS <= found <= 2 * ROWS + 8192  # and the ids, a few times


def test_an_update_in_place_moves_the_rows_and_not_the_table() -> None:
    rows = jax.ShapeDtypeStruct((256, 64), jnp.float32)

    def update(table: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
        return table.at[ids].add(rows, mode="promise_in_bounds", unique_indices=True)

    found = traffic(update, TABLE, IDS, rows, donate=(0,))
    assert 3 * ROWS <= found <= 3 * ROWS + 8192


def test_a_table_that_must_be_copied_is_counted_whole() -> None:
    found = traffic(lambda table, ids: (table.at[ids].set(0.0), table.sum()), TABLE, IDS)
    assert found >= 3 * WHOLE  # read and written by the copy, read by the sum


def test_a_loop_counts_for_every_trip() -> None:
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    once = traffic(lambda x: jnp.sin(x), x)
    found = traffic(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: jnp.sin(y), x), x)
    assert 10 * once <= found <= 13 * once


HEADER = "HloModule jit_f, is_scheduled=true, num_partitions=1\n\n"
SPARSE_CORE = (
    HEADER
    + """%fused_computation.1 (p.0: f32[2000000,128], p.1: s32[8192]) -> f32[8192,128] {
  %p.0 = f32[2000000,128]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[8192]{0:T(1024)} parameter(1)
  ROOT %rows.1 = f32[8192,128]{1,0:T(8,128)} gather(%p.0, %p.1), slice_sizes={1,128}
}

%called (q.0: f32[2000000,128], q.1: s32[8192]) -> f32[8192,128] {
  %q.0 = f32[2000000,128]{1,0:T(8,128)} parameter(0)
  %q.1 = s32[8192]{0:T(1024)} parameter(1)
  ROOT %rows = f32[8192,128]{1,0:T(8,128)} fusion(%q.0, %q.1), kind=kCustom, calls=%fused_computation.1
}

ENTRY %main (t: f32[2000000,128], i: s32[8192]) -> f32[8192,128] {
  %t = f32[2000000,128]{1,0:T(8,128)} parameter(0)
  %i = s32[8192]{0:T(1024)} parameter(1)
  %go = ((), (), (s32[1]{0:T(128)S(2)})) call-start(), async_execution_thread="sparsecore", to_apply=%called
  %on = ((f32[2000000,128]{1,0:T(8,128)}, s32[8192]{0:T(1024)}), f32[8192,128]{1,0:T(8,128)}) call-update(%go, %t, %i)
  ROOT %end = f32[8192,128]{1,0:T(8,128)} call-done(%on)
}
"""
)


def test_a_lookup_that_a_tpu_hands_to_its_sparsecore() -> None:
    assert memory_traffic(SPARSE_CORE).n_bytes == 2 * 8192 * 512 + 8192 * 4


@pytest.mark.parametrize(
    ("lines", "n_bytes"),
    [
        (["%a = f32[1024]{0} parameter(0)", "ROOT %b = (f32[1024]{0}, f32[1024]{0}) tuple(%a, %a)"], 0),
        (  # into on-chip memory: only the read counts
            [
                "%a = f32[1024]{0:T(1024)} parameter(0)",
                "%s = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a)",
                "%d = f32[1024]{0:T(1024)S(1)} copy-done(%s)",
                "ROOT %n = f32[1024]{0:T(1024)S(1)} negate(%d)",
            ],
            4096,
        ),
        (
            [
                "%a = f32[64,8]{1,0} parameter(0)",
                "%u = f32[1,8]{1,0} parameter(1)",
                "%i = s32[] parameter(2)",
                "ROOT %b = f32[64,8]{1,0} dynamic-update-slice(%a, %u, %i, %i)",
            ],
            2 * 32,
        ),
        (["%a = f32[64,8]{1,0} parameter(0)", "ROOT %b = f32[2,8]{1,0} slice(%a), slice={[0:2], [0:8]}"], 2 * 64),
        (
            ["%a = f32[8]{0} parameter(0)", "%g = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), replica_groups={}"],
            32 + 256,
        ),
        (['ROOT %b = f32[64]{0} custom-call(), custom_call_target="AllocateBuffer"'], 0),
    ],
)
def test_bytes_of_single_instructions(lines: list[str], n_bytes: int) -> None:
    text = HEADER + "ENTRY %main (a: f32[8]) -> f32[8] {\n  " + "\n  ".join(lines) + "\n}\n"
    assert memory_traffic(text).n_bytes == n_bytes
