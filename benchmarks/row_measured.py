"""What was measured of a variant in one scenario, as fields of its row: latency, throughput, and the server's load."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.measured import Measured
from benchmarks.padding import padding_by_buckets
from benchmarks.prepared import PreparedVariant
from benchmarks.row_fields import NULL_REASON, Rowed, RowFields, bounds_of, samples_of
from benchmarks.statistics import ratio_summary
from recjax.config import Serving
from recjax.load.window import PARTS
from recjax.measurement.early_stopping import estimate_percentile
from recjax.measurement.intervals import interval, quantile_of, rate_of
from recjax.measurement.outliers import count_outliers
from recjax.measurement.percentiles import summarize_latency
from recjax.measurement.steady_state import LAST_WINDOWS, steady_state

TAIL_SHARE = 0.01
SINGLE_STREAM_PERCENTILE, OTHER_PERCENTILE = 0.9, 0.99  # that LoadGen reports of single_stream, and of the others


def put_latency(row: RowFields, records: Sequence[Measured]) -> None:
    """Puts percentiles with intervals, the parts of the latency, outliers, and whether all of it is steady."""
    samples = samples_of(records)
    windows = [window for window in samples.windows_ms if len(window)]
    why_none = "no query was answered" if not windows else None
    if records[0].scenario == "offline" and any(window["verdict"] for record in records for window in record.windows):
        why_none = "LoadGen's offline is one query of all samples, as long as the window: it has a rate and no latency"
    if why_none:
        none = dict.fromkeys(["p50", "p90", "p95", "p99", "p99_9", "max", "mean", "ci95_p50", "ci95_p99"])
        row.reasons |= dict.fromkeys([f"latency_ms.{name}" for name in none], why_none)
        row.fields["latency_ms"] = none | {"n": len(samples.latency_ms), "ci95_over": "windows"}
        for name in ("time_split_ms", "tail_split_ms", "outliers", "early_stopping", "steady"):
            row.put(name, None, why_none)
        return
    processes = [p for p, window in zip(samples.processes, samples.windows_ms, strict=True) if len(window)]
    summary = summarize_latency(samples.latency_ms)
    row.reasons |= summary.reasons
    latency, over = dict(summary.values), "windows"
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        of_figure = None if latency[name] is None else interval(quantile_of(windows, quantile), processes)
        over = of_figure.over if of_figure else over
        latency[f"ci95_{name}"] = bounds_of(of_figure)
        if latency[f"ci95_{name}"] is None:
            why = of_figure.reason if of_figure else summary.reasons[f"latency_ms.{name}"]
            row.reasons[f"latency_ms.ci95_{name}"] = why or "unknown"
    row.fields["latency_ms"] = latency | {"ci95_over": over}
    n = len(samples.latency_ms)
    parts: dict[str, float] = {}
    for window in (window for record in records for window in record.windows):
        for name, total_ms in window["parts_ms"].items():
            parts[name] = parts.get(name, 0.0) + total_ms / n
    row.fields["time_split_ms"] = {name: parts[name] for name in PARTS if name in parts}
    row.put("tail_split_ms", _tail_split(records), "LoadGen does not tell the parts of a latency")
    outliers = count_outliers(samples.latency_ms)
    row.fields["outliers"] = {
        "mild": outliers.low_mild + outliers.high_mild,
        "severe": outliers.low_severe + outliers.high_severe,
        "share": outliers.share,
    }
    percentile = SINGLE_STREAM_PERCENTILE if records[0].scenario == "single_stream" else OTHER_PERCENTILE
    estimate = estimate_percentile(samples.latency_ms, percentile)
    row.fields["early_stopping"] = {"percentile": percentile, "latency_ms": estimate.latency_ms}
    if estimate.latency_ms is None:
        row.reasons["early_stopping.latency_ms"] = estimate.reason or "unknown"
    of_processes = [_steady(record) for record in records]
    too_short = [why for steady, why in of_processes if steady is None]
    if too_short:
        row.put("steady", None, too_short[0])
    else:
        row.fields["steady"] = all(steady for steady, _ in of_processes)
        unsteady = [why for steady, why in of_processes if not steady]
        if unsteady:
            row.reasons["steady"] = unsteady[0]


def _tail_split(records: Sequence[Measured]) -> dict[str, float] | None:
    """Returns the mean of each part over the slowest TAIL_SHARE of the queries; None if nobody knows the parts."""
    windows = [
        (latency_ms, parts_ms)
        for record in records
        for latency_ms, parts_ms in zip(record.latency_ms, record.parts_ms, strict=True)
        if len(latency_ms)
    ]
    known = [name for name in PARTS if all(name in parts_ms for _, parts_ms in windows)]
    if not known:
        return None
    latency_ms = np.concatenate([latency_ms for latency_ms, _ in windows])
    slowest = np.argsort(latency_ms)[-max(1, round(TAIL_SHARE * len(latency_ms))) :]
    parts = {name: np.concatenate([parts_ms[name] for _, parts_ms in windows])[slowest] for name in known}
    return {name: float(part.mean(dtype=np.float64)) for name, part in parts.items()}


def put_throughput(row: RowFields, records: Rowed, variant: PreparedVariant | None, *, is_server: bool) -> None:
    """Puts the interval of the rate, and its ratio to fp32's where both were measured in turns."""
    if is_server:
        row.put("throughput_ci95", None, "a server answers what is sent: see search.rates_qps")
    else:
        of_rate = interval(_rate(records.of_variant), _processes(records.of_variant))
        row.put("throughput_ci95", bounds_of(of_rate), of_rate.reason)
    why_not = None
    if is_server:
        why_not = "a server answers what is sent; compare target_qps"
    elif variant is None:
        why_not = NULL_REASON
    elif not all(np.all(one.samples_per_s) for one in (*records.of_variant, *records.of_fp32)):
        why_not = "a window answered no query"
    row.put("speedup", None if why_not else speedup_of(records.of_variant, records.of_fp32), why_not)


def speedup_of(records: Sequence[Measured], of_fp32: Sequence[Measured]) -> dict[str, Any]:
    """Returns samples/s over fp32's in the same rounds: median and range over the rounds, and the median's interval."""
    pairs = zip(records, of_fp32, strict=True)
    rounds = np.concatenate([ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs])
    of_median = interval(quantile_of(np.split(rounds, len(rounds)), 0.5), _processes(records))
    bounds = bounds_of(of_median)
    return ratio_summary(rounds) | {"median": of_median.value} | ({} if bounds is None else {"ci95": bounds})


def put_server(row: RowFields, records: Sequence[Measured], settings: Serving) -> None:
    """Puts what was asked of the system and how late, and of the server its limit and the search for its rate."""
    first, windows = records[0], [window for record in at_lowest_rate(records) for window in record.windows]
    load: dict[str, Any] = {"windows": len(windows)}
    verdicts = [window["verdict"] for window in windows if window["verdict"]]
    if first.scenario != "server":
        for name in ("target_qps", "search", "slo_ms"):
            row.put(name, None, "only the server scenario has a latency limit")
        loop = "LoadGen's, from a process of its own" if verdicts else "closed, in the process of the system"
        row.fields["load"] = load | {"loop": loop, "verdict": verdicts[-1] if verdicts else None}
        return
    rates = _rates_qps(records)
    row.fields |= {"target_qps": min(rates), "slo_ms": settings.slo_ms}
    searches = [record.search for record in records if record.search is not None]
    row.put("search", _search(searches, rates), "the null model is not searched: it is measured at a fixed rate")
    lags = [window["send_lag_ms"] for window in windows if window["send_lag_ms"]]
    shares = [window["generator_cpu_share"] for window in windows]
    row.fields["load"] = load | {
        "loop": "LoadGen's, from a process of its own" if verdicts else "open, from a process of its own",
        "verdict": verdicts[-1] if verdicts else None,
        "send_lag_ms": {name: max(lag[name] for lag in lags) for name in lags[0]} if lags else None,  # worst window
        "unanswered": sum(window["unanswered"] for window in windows),
        "generator_cpu_share": None if None in shares else max(shares),
        **(windows[0]["privileges"] or {}),
        "padding_by_buckets": padding_by_buckets((window["batch_sizes"] for window in windows), settings.buckets),
    }


def at_lowest_rate(records: Sequence[Measured]) -> list[Measured]:
    """Returns of a server's records those at the row's rate, the lowest that a process confirmed; of others all."""
    if records[0].scenario != "server":
        return list(records)
    rates = _rates_qps(records)
    return [record for record, rate in zip(records, rates, strict=True) if rate == min(rates)]


def _rates_qps(records: Sequence[Measured]) -> list[float]:
    return [record.windows[0]["offered_qps"] for record in records]


def _search(searches: Sequence[Mapping[str, Any]], rates_qps: Sequence[float]) -> dict[str, Any] | None:
    """Returns the first process's search, with what all of them confirmed; None if there was none."""
    if not searches:
        return None
    confirmed = all(search["confirmed"] for search in searches)
    failed = [search for search in searches if search["failed_at_qps"]]
    lowest = min(failed, key=lambda search: search["failed_at_qps"], default=searches[0])
    return dict(searches[0]) | {
        "confirmed": confirmed,
        "held_processes": sum(search["confirmed"] for search in searches),
        "held_at_qps": min(rates_qps) if confirmed else None,
        "failed_at_qps": lowest["failed_at_qps"],
        "late_generator": lowest["late_generator"],
        "cannot_hold": next((search["cannot_hold"] for search in searches if search["cannot_hold"]), None),
        "lowered": sum(search["lowered"] for search in searches),
        "rates_qps": list(rates_qps),
    }


def _steady(record: Measured) -> tuple[bool | None, str]:
    if len(record.windows) < LAST_WINDOWS:
        return None, f"{len(record.windows)} windows in a process; {LAST_WINDOWS} must agree"
    medians = [float(np.median(latencies)) if len(latencies) else 0.0 for latencies in record.latency_ms]
    return steady_state(record.samples_per_s, medians)


def _rate(records: Sequence[Measured]) -> Any:
    windows = [window for record in records for window in record.windows]
    return rate_of([window["samples"] for window in windows], [window["duration_s"] for window in windows])


def _processes(records: Sequence[Measured]) -> list[int]:
    return [record.process for record in records for _ in record.windows]
