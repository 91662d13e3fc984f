import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp

from recjax.hardware.product_flops import product_flops


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_products_by_the_type_of_their_operands() -> None:
    def program(a: jax.Array, b: jax.Array, narrow: jax.Array) -> tuple[jax.Array, ...]:
        low = jax.lax.dot(narrow, narrow, preferred_element_type=jnp.int32)
        return a @ b, low, a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16), a + 1

    traced = jax.jit(program).trace(shape(8, 32), shape(32, 16), shape(4, 4, dtype=jnp.int8))
    assert product_flops(traced, 2) == {
        "float32": 2 * 8 * 32 * 16 / 2,
        "int8": 2 * 4 * 4 * 4 / 2,
        "bfloat16": 2 * 8 * 32 * 16 / 2,
    }


def test_mixed_operands_are_of_the_wider_type() -> None:
    traced = jax.jit(lambda a, b: a @ b).trace(shape(8, 32, dtype=jnp.bfloat16), shape(32, 16))
    assert product_flops(traced, 1) == {"float32": 2 * 8 * 32 * 16}


def test_a_batch_of_products() -> None:
    traced = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b)).trace(shape(3, 8, 4), shape(3, 4, 5))
    assert product_flops(traced, 1) == {"float32": 2 * 3 * 8 * 4 * 5}


def test_a_gradient_has_three_products_where_the_loss_has_one() -> None:
    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum((x @ w) ** 2)

    forward, both = (
        product_flops(jax.jit(function).trace(shape(16, 4), shape(8, 16)), 1)["float32"]
        for function in (loss, jax.grad(loss, argnums=(0, 1)))
    )
    assert both == 3 * forward == 3 * 2 * 8 * 16 * 4


def test_what_nothing_needs_is_not_counted() -> None:
    def program(w: jax.Array, x: jax.Array) -> tuple[jax.Array, int]:
        jnp.sum(jnp.tanh(x @ w) @ w)
        return x @ w, 3

    assert product_flops(jax.jit(program).trace(shape(16, 16), shape(8, 16)), 1) == {"float32": 2 * 8 * 16 * 16}


def test_a_loop_counts_each_trip_and_a_choice_its_costliest_branch() -> None:
    w, x = shape(16, 16), shape(8, 16)
    one = 2 * 8 * 16 * 16

    def loop(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jax.jit(lambda x: x @ w)(x), None), x, length=5)[0]

    def choice(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert product_flops(jax.jit(loop).trace(w, x), 1) == {"float32": 5 * one}
    assert product_flops(jax.jit(choice).trace(w, x), 1) == {"float32": 2 * one}


def test_a_program_without_products() -> None:
    assert product_flops(jax.jit(lambda x: x + 1).trace(shape(8)), 4) == {}


PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from recjax.hardware.product_flops import product_flops

mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
x, w = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 16), jnp.float32)

def mapped(axes, given):
    inside = lambda x, w: x @ w
    function = jax.shard_map(
        inside, mesh=mesh, in_specs=(given, P()), out_specs=given, axis_names=axes, check_vma=False
    )
    return product_flops(jax.jit(function).trace(x, w), 8)["float32"]

print(json.dumps([mapped({"data", "model"}, P(("data", "model"))), mapped({"data", "model"}, P("data")),
                  mapped({"data"}, P("data"))]))
"""


def test_inside_a_shard_map_shapes_are_those_of_a_device() -> None:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    whole = 2 * 64 * 32 * 16
    # Split over both axes; over one, each part computed by four devices; over one, and left to the compiler otherwise.
    assert json.loads(done.stdout) == [whole / 8, whole / 2, whole / 8]
