"""The report's plots of quality, latency and throughput, one function a plot."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.plot_style import AXIS_GREY
from benchmarks.report_figure import Bounds, Plot, Shown, Trace, axes, choice_of, curve_of, marks, points, with_interval
from benchmarks.results import Row
from benchmarks.suite import SCENARIOS
from benchmarks.summary import (
    Variant,
    format_gain,
    format_number,
    format_percent,
    format_quality,
    metric_name,
    samples_key,
)
from recjax.measurement.percentiles import PER_MILLE

CLOSED_LOOP = ("single_stream", "multi_stream", "offline")
CURVE_POINTS = 120  # of a distribution, evenly in the logarithm of how rare a latency is
WHOLE_TAIL = 20  # slowest samples that are drawn one by one
PERCENTILE_TICKS = {0.5: "p50", 0.1: "p90", 0.01: "p99", 1e-3: "p99.9", 1e-4: "p99.99", 1e-5: "p99.999"}
FRONTIER = {
    "type": "scatter",
    "mode": "lines",
    "line": {"color": AXIS_GREY, "width": 1.5, "dash": "dot"},
    "hoverinfo": "skip",
}


def quality_against_p99(shown: Shown) -> Plot:
    """Returns quality over p99 of every row, with the line of what no valid row beats on both."""
    choices, traces = _choices(shown), []
    for variant in shown.variants:
        quality = _quality(variant)
        for row in variant.rows:
            p99 = row.latency_ms["p99"]
            if quality is None or p99 is None:
                continue
            words = [
                *_quality_words(variant),
                with_interval(row.latency_ms["p50"], row.latency_ms["ci95_p50"], "ms at p50"),
                with_interval(p99, row.latency_ms["ci95_p99"], "ms at p99"),
            ]
            x_bounds, y_bounds = [row.latency_ms["ci95_p99"]], [_quality_interval(variant)]
            traces.append(
                points(
                    shown,
                    variant,
                    [row],
                    [p99],
                    [quality],
                    [words],
                    x_bounds=x_bounds,
                    y_bounds=y_bounds,
                    choice=choice_of(row, _rows(shown)),
                )
            )
    return Plot(
        title="Quality against p99",
        caption="Up and left is better. The dotted line joins the valid points that no other beats on both.",
        traces=_with_frontier(traces, "less"),
        layout=axes("p99 latency, ms", _quality_axis(shown.variants), log="x"),
        choices=choices,
        missing="" if traces else "no row has both a quality and a p99",
    )


def quality_against_rate(shown: Shown) -> Plot:
    """Returns quality over the highest server rate within the limit, with the line of undominated variants."""
    traces = []
    for variant in shown.variants:
        quality = _quality(variant)
        for row in variant.of("server"):
            if quality is None or row.target_qps is None:
                continue
            words = [*_quality_words(variant), f"{format_number(row.target_qps)} queries/s", _bracket(row)]
            words.append(with_interval(row.latency_ms["p99"], row.latency_ms["ci95_p99"], "ms at p99"))
            y_bounds = [_quality_interval(variant)]
            traces.append(points(shown, variant, [row], [row.target_qps], [quality], [words], y_bounds=y_bounds))
    limit = next((variant.first("slo_ms") for variant in shown.variants), None)
    within = f" within {limit:g} ms" if limit else ""
    return Plot(
        title="Quality against served load",
        caption=f"Up and right is better: the rate at which p99 stayed{within} in every process. It has no interval.",
        traces=_with_frontier(traces, "more"),
        layout=axes("server rate within the limit, queries/s", _quality_axis(shown.variants), log="x"),
        missing="" if traces else "no row of the server scenario has a quality and a rate",
    )


def latency_against_rate(shown: Shown) -> Plot:
    """Returns p99 and p50 over the offered rate up to the highest that held, and the limit: the hockey stick."""
    traces, rates, limits = list[Trace](), list[float](), set[float]()
    for variant in shown.variants:
        for row in variant.of("server"):
            curve = curve_of(row)
            if not curve or row.target_qps is None:
                continue
            limits |= {row.slo_ms} if row.slo_ms else set()
            for name in ("p99", "p50"):
                offered = [point["rate_qps"] for point in curve] + [row.target_qps]
                latency = [point[f"{name}_ms"] for point in curve] + [row.latency_ms[name]]
                bounds: list[Bounds] = [None] * len(curve) + [row.latency_ms[f"ci95_{name}"]]
                words = [
                    [f"{format_number(rate)} queries/s offered", with_interval(ms, interval, f"ms at {name}")]
                    for rate, ms, interval in zip(offered, latency, bounds, strict=True)
                ]
                rates += offered
                trace = points(
                    shown,
                    variant,
                    [row] * len(offered),
                    offered,
                    latency,
                    words,
                    y_bounds=bounds,
                    lines=True,
                    choice=name,
                )
                trace["text"] = [""] * len(curve) + [marks(row)]
                traces.append(trace)
    for limit in sorted(limits):
        traces.append(_level(limit, (min(rates), max(rates)), f"limit of p99, {limit:g} ms"))
    return Plot(
        title="Latency against offered rate",
        caption="Where a line bends up, queries begin to wait. Its last point is the row's rate, the lowest that "
        "its processes confirmed, with the interval of its latency; the others are one short window each.",
        traces=traces,
        layout=axes("offered rate, queries/s", "latency, ms", log="xy"),
        choices=("p99", "p50"),
        missing="" if rates else "no row has latencies at lower rates (rows have them since version 4)",
    )


def latency_distribution(shown: Shown) -> Plot:
    """Returns latency percentiles over a log axis that gives every further nine the same height."""
    traces, rarest = list[Trace](), 0.01
    for variant in shown.variants:
        for row in variant.rows:
            raw = shown.samples.get(samples_key(row))
            curve = _known_percentiles(row) if raw is None else tail_curve(np.asarray(raw))
            if curve is None:
                continue
            latency_ms, share = curve
            rarest = min(rarest, float(share[-1]))
            dash = "dot" if not row.valid else "dash" if row.steady is False else "solid"
            style = shown.styles[variant.name]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if raw is None else "lines",
                    "name": f"{variant.name} {marks(row)}".strip(),
                    "x": _short(latency_ms),
                    "y": _short(share),
                    "text": [f"p{100 * (1 - s):.5g}" if s < 1 else "fastest" for s in share],
                    "line": {"color": style.colour, "width": 2, "dash": dash},
                    "marker": {"symbol": style.symbol, "size": 7},
                    "hovertemplate": "%{text}: %{x:.3~g} ms<extra>%{fullData.name}</extra>",
                    "meta": {"row": shown.key(row), "choice": choice_of(row, _rows(shown))},
                }
            )
            if row.slo_ms:
                traces.append(_limit_line(row, shown, float(rarest)))
    from_samples = any(samples_key(row) in shown.samples for row in _rows(shown))
    drawn = "All samples are in it, the slowest one by one" if from_samples else "From the percentiles of the rows"
    return Plot(
        title="Latency distribution",
        caption=f"Left is better; each further nine has the same height. {drawn}. Dashed: not steady; dotted: invalid.",
        traces=traces,
        layout=axes(
            "latency, ms",
            "percentile",
            log="x",
            yaxis={
                "type": "log",
                "tickvals": list(PERCENTILE_TICKS),
                "ticktext": list(PERCENTILE_TICKS.values()),
                "range": [0.02, float(np.log10(rarest)) - 0.1],
            },
        ),
        choices=_choices(shown),
        missing="" if traces else "no row has latencies",
    )


def throughput_against_batch(shown: Shown) -> Plot:
    """Returns samples/s over samples a query in the closed-loop scenarios, log-log."""
    traces, sizes = list[Trace](), set[int]()
    for variant in shown.variants:
        by_size = {row.batch_size: row for scenario in CLOSED_LOOP for row in variant.of(scenario)}
        closed = [by_size[size] for size in sorted(by_size)]
        sizes |= by_size.keys()
        words = [
            [with_interval(row.throughput_samples_per_s, row.throughput_ci95, "samples/s")]
            + ([f"{format_gain(row.speedup['median'])} of fp32, in turns"] if row.speedup else [])
            for row in closed
        ]
        rates, bounds = [row.throughput_samples_per_s for row in closed], [row.throughput_ci95 for row in closed]
        batches = [float(row.batch_size) for row in closed]
        if closed:
            traces.append(points(shown, variant, closed, batches, rates, words, y_bounds=bounds, lines=True))
    ticks: dict[str, Any] = {"type": "log", "tickvals": sorted(sizes), "ticktext": [f"{n:,}" for n in sorted(sizes)]}
    return Plot(
        title="Throughput against batch",
        caption="Up is better. Closed loop: the next query is sent when the last is answered.",
        traces=traces,
        layout=axes("samples a query", "samples/s", log="y", xaxis=ticks),
        missing="" if traces else "no row of a closed loop",
    )


def tail_curve(latency_ms: NDArray) -> tuple[NDArray, NDArray]:
    """Returns (latency, share of samples at least that slow): thinned evenly in the logarithm, the slowest all kept."""
    ordered, n = np.sort(latency_ms), len(latency_ms)
    thinned = np.geomspace(1, n, CURVE_POINTS).round().astype(int)
    counts = np.unique(np.concatenate([thinned, np.arange(1, min(n, WHOLE_TAIL) + 1)]))[::-1]
    return ordered[n - counts], counts / n


def _known_percentiles(row: Row) -> tuple[NDArray, NDArray] | None:
    latency = row.latency_ms
    known = [(latency[name], 1 - share / 1000) for name, share in PER_MILLE.items() if latency[name] is not None]
    if not known or latency["max"] is None:
        return None
    latency_ms, share = np.array([*known, (latency["max"], 1 / latency["n"])]).T
    return latency_ms, share


def _limit_line(row: Row, shown: Shown, rarest: float) -> Trace:
    line = _level(row.slo_ms or 0.0, (1.0, rarest), f"limit of p99, {row.slo_ms:g} ms")
    meta = {"row": shown.key(row), "choice": choice_of(row, _rows(shown))}
    return {**line, "x": line["y"], "y": line["x"], "meta": meta, "text": ["", ""]}


def _level(value: float, ends: tuple[float, float], words: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": words,
        "x": list(ends),
        "y": [value, value],
        "text": [words, ""],
        "textposition": "top right",
        "line": {"color": AXIS_GREY, "width": 1.5, "dash": "dash"},
        "hovertemplate": f"{words}<extra></extra>",
        "meta": {},
    }


def _with_frontier(traces: Iterable[Trace], better: str) -> list[Trace]:
    traces = list(traces)
    return [*traces, {**FRONTIER, "x": [], "y": [], "meta": {"frontier": better}}] if traces else []


def _choices(shown: Shown) -> list[str]:
    rows = _rows(shown)
    ordered = sorted(rows, key=lambda row: (SCENARIOS.index(row.scenario), row.batch_size))
    return list(dict.fromkeys(choice_of(row, rows) for row in ordered))


def _rows(shown: Shown) -> list[Row]:
    return [row for variant in shown.variants for row in variant.rows]


def _bracket(row: Row) -> str:
    failed = (row.search or {}).get("failed_at_qps")
    return f"failed at {format_number(failed)} queries/s" if failed else "failed at no rate tried"


def _quality_words(variant: Variant) -> list[str]:
    metric, kept = variant.first("quality_metric"), variant.first("quality_retained")
    words = f"{metric_name(metric)} {format_quality((variant.first('quality') or {}).get(metric))}"
    return [words + (f", {format_percent(kept)}% of fp32" if kept is not None else "")]


def _quality(variant: Variant) -> float | None:
    """Returns percent of fp32's quality if that is known, otherwise the metric itself."""
    kept = variant.first("quality_retained")
    if kept is not None:
        return 100 * kept
    return (variant.first("quality") or {}).get(variant.first("quality_metric"))


def _quality_interval(variant: Variant) -> list[float] | None:
    """Returns the 95% interval of the percent of fp32's quality, None if there is none."""
    interval = variant.first("quality_retained_ci95")
    return None if interval is None else [100 * bound for bound in interval]


def _quality_axis(variants: Sequence[Variant]) -> str:
    metric = metric_name(variants[0].first("quality_metric"))
    return f"{metric}, % of fp32" if variants[0].first("quality_retained") is not None else metric


def _short(values: NDArray) -> list[float]:
    """Returns four significant digits: more than a plot can show."""
    return [float(f"{value:.4g}") for value in values]
