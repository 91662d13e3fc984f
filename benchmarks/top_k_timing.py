"""Methods of top-k retrieval, timed in turn at one size after another.

What is timed is `recjax.nn.retrieval.top_inner_products`: queries in, items out, the inner products included. The
method "maximum" takes the greatest score only: what every other method costs beyond it is its price of sorting.

Shapes: B queries, V items, D embedding dim.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks import markdown
from benchmarks.results import keep_earlier_run
from benchmarks.timing import in_turn
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.nn.retrieval import MOST_SCORES, top_inner_products
from recjax.progress import console

METHODS = ("maximum", "exact", "two_stage", "approximate")
FEWEST_ROUNDS, MOST_ROUNDS = 5, 200  # of all methods in turn
HEADER = ("items", "batch", "k", *(f"{method} ms" for method in METHODS), "exact / two stages", "approximate recall")
NOTES = (
    "ms: median of one call, inner products included; the methods take turns, in another random order every round.",
    "maximum: the inner products and the greatest of each row only, the floor of the others.",
    "exact: jax.lax.top_k. two stages: the same result from block maxima; the ratio is the median within a round.",
    "approximate: jax.lax.approx_max_k; recall is measured against exact. On a CPU it is an exact sort.",
)

Answer = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What is asked of the methods."""

    items: int
    batch: int
    k: int
    dim: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKRow:
    """One method at one size."""

    method: str
    items: int
    batch: int
    k: int
    dim: int
    latency_ms: list[float]  # of every call
    median_ms: float
    over_exact: float | None  # median over the rounds of this method's time / exact's; None for exact
    recall: float | None  # share of the exact items found; None for the maximum
    recall_target: float | None  # None where the method has none
    environment: Mapping[str, Any]


def run_sizes(sizes: Sequence[Size], device: jax.Device, recall_target: float, window_s: float, folder: Path) -> int:
    """Times every size, writes rows as they come and the table at the end, and returns the exit code."""
    make_output_folder(folder)
    kind = describe_device([device])["kind"]
    environment = {"device": kind} | describe_software()
    console.print(f"{len(sizes)} sizes on {kind}; results go to {folder}", markup=False)
    rows, code, path = list[TopKRow](), 0, folder / "top_k.jsonl"
    try:
        for size in sizes:
            new = measure(size, recall_target, window_s, environment)
            if not rows:
                keep_earlier_run(folder, path.name, "top_k.md")
            with path.open("a") as file:
                file.writelines(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n" for row in new)
            rows += new
            times = ", ".join(f"{row.method} {row.median_ms:.3g}" for row in new)
            console.print(f"{size.items:,} items, batch {size.batch}, k {size.k}: {times} ms", markup=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept", markup=False)
    finally:
        if rows:
            (folder / "top_k.md").write_text(render(rows))
            console.print(f"see {folder / 'top_k.md'}", markup=False)
    return code


def measure(size: Size, recall_target: float, window_s: float, environment: Mapping[str, Any]) -> list[TopKRow]:
    """Returns one row a method; vectors are drawn from a normal, the same for all methods."""
    query_key, item_key = jax.random.split(jax.random.key(0))
    query_BD = jax.random.normal(query_key, (size.batch, size.dim))
    item_VD = jax.random.normal(item_key, (size.items, size.dim))
    answers = {method: _compiled(method, size.k, recall_target, query_BD, item_VD) for method in METHODS}
    found = {method: np.asarray(answer(query_BD, item_VD)[1]) for method, answer in answers.items()}
    calls = {method: functools.partial(answer, query_BD, item_VD) for method, answer in answers.items()}
    latency_ms = in_turn(calls, window_s, FEWEST_ROUNDS, MOST_ROUNDS)
    return [
        TopKRow(
            method=method,
            **dataclasses.asdict(size),
            latency_ms=[round(value, 4) for value in latency_ms[method]],
            median_ms=float(np.median(latency_ms[method])),
            over_exact=None if method == "exact" else _median_ratio(latency_ms[method], latency_ms["exact"]),
            recall=None if method == "maximum" else recall(found[method], found["exact"]),
            recall_target=recall_target if method == "approximate" else None,
            environment=environment,
        )
        for method in METHODS
    ]


def recall(found: NDArray, expected: NDArray) -> float:
    """Returns the share of each row's expected items that were found, as a mean over rows.

    Example:
      >>> recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]))
      0.75
    """
    hits = [len(np.intersect1d(row, other)) for row, other in zip(found, expected, strict=True)]
    return sum(hits) / expected.size


def render(rows: Sequence[TopKRow]) -> str:
    """Returns the whole of `top_k.md`."""
    facts = [
        *markdown.environment_facts(rows[0].environment),
        f"Vectors: {rows[0].dim} dimensions, float32, from a normal; at most {MOST_SCORES:,} scores are held at once",
    ]
    parts = ["# Top k of a catalogue", markdown.bullets(facts), markdown.table(HEADER, table_lines(rows), 0)]
    return "\n\n".join([*parts, markdown.bullets(NOTES)]) + "\n"


def table_lines(rows: Iterable[TopKRow]) -> list[tuple[str, ...]]:
    """Returns one line of cells, under HEADER, for each size."""
    by_size: dict[tuple[int, int, int], dict[str, TopKRow]] = {}
    for row in rows:
        by_size.setdefault((row.items, row.batch, row.k), {})[row.method] = row
    lines = []
    for (items, batch, k), of in by_size.items():
        speedup = 1 / (of["two_stage"].over_exact or float("nan"))
        times = (f"{of[method].median_ms:.3g}" for method in METHODS)
        lines.append((f"{items:,}", str(batch), str(k), *times, f"{speedup:.2f}", f"{of['approximate'].recall:.3f}"))
    return lines


def _compiled(method: Any, k: int, recall_target: float, query_BD: jax.Array, item_VD: jax.Array) -> Answer:
    def answer(query_BD: jax.Array, item_VD: jax.Array) -> tuple[jax.Array, jax.Array]:
        if method == "maximum":
            return top_inner_products(query_BD, item_VD, 1, method="two_stage")
        return top_inner_products(query_BD, item_VD, k, method=method, recall_target=recall_target)

    return jax.jit(answer).lower(query_BD, item_VD).compile()


def _median_ratio(values: Sequence[float], references: Sequence[float]) -> float:
    return float(np.median(np.array(values) / np.array(references)))
