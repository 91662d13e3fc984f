"""One dense layer's product by several methods, timed in turn at one size after another.

What is timed is what a served model computes: float32 is `recjax.nn.dots.multiply` with an array, sparse the same with
the form that `sparse_layout` stores, int8 the product that `quantize` serves, activations rounded row by row included.

Shapes: B batch, W width (inputs and outputs).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks import markdown
from benchmarks.results import keep_earlier_run
from benchmarks.stored import append_stored
from benchmarks.timing import in_turn
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.nn.dots import FLOAT, Kernel, multiply
from recjax.progress import console
from recjax.transforms import aqt_dots
from recjax.transforms.quantize import quantize
from recjax.transforms.sparse_layout import compressed

FEWEST_ROUNDS, MOST_ROUNDS = 5, 200  # of all methods in turn
ROWS, PAGE = "crossover.jsonl", "crossover.md"
NOTES = (
    "Ratios are the median over rounds of float32's time over the method's: above 1 the method is faster. Methods take "
    "turns, in another random order every round.",
    "int8: weights and activations, one scale a row found at run time, as `quantize()` serves it.",
    "sparse: the form of `sparse_layout()`, at the share of values that are not zero; zeros lie at random.",
    "One layer alone, whose kernel stays in the caches between two calls; a call costs its dispatch too, which "
    "small sizes are mostly made of and a whole model pays once.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What the product is of."""

    width: int
    batch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossoverRow:
    """One method at one size."""

    method: str  # float32, int8 or sparse
    density: float | None  # share of values that are not zero; None where zeros do not matter
    width: int
    batch: int
    latency_ms: list[float]  # of every call
    median_ms: float
    speedup: float  # median over the rounds of float32's time / this method's
    load_1m: float  # processes that ran or waited before this size, over a minute
    environment: Mapping[str, Any]


def run_sizes(
    sizes: Sequence[Size], densities: Sequence[float], device: jax.Device, window_s: float, folder: Path
) -> int:
    """Times every size, writes rows as they come and the tables at the end, and returns the exit code."""
    make_output_folder(folder)
    environment = {"device": describe_device([device])["kind"]} | describe_software()
    console.print(f"{len(sizes)} sizes on {environment['device']}; results go to {folder}", markup=False)
    rows, code = list[CrossoverRow](), 0
    try:
        for size in sizes:
            new = measure(size, densities, window_s, environment)
            if not rows:
                keep_earlier_run(folder, ROWS, PAGE)
            for row in new:
                append_stored(folder / ROWS, row)
            rows += new
            ratios = ", ".join(f"{name_of(row.method, row.density)} {row.speedup:.2f}" for row in new)
            console.print(f"width {size.width}, batch {size.batch}: {ratios}", markup=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept", markup=False)
    finally:
        if rows:
            (folder / PAGE).write_text(render(rows))
            console.print(f"see {folder / PAGE}", markup=False)
    return code


def measure(
    size: Size, densities: Sequence[float], window_s: float, environment: Mapping[str, Any]
) -> list[CrossoverRow]:
    """Returns one row a method; float32 first."""
    methods: dict[tuple[str, float | None], Callable[[], jax.Array]] = {
        ("float32", None): _product(size, None),
        ("int8", None): _int8_product(size),
        **{("sparse", density): _product(size, density) for density in densities},
    }
    calls = {name_of(*key): call for key, call in methods.items()}
    load_1m = round(os.getloadavg()[0], 2)
    latency_ms = in_turn(calls, window_s, FEWEST_ROUNDS, MOST_ROUNDS)
    reference = np.array(latency_ms["float32"])
    return [
        CrossoverRow(
            method=method,
            density=density,
            **dataclasses.asdict(size),
            latency_ms=[round(value, 4) for value in times],
            median_ms=float(np.median(times)),
            speedup=float(np.median(reference / np.array(times))),
            load_1m=load_1m,
            environment=environment,
        )
        for (method, density), times in zip(methods, latency_ms.values(), strict=True)
    ]


def name_of(method: str, density: float | None) -> str:
    """Returns the method as a table's heading, as in "sparse 0.1"."""
    return method if density is None else f"{method} {density:.3g}"


def render(rows: Sequence[CrossoverRow]) -> str:
    """Returns the whole of `crossover.md`."""
    facts = [
        *markdown.environment_facts(rows[0].environment),
        f"Load before a size (1 minute): {min(r.load_1m for r in rows):.2f} to {max(r.load_1m for r in rows):.2f}",
    ]
    header, lines = table_lines(rows)
    parts = ["# Where int8 and sparse products pay", markdown.bullets(facts), markdown.table(header, lines, 0)]
    return "\n\n".join([*parts, markdown.bullets(NOTES)]) + "\n"


def table_lines(rows: Sequence[CrossoverRow]) -> tuple[list[str], list[list[str]]]:
    """Returns the heading, and one line of cells for each size: float32's time, then every method's ratio."""
    by_size: dict[tuple[int, int], dict[str, CrossoverRow]] = {}
    for row in rows:
        by_size.setdefault((row.width, row.batch), {})[name_of(row.method, row.density)] = row
    methods = [name for name in dict.fromkeys(name_of(r.method, r.density) for r in rows) if name != "float32"]
    header = ["width", "batch", "float32 ms", *methods]
    lines = [
        [str(width), str(batch), f"{of['float32'].median_ms:.3g}", *(f"{of[method].speedup:.2f}" for method in methods)]
        for (width, batch), of in by_size.items()
    ]
    return header, lines


def _product(size: Size, density: float | None) -> Callable[[], jax.Array]:
    """Returns a compiled call of activations times a float32 kernel, sparse if there is a density."""
    x_BW, kernel_WW = _drawn(size)
    kernel: Kernel = jnp.asarray(kernel_WW)
    if density is not None:
        kept_WW = np.random.default_rng(1).random(kernel_WW.shape) < density
        kernel = compressed(kernel_WW * kept_WW)
    return _compiled(lambda x, kernel: multiply(FLOAT, x, kernel, "layer"), x_BW, kernel)


def _int8_product(size: Size) -> Callable[[], jax.Array]:
    """Returns a compiled call of activations times an int8 kernel, as AQT serves it."""
    x_BW, kernel_WW = _drawn(size)
    types = quantize().types_of("layer")
    form = aqt_dots.quantize_kernel(jnp.asarray(kernel_WW), types)

    def product(x: jax.Array, form: Mapping[str, jax.Array]) -> jax.Array:
        return aqt_dots.with_kernel(x, form["values"], form["scale"], types, None)

    return _compiled(product, x_BW, form)


def _compiled(product: Callable[..., jax.Array], *operands: Any) -> Callable[[], jax.Array]:
    """Returns a call of the product with those operands, compiled and done once."""
    call = functools.partial(jax.jit(product).lower(*operands).compile(), *operands)
    call().block_until_ready()
    return call


def _drawn(size: Size) -> tuple[jax.Array, NDArray]:
    """Returns activations [B, W] and a kernel [W, W], both from a normal."""
    rng = np.random.default_rng(0)
    x_BW = rng.normal(size=(size.batch, size.width)).astype(np.float32)
    return jnp.asarray(x_BW), rng.normal(size=(size.width, size.width)).astype(np.float32)
