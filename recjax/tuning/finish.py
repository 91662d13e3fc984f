"""From finished trials to what is reported: finalists measured anew, on windows and a test part that chose nothing."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recjax.evaluation import Quality, make_evaluator, share_kept
from recjax.load.checks import wrong_answers
from recjax.load.closed_loop import closed_loop, warm_up
from recjax.load.quiet_heap import quiet_heap
from recjax.load.rate_search import CONFIRMATIONS, MIN_CONFIRMING_QUERIES, Probe
from recjax.load.system import ModelSystem
from recjax.load.window import Window
from recjax.measurement.intervals import Interval
from recjax.progress import stage
from recjax.quality_interval import retained_interval
from recjax.tuning.frontier import baseline_of
from recjax.tuning.goal import NO_PRICE
from recjax.tuning.remeasure import (
    CONFIRM_S,
    ROUNDS,
    Confirmation,
    Remeasured,
    closed_loops_in_turn,
    confirm_in_turn,
    p99_interval,
    rate_interval,
    rate_ratio,
)
from recjax.tuning.stages import CLOSED_LOOP_QUERIES, CLOSED_LOOP_S, Bench, probe_window, system_of
from recjax.tuning.trial import Trial
from recjax.tuning.variants import Variants

COMPILE_S = 2.0  # of a program, and of its share of loading and evaluating the model, for the estimate
RETRIES = 3.0  # windows, by those that hold: others fail, and are repeated at a lower rate


def expected_finish_s(chosen: Sequence[Trial], mean_samples: float) -> float:
    """Returns about how many seconds `remeasure` takes for these trials."""
    seconds = 0.0
    for trial in chosen:
        rate_qps = (trial.rate_samples_per_s or trial.closed_loop_samples_per_s or 1.0) / mean_samples
        window_s = max(MIN_CONFIRMING_QUERIES / rate_qps, CONFIRM_S)
        seconds += RETRIES * CONFIRMATIONS * window_s + ROUNDS * CLOSED_LOOP_S + COMPILE_S * len(trial.buckets)
    return seconds


def remeasure(chosen: Sequence[Trial], bench: Bench, seed: int, is_late: Callable[[], bool]) -> dict[int, Remeasured]:
    """Returns what is reported of each trial, by its number.

    Args:
      chosen: finalists and the baseline, if there is one, with which the others are compared.
      bench: its seeds must be others than those of the search.
      seed: of orders and of resampling.
      is_late: whether the study's time is over; rates that are not confirmed then stay so, unless none is.
    """
    variants, goal = bench.variants, bench.goal
    with stage("measuring the frontier anew: compiling", len(chosen)) as advance:
        systems = []
        for trial in chosen:
            systems.append(system_of(trial.candidate, variants))
            warm_up(systems[-1])
            advance(trial.label)
    quality = {trial.number: test_quality(trial, variants) for trial in chosen}

    def full_batches(system: ModelSystem, seed: int) -> Window:
        return closed_loop(system, system.buckets[-1], CLOSED_LOOP_S, CLOSED_LOOP_QUERIES, seed, goal.mix)

    probes: list[Probe] = [functools.partial(probe_window, system, bench=bench) for system in systems]
    first = [(t.rate_samples_per_s or t.closed_loop_samples_per_s or 1.0) / goal.mix.mean_samples for t in chosen]
    loops = [functools.partial(full_batches, system) for system in systems]
    with quiet_heap(), stage("measuring the frontier anew, in turn", len(chosen)) as advance:
        closed = closed_loops_in_turn(loops, next(bench.seeds))
        settled = 0

        def done(open_ones: int) -> None:
            nonlocal settled
            while settled < len(chosen) - open_ones:
                settled += 1
                advance(f"{open_ones} of {len(chosen)} are not settled", remaining=open_ones)

        confirmations = confirm_in_turn(probes, first, goal.p99_ms, seed, done, is_late)
    reference = baseline_of(chosen)
    baseline = None if reference is None else chosen.index(reference)
    return {
        trial.number: _remeasured(index, chosen, systems, confirmations, closed, quality, baseline, bench, seed)
        for index, trial in enumerate(chosen)
    }


def test_quality(trial: Trial, variants: Variants) -> Quality:
    """Returns the trial's quality on the test part, which no search has seen."""
    model = variants.load(trial.candidate.transform)
    return make_evaluator(model.score, variants.data, "test")(model.variables)


def _remeasured(
    index: int,
    chosen: Sequence[Trial],
    systems: Sequence[ModelSystem],
    confirmations: Sequence[Confirmation],
    closed: Sequence[Sequence[Window]],
    quality: Mapping[int, Quality],
    baseline: int | None,
    bench: Bench,
    seed: int,
) -> Remeasured:
    trial, one, goal, metric = chosen[index], confirmations[index], bench.goal, bench.variants.metric
    samples_per_s = one.rate_qps * goal.mix.mean_samples
    price = goal.price(samples_per_s, trial.devices)
    reasons: dict[str, str] = {}
    over = ratio = share = ci95 = p99 = waste = None
    if baseline is None:
        why = "no trial without transforms holds the limits"
        reasons |= dict.fromkeys(("over_baseline", "closed_loop_over_baseline", "test_share", "test_share_ci95"), why)
    else:
        reference, own = quality[chosen[baseline].number], quality[trial.number]
        ratio = _triple(rate_ratio(closed[index], closed[baseline]))
        share = share_kept(metric, own.metrics[metric], reference.metrics[metric])
        if share is None:
            why = f"the baseline's {metric} on the test part is 0: there is no share of it"
            reasons |= dict.fromkeys(("test_share", "test_share_ci95"), why)
        else:
            low, high = retained_interval(own, reference, metric, seed)
            ci95 = low, high
        if confirmations[baseline].confirmed and one.confirmed:
            over = one.rate_qps / confirmations[baseline].rate_qps
        else:
            reasons["over_baseline"] = "one of the two rates was not confirmed"
    if one.windows:
        p99 = _triple(p99_interval(one.windows))
        waste = 1 - sum(w.samples for w in one.windows) / sum(w.padded_samples for w in one.windows)
    else:
        reasons |= dict.fromkeys(("p99_ms", "padding_waste"), "no window held the limit")
    if one.failed_at_qps is None:
        reasons["failed_at_samples_per_s"] = "no window failed: the highest rate may lie above"
    if price is None:
        reasons["usd_per_million"] = NO_PRICE
    wrong = (wrong_answers(systems[index], window) for window in one.windows)
    fault = one.fault or one.late_generator or next(filter(None, wrong), None)
    if fault is None and goal.usd_per_million is not None and (price or 0.0) > goal.usd_per_million:
        fault = f"costs {price:.4g} USD for a million samples, above the limit"
    return Remeasured(
        samples_per_s=samples_per_s,
        confirmed=one.confirmed,
        failed_at_samples_per_s=None if one.failed_at_qps is None else one.failed_at_qps * goal.mix.mean_samples,
        over_baseline=over,
        p99_ms=p99,
        padding_waste=waste,
        closed_loop=_triple(rate_interval(closed[index])),
        closed_loop_over_baseline=ratio,
        usd_per_million=price,
        test=quality[trial.number].metrics[metric],
        test_share=share,
        test_share_ci95=ci95,
        fault=fault,
        reasons=reasons,
    )


def _triple(found: Interval) -> tuple[float, Any, Any]:
    return found.value, found.low, found.high
