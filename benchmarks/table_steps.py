"""Times training steps on large tables: contestants take turns, ratios are taken within a round.

Shapes: B batch, L ids of a field.
"""

import dataclasses
import functools
import gc
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import markdown
from benchmarks.results import keep_earlier_run
from benchmarks.statistics import ratio_summary
from benchmarks.table_contestants import (
    PLAIN,
    Contestant,
    LookupsOnly,
    draw_batches,
    jax_contestant,
    schema_of,
    spread_ids,
    stand_in,
)
from benchmarks.torch_tables import missing_torch, torch_contestant
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.data.features import LabelledSchema
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.load.quiet_heap import quiet_heap
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.progress import console, stage
from recjax.training.optimizer import ROW_UPDATES

SPARSE = tuple(ROW_UPDATES)
NAMES = {"dense": "dense Adam", PLAIN: "dense Adam, plain JAX", "torch": "torch SparseAdam"}
SLOTS = {"sgd": 0.0, "rowwise_adagrad": 0.0, "lazy_adam": 2.0}  # of the table's size; a scalar a row counts as none
N_STAND_IN_FIELDS, STAND_IN_BATCHES, BAG, SCALING_BATCHES = 26, 4, 26, 32
HEADER = ("steps", "tables", "optimizer", "step, ms", "range", "over", "ratio", "range of rounds", "ratio of CPU time")
N_LEFT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured.

    Attributes:
      batch_size: B.
      stand_in_rows: of each of the stand-in's 26 tables.
      small_rows, large_rows: of the one table whose length is varied; large is a multiple of small.
      dim: of that table; halved for an optimizer whose state would not fit.
      memory_bytes: what one contestant's tables and slots may take.
      rounds: in each, every contestant takes one untimed step and `steps` timed ones.
    """

    batch_size: int = 2048
    stand_in_rows: int = 100_000
    small_rows: int = 100_000
    large_rows: int = 50_000_000
    dim: int = 16
    memory_bytes: float = 6e9
    rounds: int = 10
    steps: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRow:
    """One contestant in one comparison; null with a reason for one that could not take part."""

    workload: str
    tables: str
    optimizer: str
    distinct_rows: float | None = None  # that a batch touches in one table, mean over batches
    step_ms: list[list[float]] | None = None  # [rounds][steps], every sample
    cpu_ms: list[list[float]] | None = None  # the process's CPU time of those steps, which other processes disturb less
    compared_with: str | None = None
    ratio: dict[str, Any] | None = None  # of the rounds' medians: this row's step over the other's
    cpu_ratio: float | None = None  # of the medians of all samples' CPU time
    state_bytes: int | None = None
    temporary_bytes: int | None = None
    compile_s: float | None = None
    huge_page_bytes: int | None = None  # of the process while it was measured; None where the system does not say
    reason: str | None = None
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)


def run_large_tables(sizes: Sizes, parts: Sequence[str], device: jax.Device, folder: Path) -> int:
    """Measures the parts ("stand-in", "scaling"), prints the table and returns the exit code.

    Raises:
      UserError: the folder cannot be made.
    """
    make_output_folder(folder)
    environment = {"device": describe_device([device])["kind"], "sizes": dataclasses.asdict(sizes)}
    environment |= describe_software() | {"glibc_tunables": os.environ.get("GLIBC_TUNABLES")}
    path, rows, code = folder / "results.jsonl", list[StepRow](), 0
    started = time.perf_counter()
    try:
        for part in parts:
            for new in (stand_in_rows if part == "stand-in" else scaling_rows)(sizes):
                if not rows:
                    keep_earlier_run(folder, path.name, "report.md")
                with path.open("a") as file:
                    file.writelines(
                        json.dumps(dataclasses.asdict(r) | {"environment": environment}) + "\n" for r in new
                    )
                rows += [dataclasses.replace(row, environment=environment) for row in new]
    except KeyboardInterrupt:
        code = INTERRUPTED
        console.print(f"interrupted; {len(rows)} finished rows are kept in {path}", markup=False)
    finally:
        if rows:
            (folder / "report.md").write_text(render(rows))
            console.print(render(rows), markup=False, soft_wrap=True)
            console.print(f"{len(rows)} rows in {time.perf_counter() - started:.0f} s; see {folder / 'report.md'}")
    return code


def stand_in_rows(sizes: Sizes) -> Iterator[list[StepRow]]:
    """Yields the rows of 26 equal tables, rivals and optimizers of rows in pairs, because a state is up to 2 GB."""
    schema = schema_of(N_STAND_IN_FIELDS, sizes.stand_in_rows, 1)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, sizes.stand_in_rows, (sizes.batch_size, N_STAND_IN_FIELDS)) for _ in range(STAND_IN_BATCHES)]
    batches = draw_batches(STAND_IN_BATCHES, ids, 0)
    common: dict[str, Any] = {
        "workload": "stand-in",
        "tables": f"26 x {sizes.stand_in_rows:,} x 64",
        "distinct_rows": float(np.mean([len(np.unique(column)) for batch in ids for column in batch.T])),
    }

    def maker(kind: str) -> Callable[[], Contestant]:
        if kind == "torch":
            return lambda: torch_contestant(schema, batches)
        return lambda: jax_contestant(kind, stand_in, schema, batches)

    def compare(rival: str, kind: str) -> list[StepRow]:
        measured = _take_turns(f"stand-in: {rival}, {kind}", [maker(rival), maker(kind)], sizes)
        return [
            _row(contestant, samples, measured[0][1], NAMES.get(name, name), NAMES[rival], **common)
            for name, (contestant, samples) in zip((rival, kind), measured, strict=True)
        ]

    for kind in SPARSE:
        yield compare("dense", kind)
    yield compare(PLAIN, "lazy_adam")
    if reason := missing_torch():
        yield [StepRow(optimizer=NAMES["torch"], reason=reason, **common)]
    else:
        yield compare("torch", "lazy_adam")


def scaling_rows(sizes: Sizes) -> Iterator[list[StepRow]]:
    """Yields the rows of one table, short and long, under each optimizer, in models large and small and alone."""
    rng = np.random.default_rng(1)
    ids = [rng.integers(0, sizes.small_rows, (sizes.batch_size, BAG)) for _ in range(SCALING_BATCHES)]
    distinct = float(np.mean([len(np.unique(batch)) for batch in ids]))
    all_ids = {sizes.small_rows: ids, sizes.large_rows: spread_ids(ids, sizes.small_rows, sizes.large_rows, 2)}
    batches = {rows: draw_batches(SCALING_BATCHES, of_rows, 3) for rows, of_rows in all_ids.items()}

    for kind in SPARSE:
        dim = sizes.dim
        while dim > 1 and _table_bytes(kind, sizes.large_rows, dim) > sizes.memory_bytes:
            dim //= 2
        builders: dict[str, Callable[[LabelledSchema], Any]] = {
            "stand-in's layers": functools.partial(stand_in, dim=dim),
            "default layers": DLRMDCNv2Config(embedding_dim=dim).build,
            "lookups only": functools.partial(LookupsOnly, embedding_dim=dim),
        }
        for workload, build in builders.items():

            def maker(rows: int, kind: str = kind, build: Callable = build) -> Callable[[], Contestant]:
                return lambda: jax_contestant(kind, build, schema_of(1, rows, BAG), batches[rows])

            measured = _take_turns(f"{workload}, {kind}", [maker(rows) for rows in batches], sizes)
            short = measured[0][1]
            yield [
                _row(
                    contestant,
                    samples,
                    short,
                    kind,
                    f"{sizes.small_rows:,} rows",
                    workload=workload,
                    tables=f"1 x {rows:,} x {dim}",
                    distinct_rows=distinct,
                )
                for rows, (contestant, samples) in zip(batches, measured, strict=True)
            ]


def render(rows: Sequence[StepRow]) -> str:
    """Returns the whole of `report.md`."""
    environment = rows[0].environment
    head = markdown.environment_facts(environment)
    sizes = environment["sizes"]
    notes = [
        f"Batch {sizes['batch_size']}; {sizes['rounds']} rounds of {sizes['steps']} timed steps, in each of which the "
        "two contestants of a comparison take turns in a random order. step: median and range of all timed steps. "
        "ratio: of the medians of a round, median and range over the rounds. ratio of CPU time: of the medians of the "
        "process's own time, which tells more where other programs run.",
        f"Huge pages: {_describe_huge_pages(rows)}.",
        "A batch of the long table touches exactly as many distinct rows as the batch of the short one that it was "
        "made from; every batch touches others, so its rows are in no cache.",
        *(f"{markdown.escape(row.optimizer)}: {markdown.escape(row.reason)}" for row in rows if row.reason),
    ]
    body = markdown.table(HEADER, [_line(row) for row in rows if row.step_ms], N_LEFT)
    return "\n\n".join(["# Steps on large tables", markdown.bullets(head), body, markdown.bullets(notes)]) + "\n"


def _take_turns(
    title: str, makers: Sequence[Callable[[], Contestant]], sizes: Sizes
) -> list[tuple[Contestant, np.ndarray]]:
    """Returns each contestant with its milliseconds [2, rounds, steps]: on the clock, and of CPU time."""
    order = random.Random(0)
    with stage(title, len(makers) + sizes.rounds) as advance:
        contestants = []
        for make in makers:
            contestants.append(make())
            advance(f"{contestants[-1].name} compiled")
        samples = np.zeros((len(contestants), 2, sizes.rounds, sizes.steps))
        with quiet_heap():
            for number in range(sizes.rounds):
                for index in order.sample(range(len(contestants)), len(contestants)):
                    contestants[index].step()  # untimed: the caches hold what the one before left there
                    for step in range(sizes.steps):
                        started = np.array([time.perf_counter(), time.process_time()])
                        contestants[index].step()
                        taken_s = np.array([time.perf_counter(), time.process_time()]) - started
                        samples[index, :, number, step] = 1e3 * taken_s
                advance(" ".join(f"{value:.0f}" for value in np.median(samples[:, 0, number], axis=1)) + " ms")
        huge_page_bytes = _huge_page_bytes()
    measured = [
        (dataclasses.replace(contestant, step=lambda: None, huge_page_bytes=huge_page_bytes), of_one)  # state let go
        for contestant, of_one in zip(contestants, samples, strict=True)
    ]
    del contestants
    gc.collect()
    return measured


def _row(
    contestant: Contestant, samples: np.ndarray, other: np.ndarray, optimizer: str, compared_with: str, **known: Any
) -> StepRow:
    own = samples is other
    ratios = np.median(samples[0], axis=1) / np.median(other[0], axis=1)
    return StepRow(
        optimizer=optimizer,
        step_ms=samples[0].round(3).tolist(),
        cpu_ms=samples[1].round(3).tolist(),
        compared_with=None if own else compared_with,
        ratio=None if own else ratio_summary(ratios),
        cpu_ratio=None if own else float(np.median(samples[1]) / np.median(other[1])),
        huge_page_bytes=contestant.huge_page_bytes,
        state_bytes=contestant.state_bytes,
        temporary_bytes=contestant.temporary_bytes,
        compile_s=contestant.compile_s,
        **known,
    )


def _table_bytes(kind: str, rows: int, dim: int) -> float:
    return 4.0 * rows * dim * (1 + SLOTS[kind]) + (4.0 * rows if kind == "rowwise_adagrad" else 0)


def _huge_page_bytes() -> int | None:
    """Returns how much of the process's memory lies in huge pages, None where the system does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")), None)


def _describe_huge_pages(rows: Sequence[StepRow]) -> str:
    known = [row.huge_page_bytes for row in rows if row.huge_page_bytes is not None]
    if not known:
        return "unknown on this system"
    tunables = rows[0].environment["glibc_tunables"]
    return f"up to {max(known) / 1e9:.1f} GB of the process; GLIBC\\_TUNABLES {tunables or 'not set'}"


def _line(row: StepRow) -> tuple[str, ...]:
    samples = np.array(row.step_ms)
    low_high = f"{samples.min():.1f} to {samples.max():.1f}"
    compared: tuple[str, ...] = ("–",) * 4
    if row.ratio:
        low, high = row.ratio["range"]
        compared = (
            row.compared_with or "",
            f"{row.ratio['median']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{row.cpu_ratio:.2f}",
        )
    return (row.workload, row.tables, row.optimizer, f"{np.median(samples):.1f}", low_high, *compared)
