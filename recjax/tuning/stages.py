"""How a candidate is looked at: the cheapest question first, and no further than it has a chance.

Optuna's pruners know one objective only, so these stages are our own. Order: is there time for its training; can the
model have the chain; does it keep the quality floor; can devices share its layers; does its largest program fit the
memory limit; does a full batch alone fit the latency limit; could it be cheap enough; could it still reach the
frontier; and at last, what rate holds.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from recjax.errors import SplitError, UserError
from recjax.evaluation import is_better
from recjax.load.checks import window_fault
from recjax.load.client import LoadGenerator
from recjax.load.closed_loop import closed_loop, warm_up
from recjax.load.quiet_heap import quiet_heap
from recjax.load.rate_search import MIN_PROBE_QUERIES, holds_limit
from recjax.load.system import ModelSystem
from recjax.load.window import Window
from recjax.measurement.early_stopping import most_over_limit
from recjax.serving.compiled import CompiledModel
from recjax.serving.on_devices import compile_on_devices
from recjax.training.memory import in_words
from recjax.tuning.goal import Goal
from recjax.tuning.space import Candidate
from recjax.tuning.trial import Trial
from recjax.tuning.variants import Variants

CLOSED_LOOP_S, CLOSED_LOOP_QUERIES = 0.3, 5
PROBE_S, PROBE_STEPS = 0.5, 5
ABOVE_CLOSED_LOOP = 1.2  # a server takes small batches too, which some processors answer faster a sample
LEAST = 0.1  # of the closed loop's rate: nothing below it is probed
PROBE_SHARE = 0.2  # of the time that is left, that one probe may take
START = 0.7  # of the closed loop's rate: where the first probe is


class Pruned(Exception):  # noqa: N818 - an answer, no error
    """A candidate is not looked at any further; `stage` is as in `Trial`; and the reason in words."""

    def __init__(self, stage: str, reason: str) -> None:
        """Takes both."""
        super().__init__(reason)
        self.stage = stage


class Bench(NamedTuple):
    """What a candidate is measured with."""

    variants: Variants
    goal: Goal
    generator: LoadGenerator
    seeds: Iterator[int]  # of probes; no two windows of a process have the same arrivals


def examine(candidate: Candidate, bench: Bench, trials: Sequence[Trial], left_s: float, known: dict[str, Any]) -> None:
    """Fills `known`, fields of a Trial, stage by stage.

    The first trial is the config as it stands; what all are compared with is not pruned for its batches.

    Args:
      candidate: to look at.
      bench: to measure with.
      trials: earlier ones, against which its chances are judged.
      left_s: seconds until the search has to end.
      known: of the trial; what was measured before a stage pruned it stays in it.

    Raises:
      Pruned: it need not be looked at any further.
    """
    variants, goal = bench.variants, bench.goal
    expected_s = variants.expected_s(candidate.transform)
    if expected_s > left_s and trials:
        raise Pruned("budget", f"its training would take about {expected_s:.0f} s, and {max(left_s, 0):.0f} s are left")
    try:
        variant = variants.make(candidate.transform)
    except UserError as error:
        raise Pruned("inapplicable", str(error)) from error
    share = variants.share_of_fp32(variant)
    known |= {"validation": variant.validation, "validation_share": share, "parameter_bytes": variant.parameter_bytes}
    if share < goal.quality_floor:
        raise Pruned("quality", f"keeps {share:.4f} of fp32's validation {variants.metric}, below the floor")
    try:
        system = system_of(candidate, variants)
    except SplitError as error:
        raise Pruned("inapplicable", str(error)) from error
    except UserError as error:
        raise Pruned("memory", str(error)) from error
    needed_bytes = known["memory_bytes"] = largest_program_bytes(system.model)
    if goal.memory_bytes is not None:
        if needed_bytes is None:
            raise Pruned("memory", "the compiler does not say what its programs need, and there is a limit")
        if needed_bytes > goal.memory_bytes:
            raise Pruned("memory", f"needs {in_words(needed_bytes)}, above the limit")
    with quiet_heap():
        warm_up(system)
        _measure(candidate, system, bench, trials, left_s, known)


def probe_window(system: ModelSystem, rate_qps: float, n_queries: int, bench: Bench) -> Window:
    """Returns a window with arrivals of its own; it ends once more queries exceed the limit than p99 allows of all."""
    return bench.generator.measure(
        system,
        rate_qps,
        n_queries,
        slo_ms=bench.goal.p99_ms,
        seed=next(bench.seeds),
        mix=bench.goal.mix,
        most_over=most_over_limit(0.99, n_queries),
    )


def _measure(
    candidate: Candidate,
    system: ModelSystem,
    bench: Bench,
    trials: Sequence[Trial],
    left_s: float,
    known: dict[str, Any],
) -> None:
    """Goes through the stages that take time on the device."""
    goal = bench.goal
    window = closed_loop(system, system.buckets[-1], CLOSED_LOOP_S, CLOSED_LOOP_QUERIES, next(bench.seeds), goal.mix)
    rate, full_ms = window.samples_per_s, sorted(window.latency_ms)[window.queries // 2]
    known |= {"closed_loop_samples_per_s": rate, "full_batch_ms": float(full_ms)}
    if full_ms > goal.p99_ms and trials:  # the config as it stands is what all are compared with: it goes on
        raise Pruned("latency", f"a full batch of {system.buckets[-1]} alone takes {full_ms:.1f} ms, above the limit")
    price = goal.price(ABOVE_CLOSED_LOOP * rate, candidate.devices)
    if goal.usd_per_million is not None and price is not None and price > goal.usd_per_million:
        known["usd_per_million"] = goal.price(rate, candidate.devices)
        raise Pruned("price", f"costs {price:.4g} USD for a million samples at best, above the limit")
    better = rate_to_beat(known["validation"], trials, bench.variants.metric)
    if ABOVE_CLOSED_LOOP * rate < better:
        raise Pruned("dominated", f"at best {ABOVE_CLOSED_LOOP * rate:,.0f} samples/s; a better one has {better:,.0f}")

    def probe(rate_qps: float) -> Window:
        n = max(MIN_PROBE_QUERIES, round(rate_qps * PROBE_S))
        return probe_window(system, rate_qps, n, bench)

    capacity_qps = rate / goal.mix.mean_samples
    worth_qps = max(
        better / goal.mix.mean_samples, capacity_qps * LEAST, MIN_PROBE_QUERIES / (PROBE_SHARE * max(left_s, 10.0))
    )
    held_qps = probed_rate(probe, capacity_qps, goal.p99_ms, worth_qps)
    if not held_qps:
        raise Pruned(
            "rate",
            f"no probe held the latency limit at {worth_qps * goal.mix.mean_samples:,.0f} samples/s or above, which a "
            "place on the frontier, or the time that is left, would take",
        )
    known["rate_samples_per_s"] = held_qps * goal.mix.mean_samples
    known["usd_per_million"] = goal.price(known["rate_samples_per_s"], candidate.devices)
    if goal.usd_per_million is not None and (known["usd_per_million"] or 0) > goal.usd_per_million:
        raise Pruned("price", f"costs {known['usd_per_million']:.4g} USD for a million samples, above the limit")


def probed_rate(probe: Callable[[float], Window], capacity_qps: float, p99_ms: float, worth_qps: float) -> float:
    """Returns the highest rate that a short probe held, 0 if none did, or none at `worth_qps` or above can.

    The bracket below ABOVE_CLOSED_LOOP times the capacity is halved geometrically. A probe that fails is repeated once,
    so that one stall of a shared machine does not cut it.

    Args:
      probe: runs a window at a rate.
      capacity_qps: what full batches one after the other give.
      p99_ms: limit.
      worth_qps: no rate below it is worth a probe.
    """

    def holds(rate_qps: float) -> bool:
        window = probe(rate_qps)
        return window_fault(window, p99_ms) is None and holds_limit(window, p99_ms)[0]

    low, high = 0.0, ABOVE_CLOSED_LOOP * capacity_qps
    rate = START * capacity_qps
    for _ in range(PROBE_STEPS):
        if rate < worth_qps and not low:
            rate = worth_qps
        if high <= worth_qps:
            return 0.0
        if holds(rate) or holds(rate):
            low = rate
        else:
            high = rate
        rate = (low * high) ** 0.5 if low else high / 2
    return low


def rate_to_beat(validation: float, trials: Sequence[Trial], metric: str) -> float:
    """Returns the highest probed rate of the trials whose validation quality is no worse, 0 if there is none."""
    return max(
        (
            trial.rate_samples_per_s
            for trial in trials
            if trial.state == "complete"
            and trial.rate_samples_per_s is not None
            and trial.validation is not None
            and not is_better(metric, validation, trial.validation)
        ),
        default=0.0,
    )


def system_of(candidate: Candidate, variants: Variants) -> ModelSystem:
    """Returns the candidate's model, compiled for its buckets on its devices.

    Raises:
      SplitError: a layer cannot be split evenly, no rule covers it, or none is split.
      UserError: the model does not fit into memory.
    """
    model, data, top_k = variants.load(candidate.transform), variants.data, variants.experiment.serving.top_k
    columns, on_devices = data.serving_samples(), (candidate.devices, candidate.model_devices)
    return ModelSystem(compile_on_devices(model, columns, candidate.buckets, top_k, *on_devices), columns)


def largest_program_bytes(model: CompiledModel) -> int | None:
    """Returns what the program that needs most memory needs on one device, None where one's need is not known."""
    sizes = [program.memory_bytes for program in model.programs.values()]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None


def seeds_from(first: int) -> Iterator[int]:
    """Returns seeds of windows, one after the other."""
    return itertools.count(first)
