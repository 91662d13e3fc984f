"""Bytes that serving needs, by hand; what is refused, and the advice."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recjax.errors import UserError
from recjax.free_memory import FreeMemory
from recjax.parallel.mesh import make_mesh
from recjax.serving.bucket_memory import check_bucket, saved_by_int8, serving_needs
from recjax.training.memory import tree_bytes
from recjax.transforms.table_rounding import integers

ROWS, DIM = 1000, 64
TABLE, KERNEL = 4 * ROWS * DIM, 4 * DIM
COLUMNS = {"user": np.zeros(5, np.int32), "history": np.zeros((5, 7), np.int32)}  # 32 bytes a request


def variables() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    return {"params": {"items": {"table": table}, "dense": {"kernel": np.ones((DIM, 1), np.float32)}}}


def refusal(variables: Any, bucket: int, programs: dict[int, int], free: int) -> str:
    with pytest.raises(UserError) as refused:
        check_bucket(variables, COLUMNS, bucket, programs, free=FreeMemory(free, "gpu:0"))
    return str(refused.value)


def test_variables_count_until_they_are_on_the_device():
    needs = serving_needs(variables(), COLUMNS, 8)
    assert needs.held == {"variables": TABLE + KERNEL}
    assert needs.passing == {"a batch of 8": 8 * 32}
    assert needs.tensors[0].n_bytes == TABLE
    there = serving_needs(jax.device_put(variables()), COLUMNS, 8, program_bytes=1000)
    assert (there.held, there.passing) == ({"variables": 0}, {"a batch of 8": 8 * 32 + 1000})
    assert serving_needs((), COLUMNS, 8).n_bytes == 8 * 32  # a model without variables


def test_every_cpu_device_of_a_mesh_has_its_copy_in_the_same_memory():
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    needs = serving_needs(variables(), COLUMNS, 8, program_bytes=1000, mesh=mesh)
    assert needs.held == {"variables": 4 * (TABLE + KERNEL)}
    assert needs.passing == {"a batch of 8": 8 * 32 + 4 * 1000}
    lies = jax.device_put(variables(), NamedSharding(mesh, PartitionSpec()))
    assert serving_needs(lies, COLUMNS, 8, mesh=mesh).held == {"variables": 0}


def test_int8_saves_what_the_stored_form_is_smaller():
    given = variables()
    form = integers(jnp.asarray(given["params"]["items"]["table"]), 8)
    saved = saved_by_int8(given)
    assert saved == TABLE - ROWS * (DIM + 4)
    assert TABLE - saved == tree_bytes(form) - form["unit"].nbytes
    assert saved_by_int8({"params": {"items": {"table": form}}}) == 0
    assert saved_by_int8(()) == 0


def test_a_byte_less_than_is_needed_is_refused():
    n_bytes = TABLE + KERNEL + 8 * 32
    check = functools.partial(check_bucket, variables(), COLUMNS, 8, {})
    check(free=FreeMemory(n_bytes, "gpu:0"))
    check(free=FreeMemory(None, "gpu:0", "gpu:0 does not say how much memory it has"))
    error = refusal(variables(), 8, {}, n_bytes - 1)
    assert error.startswith(
        "serving in buckets of 8 needs at least 256.5 kB of memory and 256.5 kB are free on gpu:0 ("
    )
    assert "items/table float32[1000, 64] 256.0 kB" in error
    assert error.endswith('to make it fit, put compress_embeddings("int8") into the config\'s transforms (68.5 kB)')


def test_the_largest_bucket_that_fits_is_named():
    there, programs = jax.device_put({"params": {}}), {1: 1_000, 8: 8_000, 64: 64_000}
    free = 8 * 32 + 8_000
    assert refusal(there, 64, programs, free).endswith("to make it fit, let serving.buckets end at 8 (8.3 kB)")
    assert refusal(there, 64, programs, free - 1).endswith("to make it fit, let serving.buckets end at 1 (1.0 kB)")


def test_what_nothing_makes_fit_says_how_much_is_missing():
    error = refusal(variables(), 8, {}, 10_000)
    needed = KERNEL + ROWS * (DIM + 4) + 8 * 32
    (missing,) = re.findall(r"; (\d+\.\d) kB are missing even with int8 tables; take a smaller model", error)
    assert float(missing) == pytest.approx((needed - 10_000) / 1e3, abs=0.06)
