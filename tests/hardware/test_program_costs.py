import jax
import jax.numpy as jnp

from recjax.hardware.program_costs import program_costs


def test_costs_of_a_program_with_a_donated_input() -> None:
    table, x, w = (jax.ShapeDtypeStruct(size, jnp.float32) for size in ((10_000, 64), (128, 64), (64, 32)))

    def program(table: jax.Array, x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return table + 1, x @ w

    traced = jax.jit(program, donate_argnums=0).trace(table, x, w)
    costs = program_costs(traced, traced.lower().compile(), n_devices=1)
    assert costs.argument_bytes == 4 * (10_000 * 64 + 128 * 64 + 64 * 32)
    assert costs.alias_bytes == 4 * 10_000 * 64
    assert 0 <= costs.output_bytes - 4 * (10_000 * 64 + 128 * 32) <= 64  # pointers of a tuple
    assert costs.memory_bytes == (
        costs.argument_bytes + costs.output_bytes - costs.alias_bytes + costs.temporary_bytes + costs.code_bytes
    )
    assert costs.flops == {"float32": 2 * 128 * 64 * 32}
    assert costs.xla_flops is not None
    assert costs.xla_flops >= 2 * 128 * 64 * 32
    assert costs.traffic_bytes == 4 * (2 * 10_000 * 64 + 128 * 64 + 64 * 32 + 128 * 32)
    assert costs.collective_bytes == {}
    assert not costs.loops_counted_once


def test_a_loop_without_a_known_end_is_said_to_count_once() -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() < 100.0, lambda x: x * 2, x)

    traced = jax.jit(program).trace(jax.ShapeDtypeStruct((8,), jnp.float32))
    assert program_costs(traced, traced.lower().compile(), n_devices=1).loops_counted_once
