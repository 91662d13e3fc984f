"""Forms of one embedding table, timed in turn at one size after another.

What is timed is `recjax.nn.embedding.Embedding`: ids of bags in, their means out; or vectors in, their inner products
with all rows out. The forms are those that `compress_embeddings` makes of one drawn table.

Shapes: V rows, D embedding dim, B batch, L ids a bag.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import markdown
from benchmarks.results import keep_earlier_run
from benchmarks.timing import in_turn
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.nn.embedding import Embedding
from recjax.progress import console
from recjax.transforms import table_factors, table_rounding, table_sharing

ZIPF_EXPONENT = 1.2
SHARE_KEPT, RATIO, RANK = 0.1, 0.1, 16  # rows of prune_rows, of hash and quotient_remainder; the tensor train's
BLOCKS, ALPHA = 4, 0.3
HEADER = ("work", "batch", "bag", "ids", "form", "MB", "bytes / fp32", "median ms", "time / fp32")
NOTES = (
    "time / fp32: median over the rounds of this form's time / float32's in that round; forms take turns, in another "
    "random order and with other ids every round.",
    f"zipf: ids drawn with exponent {ZIPF_EXPONENT:g}, cut at the number of rows.",
    f"hash, quotient_remainder: ratio {RATIO:g}. mixed_dimension: {BLOCKS} blocks, alpha {ALPHA:g}, by Zipf counts. "
    f"tensor_train: rank {RANK}. prune_rows: {1 - SHARE_KEPT:.0%} of the rows merged.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What is asked of every form."""

    work: Literal["lookup", "scores"]
    rows: int
    dim: int
    batch: int  # bags, or vectors
    bag: int | None = None  # ids a bag, of lookups
    ids: Literal["uniform", "zipf"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormRow:
    """One form at one size."""

    form: str
    work: str
    rows: int
    dim: int
    batch: int
    bag: int | None
    ids: str | None
    stored_bytes: int
    bytes_over_float32: float
    latency_ms: list[float]  # of every call
    median_ms: float
    over_float32: float | None  # median over the rounds of this form's time / float32's; None for float32
    environment: Mapping[str, Any]


def run_sizes(sizes: Sequence[Size], device: jax.Device, rounds: int, folder: Path) -> int:
    """Times every size, writes rows as they come and the table at the end, and returns the exit code."""
    make_output_folder(folder)
    kind = describe_device([device])["kind"]
    environment = {"device": kind} | describe_software()
    console.print(f"{len(sizes)} sizes on {kind}; results go to {folder}", markup=False)
    rows, code, path = list[FormRow](), 0, folder / "table_forms.jsonl"
    try:
        forms = make_forms(sizes[0].rows, sizes[0].dim)
        for size in sizes:
            new = measure(size, forms, rounds, environment)
            if not rows:
                keep_earlier_run(folder, path.name, "table_forms.md")
            with path.open("a") as file:
                file.writelines(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n" for row in new)
            rows += new
            ratios = ", ".join(f"{row.form} {row.over_float32:.2f}" for row in new if row.over_float32 is not None)
            console.print(f"{_described(size)}: fp32 {new[0].median_ms:.3g} ms; times fp32: {ratios}", markup=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept", markup=False)
    finally:
        if rows:
            (folder / "table_forms.md").write_text(render(rows))
            console.print(f"see {folder / 'table_forms.md'}", markup=False)
    return code


def make_forms(n_rows: int, dim: int) -> dict[str, Any]:
    """Returns the same drawn table in every form, "fp32" first."""
    table = jax.random.normal(jax.random.key(0), (n_rows, dim)) * dim**-0.5
    counts = (n_rows / np.arange(1, n_rows + 1)).astype(np.int32)  # as popular as Zipf's law has it
    sizes = table_sharing.composed_rows(n_rows, RATIO)
    forms: dict[str, Any] = {
        "fp32": table,
        "bf16": table_rounding.narrower_float(table, "bfloat16", "table"),
        "fp16": table_rounding.narrower_float(table, "float16", "table"),
        "int8": table_rounding.integers(table, 8),
        "int4": table_rounding.integers(table, 4),
        "hash": table_sharing.hashed(table, RATIO),
        **({"quotient_remainder": table_sharing.composed(table, sizes, 0)} if sizes else {}),
        "mixed_dimension": table_factors.mixed_dimension(table, counts, BLOCKS, ALPHA),
        "tensor_train": table_factors.tensor_train(table, RANK),
        "prune_rows": table_sharing.pruned(table, counts, table_sharing.rows_kept(counts, 0, 1 - SHARE_KEPT)),
    }
    return jax.block_until_ready(forms)


def measure(size: Size, forms: Mapping[str, Any], rounds: int, environment: Mapping[str, Any]) -> list[FormRow]:
    """Returns one row a form."""
    latency_ms = _in_turn(size, forms, rounds)
    stored = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(form)) for name, form in forms.items()}
    return [
        FormRow(
            form=name,
            **dataclasses.asdict(size),
            stored_bytes=stored[name],
            bytes_over_float32=stored[name] / stored["fp32"],
            latency_ms=[round(value, 4) for value in latency_ms[name]],
            median_ms=float(np.median(latency_ms[name])),
            over_float32=None
            if name == "fp32"
            else float(np.median(np.array(latency_ms[name]) / np.array(latency_ms["fp32"]))),
            environment=environment,
        )
        for name in forms
    ]


def render(rows: Sequence[FormRow]) -> str:
    """Returns the whole of `table_forms.md`."""
    facts = [
        *markdown.environment_facts(rows[0].environment),
        f"Table: {rows[0].rows:,} rows of {rows[0].dim}, from a normal",
    ]
    parts = ["# Forms of an embedding table", markdown.bullets(facts), markdown.table(HEADER, table_lines(rows), 5)]
    return "\n\n".join([*parts, markdown.bullets(NOTES)]) + "\n"


def table_lines(rows: Iterable[FormRow]) -> list[tuple[str, ...]]:
    """Returns one line of cells, under HEADER, for each row."""
    return [
        (
            row.work,
            f"{row.batch:,}",
            str(row.bag or ""),
            row.ids or "",
            row.form,
            f"{row.stored_bytes / 1e6:.1f}",
            f"{row.bytes_over_float32:.1%}",
            f"{row.median_ms:.3g}",
            "" if row.over_float32 is None else f"{row.over_float32:.2f}",
        )
        for row in rows
    ]


def _in_turn(size: Size, forms: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """Returns milliseconds of each call, a round of all forms after another."""
    module, rng = Embedding(size.rows, size.dim), np.random.default_rng(0)
    method = "scores" if size.work == "scores" else "__call__"

    def work(form: Any, asked: jax.Array) -> Any:
        return module.apply({"params": {"table": form}}, asked, method=method)

    drawn = [jax.block_until_ready(_asked(size, rng)) for _ in range(rounds)]
    calls = {}
    for name, form in forms.items():
        answer = jax.jit(work).lower(form, drawn[0]).compile()
        jax.block_until_ready(answer(form, drawn[0]))
        calls[name] = functools.partial(_answer_next, answer, form, itertools.cycle(drawn))
    return in_turn(calls, 0.0, rounds, rounds)


def _answer_next(answer: Callable, form: Any, drawn: Iterator[jax.Array]) -> Any:
    return answer(form, next(drawn))


def _asked(size: Size, rng: np.random.Generator) -> jax.Array:
    """Returns bags of ids [B, L], or vectors [B, D]."""
    if size.work == "scores":
        return jnp.asarray(rng.standard_normal((size.batch, size.dim)), jnp.float32)
    assert size.bag is not None, "a lookup has bags"
    shape = (size.batch, size.bag)
    if size.ids == "zipf":
        return jnp.asarray(np.minimum(rng.zipf(ZIPF_EXPONENT, shape), size.rows) - 1, jnp.int32)
    return jnp.asarray(rng.integers(0, size.rows, shape), jnp.int32)


def _described(size: Size) -> str:
    if size.work == "scores":
        return f"scores of {size.batch:,} vectors"
    return f"{size.batch:,} bags of {size.bag}, {size.ids} ids"
