"""The plots of `report.html`, one function a plot.

The page draws a single legend for all plots of a model and switches scenarios, by each trace's `meta`:
{"variant": name, "scenario": name}, either of them absent if the trace belongs to all. A scenario's ticks
are in the layout's `meta`.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from benchmarks.plot_style import AXIS_GREY, Style, blank_figure, set_log_axis, tick_labels
from benchmarks.results import Row
from benchmarks.statistics import PER_MILLE
from benchmarks.summary import (
    Variant,
    format_bytes,
    format_gain,
    format_number,
    format_percent,
    format_quality,
    metric_name,
    samples_key,
)

CLOSED_LOOP = ("single_stream", "multi_stream", "offline")
FRONTIER_SCENARIOS = ("single_stream", "multi_stream", "server")
CURVE_POINTS = 240
PERCENTILE_TICKS = {0.5: "p50", 0.1: "p90", 0.01: "p99", 1e-3: "p99.9", 1e-4: "p99.99", 1e-5: "p99.999"}

Styles = Mapping[str, Style]  # by variant name


def quality_against_p99(variants: Sequence[Variant], styles: Styles) -> go.Figure:
    """Returns quality over p99, a group of traces for each scenario, with the line of undominated variants."""
    figure = blank_figure("p99 latency, ms", _quality_axis(variants))
    measured = [name for name in FRONTIER_SCENARIOS if any(variant.of(name) for variant in variants)]
    ticks = {}
    for scenario in measured:
        group: dict[str, Any] = {"scenario": scenario, "visible": scenario == measured[0]}
        points, shown_ms = [], []
        for variant in variants:
            row, quality = variant.best(scenario), _quality(variant)
            if row is None or quality is None or row.latency_ms["p99"] is None:
                continue
            x, interval = row.latency_ms["p99"], row.latency_ms["ci95_p99"]
            lower, upper = interval or (x, x)
            bars = {"array": [upper - x], "arrayminus": [x - lower], "thickness": 1, "width": 3}
            lines = [f"p50 {format_number(row.latency_ms['p50'])} ms", f"p99 {format_number(x)} ms"]
            lines[1] += f" (95%: {format_number(lower)} to {format_number(upper)})" if interval else ""
            _add_point(figure, variant, row, (x, quality), styles, lines, error_x=bars, **group)
            shown_ms += [lower, upper]
            points += [(x, quality)] if row.valid else []
        _add_frontier(figure, points, **group)
        ticks[scenario] = tick_labels(shown_ms)
    figure.update_xaxes(type="log", **(ticks[measured[0]] if measured else {}))
    figure.update_layout(meta={"xaxis": ticks})
    _frame_quality(figure, variants)
    return figure


def quality_against_rate(variants: Sequence[Variant], styles: Styles) -> go.Figure:
    """Returns quality over the highest server rate within the limit, with the line of undominated variants."""
    figure = blank_figure("server rate within the limit, queries/s", _quality_axis(variants))
    points, rates = [], []
    for variant in variants:
        row, quality = variant.best("server"), _quality(variant)
        if row is None or quality is None or row.target_qps is None:
            continue
        rates.append(row.target_qps)
        lines = [f"{format_number(row.target_qps)} queries/s", f"p99 {format_number(row.latency_ms['p99'])} ms"]
        lines[1] += f", limit {row.slo_ms:g} ms" if row.slo_ms else ""
        _add_point(figure, variant, row, (row.target_qps, quality), styles, lines)
        points += [(row.target_qps, quality)] if row.valid else []
    _add_frontier(figure, points, more_is_better=True)
    set_log_axis(figure.layout.xaxis, rates)
    _frame_quality(figure, variants)
    return figure


def latency_distribution(
    variants: Sequence[Variant], styles: Styles, scenario: str, samples: Mapping[str, NDArray]
) -> go.Figure:
    """Returns latency percentiles over a log axis that gives every further nine the same height."""
    figure = blank_figure("latency, ms", "percentile")
    shown_ms, rarest = [], 0.1
    for variant in variants:
        if (row := variant.best(scenario)) is None:
            continue
        raw = samples.get(samples_key(row))
        latency_ms, share = _known_percentiles(row) if raw is None else _tail_curve(np.asarray(raw))
        figure.add_scatter(
            x=latency_ms.tolist(),
            y=share.tolist(),
            customdata=[f"p{100 * (1 - s):.4g}" if s < 1 else "fastest" for s in share],
            name=html.escape(variant.name),
            meta={"variant": variant.name},
            mode="lines" if raw is not None else "lines+markers",
            line={"color": styles[variant.name].colour, "width": 2, "dash": "solid" if raw is not None else "dot"},
            hovertemplate="%{customdata}: %{x:.3~g} ms<extra>%{fullData.name}</extra>",
        )
        shown_ms += [float(latency_ms[0]), float(latency_ms[-1])]
        rarest = min(rarest, float(share[-1]))
    if scenario == "server" and (slo_ms := variants[0].first("slo_ms")):
        figure.add_vline(x=slo_ms, line={"color": AXIS_GREY, "width": 1, "dash": "dash"})
        words = {"text": f"limit {slo_ms:g} ms", "showarrow": False, "xanchor": "right", "xshift": -3}
        figure.add_annotation(x=math.log10(slo_ms), y=0, yref="paper", **words)
        shown_ms.append(slo_ms)
    set_log_axis(figure.layout.xaxis, shown_ms)
    figure.update_yaxes(type="log", tickvals=list(PERCENTILE_TICKS), ticktext=list(PERCENTILE_TICKS.values()))
    figure.update_yaxes(range=[0.02, math.log10(rarest) - 0.1])
    return figure


def throughput_against_batch(variants: Sequence[Variant], styles: Styles) -> go.Figure:
    """Returns samples/s over samples a query in the closed-loop scenarios, log-log."""
    figure = blank_figure("samples a query", "samples/s")
    sizes: set[int] = set()
    rates = []
    for variant in variants:
        by_size = {row.batch_size: row for scenario in CLOSED_LOOP for row in variant.of(scenario)}
        closed = [by_size[size] for size in sorted(by_size)]
        sizes |= by_size.keys()
        rates += [row.throughput_samples_per_s for row in closed]
        hover = [
            f"{row.scenario}, {row.batch_size} a query<br>{format_number(row.throughput_samples_per_s)} samples/s"
            + (f", {format_gain(row.speedup['median'])} of fp32" if row.speedup else "")
            for row in closed
        ]
        figure.add_scatter(
            x=[row.batch_size for row in closed],
            y=[row.throughput_samples_per_s for row in closed],
            customdata=hover,
            name=html.escape(variant.name),
            meta={"variant": variant.name},
            mode="lines+markers",
            line={"color": styles[variant.name].colour, "width": 2},
            marker={"symbol": styles[variant.name].symbol, "size": 8},
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(type="log", tickvals=sorted(sizes), ticktext=[f"{size:,}" for size in sorted(sizes)])
    set_log_axis(figure.layout.yaxis, rates)
    return figure


def memory_bars(variants: Sequence[Variant], styles: Styles) -> go.Figure:
    """Returns bytes of dense layers, of the other parameters and of the largest program, each on its own axis."""
    largest = max(row.batch_size for variant in variants for row in variant.rows)
    parts: dict[str, list[float | None]] = {
        "dense layers": [variant.first("dense_layer_bytes") for variant in variants],
        "other parameters": [_other_bytes(variant) for variant in variants],
        f"program, batch {largest}": [_program_bytes(variant, largest) for variant in variants],
    }
    units = [(1e6, "MB") if max(value or 0 for value in values) >= 1e6 else (1e3, "kB") for values in parts.values()]
    titles = [f"{name}<br>{word}" for name, (_, word) in zip(parts, units, strict=True)]
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.1, figure=blank_figure("", ""))
    for column, ((name, values), (unit, word)) in enumerate(zip(parts.items(), units, strict=True), start=1):
        for variant, value in zip(variants, values, strict=True):
            figure.add_bar(
                x=[html.escape(variant.name)],
                y=[None if value is None else value / unit],
                name=html.escape(variant.name),
                meta={"variant": variant.name},
                marker={"color": styles[variant.name].colour, "line": {"width": 0}},
                hovertemplate=f"{name}: {format_bytes(value, unit)} {word}<extra>%{{fullData.name}}</extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(showticklabels=False, title=None, showgrid=False)
    figure.update_yaxes(title=None, rangemode="tozero", nticks=5)
    figure.update_annotations(font={"size": 12, "color": AXIS_GREY})
    figure.update_layout(margin={"t": 44, "b": 12}, bargap=0.2)
    return figure


def _add_point(
    figure: go.Figure,
    variant: Variant,
    row: Row,
    point: tuple[float, float],
    styles: Styles,
    lines: Sequence[str],
    scenario: str | None = None,
    **options: Any,
) -> None:
    metric, style = variant.first("quality_metric"), styles[variant.name]
    quality = f"{metric_name(metric)} {format_quality((variant.first('quality') or {}).get(metric))}"
    kept = variant.first("quality_retained")
    quality += f", {format_percent(kept)}% of fp32" if kept is not None else ""
    low, high = _quality_interval(variant) or (point[1], point[1])
    bars = {"array": [high - point[1]], "arrayminus": [point[1] - low], "thickness": 1, "width": 3}
    invalid = [] if row.valid else [f"invalid: {row.invalid_reason}"]
    figure.add_scatter(
        x=[point[0]],
        y=[point[1]],
        name=html.escape(variant.name),
        meta={"variant": variant.name, "scenario": scenario},
        mode="markers",
        marker={"color": style.colour, "symbol": style.symbol if row.valid else f"{style.symbol}-open", "size": 12},
        hovertext="<br>".join(html.escape(line) for line in (quality, *lines, *invalid)),
        hovertemplate="%{hovertext}<extra>%{fullData.name}</extra>",
        error_y=bars,
        **options,
    )


def _add_frontier(
    figure: go.Figure,
    points: Iterable[tuple[float, float]],
    scenario: str | None = None,
    more_is_better: bool = False,
    visible: bool = True,
) -> None:
    """Joins the points that no other beats in quality and in x, of which less is better unless said otherwise."""
    best: list[tuple[float, float]] = []
    for x, quality in sorted(points, key=lambda point: (-point[0] if more_is_better else point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((x, quality))
    figure.add_scatter(
        x=[x for x, _ in best],
        y=[quality for _, quality in best],
        meta={"scenario": scenario},
        visible=visible,
        mode="lines",
        line={"color": AXIS_GREY, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )


def _quality(variant: Variant) -> float | None:
    """Returns percent of fp32's quality if that is known, otherwise the metric itself."""
    kept = variant.first("quality_retained")
    if kept is not None:
        return 100 * kept
    return (variant.first("quality") or {}).get(variant.first("quality_metric"))


def _quality_interval(variant: Variant) -> tuple[float, float] | None:
    """Returns the 95% interval of the percent of fp32's quality, None if there is none."""
    interval = variant.first("quality_retained_ci95")
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _quality_axis(variants: Sequence[Variant]) -> str:
    metric = metric_name(variants[0].first("quality_metric"))
    return f"{metric}, % of fp32" if variants[0].first("quality_retained") is not None else metric


def _frame_quality(figure: go.Figure, variants: Sequence[Variant]) -> None:
    values = [value for variant in variants if (value := _quality(variant)) is not None]
    values += [bound for variant in variants for bound in _quality_interval(variant) or ()]
    if values:
        padding = max(0.12 * (max(values) - min(values)), 0.005 * max(values))
        figure.update_yaxes(range=[min(values) - padding, max(values) + padding])


def _tail_curve(latency_ms: NDArray) -> tuple[NDArray, NDArray]:
    """Returns (latency, share of samples at least that slow), thinned evenly in the logarithm of the share."""
    ordered, n = np.sort(latency_ms), len(latency_ms)
    counts = np.unique(np.geomspace(1, n, CURVE_POINTS).round().astype(int))[::-1]
    return ordered[n - counts], counts / n


def _known_percentiles(row: Row) -> tuple[NDArray, NDArray]:
    latency = row.latency_ms
    known = [(latency[name], 1 - share / 1000) for name, share in PER_MILLE.items() if latency[name] is not None]
    latency_ms, share = np.array([*known, (latency["max"], 1 / latency["n"])]).T
    return latency_ms, share


def _other_bytes(variant: Variant) -> float | None:
    total, dense = variant.first("parameter_bytes"), variant.first("dense_layer_bytes")
    return None if dense is None else total - dense


def _program_bytes(variant: Variant, batch_size: int) -> float | None:
    sizes = [row.program_memory_bytes for row in variant.rows if row.batch_size == batch_size]
    return next((size for size in sizes if size is not None), None)
