"""What this device can do at most, measured here: matrix products by type, and a pass through memory.

Shapes: M rows and columns of a square matrix.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

MATRIX_SIZE = {"cpu": 1024, "gpu": 8192, "tpu": 8192}
PASS_BYTES = {"cpu": 1 << 30, "gpu": 1 << 31, "tpu": 1 << 30}
REPEATS = 15


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Measured limits of one device.

    Attributes:
      flops_per_s: by "float32", "bfloat16" and "int8": the rate of a large square matrix product.
      bytes_per_s: read plus written, of an update in place of an array too large for any cache. In place, because
        writing to newly allocated memory measures the operating system's page faults.
    """

    flops_per_s: dict[str, float]
    bytes_per_s: float


def measure_ceilings(device: jax.Device) -> Ceilings:
    """Returns the device's limits, each from the fastest of a few timed runs: a disturbance can only slow."""
    size = MATRIX_SIZE[device.platform]
    rates = {}
    for dtype in ("float32", "bfloat16", "int8"):
        result = jnp.int32 if dtype == "int8" else jnp.float32
        keys = jax.random.split(jax.random.key(0))
        left, right = ((jax.random.normal(key, (size, size)) * 30).astype(dtype) for key in keys)
        product = jax.jit(lambda a, b, result=result: jnp.dot(a, b, preferred_element_type=result))
        rates[dtype] = 2 * size**3 / _least_s(functools.partial(product, left, right))
    return Ceilings(rates, _bytes_per_s(PASS_BYTES[device.platform]))


def _bytes_per_s(n_bytes: int) -> float:
    values = jnp.ones(n_bytes // 4)
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)

    def update_in_place() -> jax.Array:
        nonlocal values
        values = add_one(values)
        return values

    return 2 * n_bytes / _least_s(update_in_place)


def _least_s(run: Callable[[], jax.Array]) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)
