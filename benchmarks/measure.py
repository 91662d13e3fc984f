"""Measures the variants of one case against each other: closed loops in turn, then the server's rate."""

import dataclasses
import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rate_search import highest_rate_within_limit, window_at_rate
from benchmarks.results import Row
from benchmarks.rows import RunFacts, make_row
from benchmarks.scenarios import Window, closed_loop, server, warm_up
from benchmarks.suite import MULTI_STREAM_SAMPLES, Measurement
from benchmarks.summary import samples_key
from benchmarks.timing import CompileCounter, quiet_heap
from benchmarks.train_speed import TrainSpeed
from recjax.config import Experiment
from recjax.evaluation import Quality
from recjax.progress import stage
from recjax.serving.compiled import Columns, CompiledModel
from recjax.training.final_model import FinalModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedVariant:
    """What is known of a variant before it is timed."""

    model: FinalModel
    quality: Quality
    quality_metric: str
    quality_retained: float | None  # of fp32's; None if that is 0
    quality_retained_ci95: list[float] | None
    references: dict[str, dict[str, float]]
    validation_quality: float
    below_floor: str | None  # why every row of it is invalid, if training fell short
    checkpoint_bytes: int
    sparsity: dict[str, Any]  # recjax.transforms.sparsity.sparsity_report
    train_s: float
    train_speed: TrainSpeed | None
    no_train_speed: str  # why there is none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One variant of an experiment, or the null model, ready to be measured."""

    experiment: Experiment
    label: str  # of the variant
    compiled: CompiledModel
    columns: Columns
    trained: TrainedVariant | None = None  # None for the null model


@dataclasses.dataclass(frozen=True)
class Measured:
    """The pooled windows of one variant in one scenario.

    Attributes:
      samples_per_s: [rounds] of each window, in the order of the rounds.
      recompiles: compilations that happened inside the windows; anything but 0 makes the row invalid.
      search: of the server scenario, how its rate was found.
    """

    scenario: str
    batch_size: int
    window: Window
    samples_per_s: NDArray
    recompiles: int
    started_at: str
    search: dict[str, Any] | None = None

    @property
    def throughput(self) -> float:
        """Returns samples/s, the median of the windows: one stall of a shared machine does not move it."""
        return float(np.median(self.samples_per_s))


COMPILATIONS = CompileCounter()


def measure_case(
    contestants: list[Contestant], settings: Measurement, facts: RunFacts
) -> Iterator[tuple[list[Row], dict[str, NDArray]]]:
    """Yields, scenario by scenario, one row a contestant and every latency sample by row key.

    In the closed-loop scenarios the contestants take turns, round after round, so that a change of the
    machine's speed falls on all of them; speed ratios are taken within a round.
    """
    serving = contestants[0].experiment.serving
    closed = [("single_stream", 1), ("multi_stream", MULTI_STREAM_SAMPLES)]
    closed += [("offline", size) for size in serving.buckets if size > MULTI_STREAM_SAMPLES]
    closed = [(scenario, size) for scenario, size in closed if scenario in settings.scenarios]
    name = contestants[0].experiment.name
    best_rate = np.zeros(len(contestants))
    for contestant in contestants:
        warm_up(contestant.compiled, contestant.columns)
    with quiet_heap():
        for scenario, size in closed:
            title = f"{name}: {scenario}, {size} a query"
            measured = _measure_closed_loop(title, contestants, scenario, size, settings)
            best_rate = np.maximum(best_rate, [one.throughput for one in measured])
            yield _rows(contestants, measured, facts)
        if "server" not in settings.scenarios:
            return
        measured = _measure_server(
            f"{name}: server, p99 within {serving.slo_ms:g} ms", contestants, settings, best_rate
        )
        yield _rows(contestants, measured, facts)


def _measure_closed_loop(
    title: str, contestants: list[Contestant], scenario: str, size: int, settings: Measurement
) -> list[Measured]:
    windows: list[list[Window]] = [[] for _ in contestants]
    recompiles = [0 for _ in contestants]
    started_at = [_now() for _ in contestants]
    with stage(title, settings.rounds * len(contestants) + 1) as advance:
        for number in range(settings.rounds):
            # Another order each round: nobody is always the first after a pause, or after the same neighbour.
            for index in np.random.default_rng([settings.seed, size, number]).permutation(len(contestants)):
                contestant = contestants[index]
                seed, before = settings.seed + number, COMPILATIONS.count
                window = closed_loop(
                    contestant.compiled, contestant.columns, size, settings.window_s, settings.min_queries, seed
                )
                recompiles[index] += COMPILATIONS.count - before
                windows[index].append(window)
                advance(f"{contestant.label} {window.samples / window.duration_s:,.0f} samples/s")
        measured = [
            Measured(
                scenario, size, _pool(pooled), np.array([w.samples / w.duration_s for w in pooled]), compiled, start
            )
            for pooled, compiled, start in zip(windows, recompiles, started_at, strict=True)
        ]
        advance(_fp32_and_best(contestants, measured))
    return measured


def _measure_server(
    title: str, contestants: list[Contestant], settings: Measurement, capacity_qps: NDArray
) -> list[Measured]:
    """Returns each contestant at the highest rate that holds its limit; the null model at fp32's rate."""
    measured: list[Measured] = []
    with stage(title, len(contestants) + 1) as advance:
        for contestant, capacity in zip(contestants, capacity_qps, strict=True):
            started_at, before = _now(), COMPILATIONS.count
            slo_ms = contestant.experiment.serving.slo_ms

            seeds = itertools.count(settings.seed)  # a new draw of arrivals a probe, the same ones for every contestant

            def probe(
                rate_qps: float, n_queries: int, contestant: Contestant = contestant, seeds: Iterator[int] = seeds
            ) -> Window:
                limit_ms = contestant.experiment.serving.slo_ms
                return server(contestant.compiled, contestant.columns, rate_qps, n_queries, limit_ms, next(seeds))

            search = None
            if contestant.trained:
                window, search = highest_rate_within_limit(
                    probe, float(capacity), slo_ms, settings.probe_s, settings.search_steps
                )
            else:
                of_fp32 = measured[0].window
                rate_qps = of_fp32.queries / of_fp32.duration_s
                window, _, _ = window_at_rate(probe, rate_qps, of_fp32.queries, slo_ms)
            rate = np.array([window.samples / window.duration_s])
            recompiles, largest = COMPILATIONS.count - before, contestant.compiled.buckets[-1]
            measured.append(Measured("server", largest, window, rate, recompiles, started_at, search))
            advance(f"{contestant.label} {window.offered_qps:,.0f} queries/s")
        advance(f"fp32 {measured[0].window.offered_qps:,.0f} queries/s")
    return measured


def _fp32_and_best(contestants: list[Contestant], measured: list[Measured]) -> str:
    """Returns fp32's rate and the highest, in words; the null model does not compete."""
    rates = [m.throughput for c, m in zip(contestants, measured, strict=True) if c.trained]
    best = int(np.argmax(rates))
    return f"fp32 {rates[0]:,.0f} samples/s" + (f", {contestants[best].label} {rates[best]:,.0f}" if best else "")


def _rows(
    contestants: list[Contestant], measured: list[Measured], facts: RunFacts
) -> tuple[list[Row], dict[str, NDArray]]:
    by_label = {c.label: m for c, m in zip(contestants, measured, strict=True) if c.trained}
    rows = [
        make_row(c, m, measured[0], facts, by_label.get(_masked_label(c)))
        for c, m in zip(contestants, measured, strict=True)
    ]
    return rows, {samples_key(row): one.window.latency_ms for row, one in zip(rows, measured, strict=True)}


def _masked_label(contestant: Contestant) -> str:
    """Returns the label of the contestant's chain without what removes masked zeros."""
    return contestant.trained.model.transform.only_masked().label if contestant.trained else ""


def _pool(windows: list[Window]) -> Window:
    return Window(
        latency_ms=np.concatenate([window.latency_ms for window in windows]),
        queries=sum(window.queries for window in windows),
        samples=sum(window.samples for window in windows),
        padded_samples=sum(window.padded_samples for window in windows),
        duration_s=sum(window.duration_s for window in windows),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
