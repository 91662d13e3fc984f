"""The plots of `report.html`, one function a plot; each returns a figure without title or legend.

A variant has one colour and one marker in every plot. The page draws a single legend for all plots of a
model and switches scenarios, by each trace's `meta`: {"variant": name, "scenario": name}, either of them
absent if the trace belongs to all.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from benchmarks.results import Row
from benchmarks.statistics import LEVELS
from benchmarks.summary import (
    Variant,
    format_bytes,
    format_number,
    format_percent,
    format_quality,
    format_speedup,
    metric_name,
    samples_key,
)

# Okabe and Ito (2008), colour-blind safe; its black and yellow are left out, as one page is white, one dark.
COLOURS = ("#8a8f98", "#0077c2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")
AXIS_GREY = "#7d838c"  # legible on white and on the dark page
GRID_GREY = "rgba(128, 134, 145, 0.22)"
CURVE_POINTS = 240
FRONTIER_SCENARIOS = ("single_stream", "multi_stream", "server")

Style = Mapping[str, str]  # colour and symbol


def variant_styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns colour and marker by variant name, in order of first appearance; fp32 comes first and is grey."""
    return {
        name: {"colour": COLOURS[index % len(COLOURS)], "symbol": SYMBOLS[index % len(SYMBOLS)]}
        for index, name in enumerate(dict.fromkeys(names))
    }


def quality_against_p99(variants: Sequence[Variant], styles: Mapping[str, Style]) -> go.Figure:
    """Returns quality over p99, a group of traces for each scenario, with the line of undominated variants."""
    figure = _figure("p99 latency, ms", _quality_axis(variants))
    p99_ms = []
    for scenario in FRONTIER_SCENARIOS:
        points = []
        for variant in variants:
            row, quality = variant.best(scenario), _quality(variant)
            if row is None or quality is None or row.latency_ms["p99"] is None:
                continue
            x, interval = row.latency_ms["p99"], row.latency_ms["ci95_p99"]
            p99_ms.append(x)
            lower, upper = interval or (x, x)
            bars = {"array": [upper - x], "arrayminus": [x - lower], "thickness": 1, "width": 3}
            lines = [f"p50 {format_number(row.latency_ms['p50'])} ms", f"p99 {format_number(x)} ms"]
            lines[1] += f" (95%: {format_number(lower)} to {format_number(upper)})" if interval else ""
            _add_point(figure, variant, row, (x, quality), styles, scenario, lines, error_x=bars)
            points += [(x, quality)] if row.valid else []
        _add_frontier(figure, points, scenario)
    _log_axis(figure.layout.xaxis, p99_ms)
    _frame_quality(figure, variants)
    return figure


def quality_against_rate(variants: Sequence[Variant], styles: Mapping[str, Style]) -> go.Figure:
    """Returns quality over the highest server rate within the limit, with the line of undominated variants."""
    figure = _figure("server rate within the limit, queries/s", _quality_axis(variants))
    points, rates = [], []
    for variant in variants:
        row, quality = variant.best("server"), _quality(variant)
        if row is None or quality is None or row.target_qps is None:
            continue
        rates.append(row.target_qps)
        lines = [f"{format_number(row.target_qps)} queries/s", f"p99 {format_number(row.latency_ms['p99'])} ms"]
        lines[1] += f", limit {row.slo_ms:g} ms" if row.slo_ms else ""
        _add_point(figure, variant, row, (row.target_qps, quality), styles, None, lines)
        points += [(-row.target_qps, quality)] if row.valid else []
    _add_frontier(figure, points, None, sign=-1)
    _log_axis(figure.layout.xaxis, rates)
    _frame_quality(figure, variants)
    return figure


def latency_distribution(
    variants: Sequence[Variant], styles: Mapping[str, Style], scenario: str, samples: Mapping[str, NDArray]
) -> go.Figure:
    """Returns latency percentiles over a log axis that gives every further nine the same height."""
    figure = _figure("latency, ms", "percentile")
    shown_ms, rarest = [], 1.0
    for variant in variants:
        if (row := variant.best(scenario)) is None:
            continue
        raw = samples.get(samples_key(row))
        latency_ms, share = _known_percentiles(row) if raw is None else _tail_curve(np.asarray(raw))
        colour = styles[variant.name]["colour"]
        percentile = [f"p{100 * (1 - s):.4g}" if s < 1 else "fastest" for s in share]
        figure.add_scatter(
            x=latency_ms.tolist(),
            y=share.tolist(),
            customdata=percentile,
            name=html.escape(variant.name),
            meta={"variant": variant.name},
            mode="lines" if raw is not None else "lines+markers",
            line={"color": colour, "width": 2, "dash": "solid" if raw is not None else "dot"},
            hovertemplate="%{customdata}: %{x:.3~g} ms<extra>%{fullData.name}</extra>",
        )
        shown_ms += [float(latency_ms[0]), float(latency_ms[-1])]
        rarest = min(rarest, float(share[-1]))
    if scenario == "server" and (slo_ms := variants[0].first("slo_ms")):
        figure.add_vline(x=slo_ms, line={"color": AXIS_GREY, "width": 1, "dash": "dash"})
        figure.add_annotation(
            x=math.log10(slo_ms),
            y=1,
            yref="paper",
            text=f"limit {slo_ms:g} ms",
            showarrow=False,
            xanchor="right",
            xshift=-4,
        )
        shown_ms.append(slo_ms)
    _log_axis(figure.layout.xaxis, shown_ms)
    ticks = {0.5: "p50", 0.1: "p90", 0.01: "p99", 1e-3: "p99.9", 1e-4: "p99.99", 1e-5: "p99.999"}
    figure.update_yaxes(type="log", tickvals=list(ticks), ticktext=list(ticks.values()))
    figure.update_yaxes(range=[0.02, math.log10(rarest) - 0.1])
    return figure


def throughput_against_batch(variants: Sequence[Variant], styles: Mapping[str, Style]) -> go.Figure:
    """Returns samples/s over samples a query in the closed-loop scenarios, log-log."""
    figure = _figure("samples a query", "samples/s")
    sizes, rates = set(), []
    for variant in variants:
        closed = [row for name in ("single_stream", "multi_stream", "offline") for row in variant.of(name)]
        closed.sort(key=lambda row: row.batch_size)
        sizes |= {row.batch_size for row in closed}
        rates += [row.throughput_samples_per_s for row in closed]
        style = styles[variant.name]
        hover = [
            f"{row.scenario}, {row.batch_size} a query<br>{format_number(row.throughput_samples_per_s)} samples/s"
            + (f", {format_speedup(row.speedup)} of fp32" if row.speedup else "")
            for row in closed
        ]
        figure.add_scatter(
            x=[row.batch_size for row in closed],
            y=[row.throughput_samples_per_s for row in closed],
            customdata=hover,
            name=html.escape(variant.name),
            meta={"variant": variant.name},
            mode="lines+markers",
            line={"color": style["colour"], "width": 2},
            marker={"symbol": style["symbol"], "size": 8},
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(type="log", tickvals=sorted(sizes), ticktext=[f"{size:,}" for size in sorted(sizes)])
    _log_axis(figure.layout.yaxis, rates)
    return figure


def memory_bars(variants: Sequence[Variant], styles: Mapping[str, Style]) -> go.Figure:
    """Returns bytes of dense layers, of the other parameters and of the largest program, each on its own axis."""
    largest = max((row.batch_size for variant in variants for row in variant.rows), default=0)
    parts: dict[str, list[float | None]] = {
        "dense layers": [variant.first("dense_layer_bytes") for variant in variants],
        "other parameters": [_other_bytes(variant) for variant in variants],
        f"program, batch {largest}": [_program_bytes(variant, largest) for variant in variants],
    }
    figure = _figure("", "")
    titles = []
    for name, values in parts.items():
        unit, word = (1e6, "MB") if max(value or 0 for value in values) >= 1e6 else (1e3, "kB")
        titles.append(f"{name}<br>{word}")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.1, figure=figure)
    for column, (name, values) in enumerate(parts.items(), start=1):
        unit, word = (1e6, "MB") if max(value or 0 for value in values) >= 1e6 else (1e3, "kB")
        for variant, value in zip(variants, values, strict=True):
            figure.add_bar(
                x=[html.escape(variant.name)],
                y=[None if value is None else value / unit],
                name=html.escape(variant.name),
                meta={"variant": variant.name},
                marker={"color": styles[variant.name]["colour"]},
                hovertemplate=f"{name}: {format_bytes(value, unit)} {word}<extra>%{{fullData.name}}</extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(showticklabels=False, title=None, showgrid=False)
    figure.update_yaxes(title=None, rangemode="tozero", nticks=5)
    figure.update_annotations(font={"size": 12, "color": AXIS_GREY})
    figure.update_layout(margin={"t": 44, "b": 12}, bargap=0.2)
    return figure


def log_ticks(low: float, high: float) -> list[float]:
    """Returns round numbers from `low` to `high`, three to ten of them."""
    for mantissas in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        tuple(np.arange(1, 10, 0.5)),
        tuple(np.arange(1, 10, 0.1)),
    ):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{m * 10.0**d:.3g}") for d in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 10)]
    return ticks


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    axis = {
        "gridcolor": GRID_GREY,
        "linecolor": GRID_GREY,
        "zerolinecolor": GRID_GREY,
        "tickfont": {"color": AXIS_GREY},
        "title": {"font": {"color": AXIS_GREY, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    figure.update_layout(
        template={"layout": {"xaxis": axis, "yaxis": axis}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": AXIS_GREY},
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        height=320,
        showlegend=False,
        hovermode="closest",
        hoverlabel={"align": "left", "namelength": -1},
    )
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title)
    return figure


def _add_point(
    figure: go.Figure,
    variant: Variant,
    row: Row,
    point: tuple[float, float],
    styles: Mapping[str, Style],
    scenario: str | None,
    lines: Sequence[str],
    **options: object,
) -> None:
    metric, style = variant.first("quality_metric"), styles[variant.name]
    quality = f"{metric_name(metric)} {format_quality((variant.first('quality') or {}).get(metric))}"
    kept = variant.first("quality_retained")
    quality += f", {format_percent(kept)}% of fp32" if kept is not None else ""
    invalid = [] if row.valid else [f"invalid: {row.invalid_reason}"]
    figure.add_scatter(
        x=[point[0]],
        y=[point[1]],
        name=html.escape(variant.name),
        meta={"variant": variant.name} | ({"scenario": scenario} if scenario else {}),
        visible=scenario in (None, FRONTIER_SCENARIOS[0]),
        mode="markers",
        marker={
            "color": style["colour"],
            "symbol": style["symbol"] if row.valid else f"{style['symbol']}-open",
            "size": 12,
        },
        hovertext="<br>".join(html.escape(line) for line in (quality, *lines, *invalid)),
        hovertemplate="%{hovertext}<extra>%{fullData.name}</extra>",
        **options,
    )


def _add_frontier(
    figure: go.Figure, points: Iterable[tuple[float, float]], scenario: str | None, sign: int = 1
) -> None:
    """Joins the points that no other beats on both axes; less x (times `sign`) and more quality are better."""
    best: list[tuple[float, float]] = []
    for x, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((x, quality))
    figure.add_scatter(
        x=[sign * x for x, _ in best],
        y=[quality for _, quality in best],
        meta={"scenario": scenario} if scenario else {},
        visible=scenario in (None, FRONTIER_SCENARIOS[0]),
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


def _quality_axis(variants: Sequence[Variant]) -> str:
    metric = metric_name(variants[0].first("quality_metric"))
    return f"{metric}, % of fp32" if variants[0].first("quality_retained") is not None else metric


def _frame_quality(figure: go.Figure, variants: Sequence[Variant]) -> None:
    values = [value for variant in variants if (value := _quality(variant)) is not None]
    if values:
        padding = max(0.12 * (max(values) - min(values)), 0.005 * max(values))
        figure.update_yaxes(range=[min(values) - padding, max(values) + padding])


def _log_axis(axis: go.layout.XAxis | go.layout.YAxis, values: Sequence[float]) -> None:
    axis.type = "log"
    positive = [value for value in values if value > 0]
    if positive:
        ticks = log_ticks(min(positive) / 1.3, max(positive) * 1.3)
        axis.update(tickvals=ticks, ticktext=[_short(tick) for tick in ticks])


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _tail_curve(latency_ms: NDArray) -> tuple[NDArray, NDArray]:
    """Returns (latency, share of samples at least that slow), thinned evenly in the logarithm of the share."""
    ordered, n = np.sort(latency_ms), len(latency_ms)
    counts = np.unique(np.geomspace(1, n, CURVE_POINTS).round().astype(int))[::-1]
    return ordered[n - counts], counts / n


def _known_percentiles(row: Row) -> tuple[NDArray, NDArray]:
    known = [
        (row.latency_ms[name], 1 - level / 100) for name, level in LEVELS.items() if row.latency_ms[name] is not None
    ]
    known.append((row.latency_ms["max"], 1 / row.latency_ms["n"]))
    latency_ms, share = np.array(known).T
    return latency_ms, share


def _other_bytes(variant: Variant) -> float | None:
    total, dense = variant.first("parameter_bytes"), variant.first("dense_layer_bytes")
    return None if dense is None else total - dense


def _program_bytes(variant: Variant, batch_size: int) -> float | None:
    rows = [row for row in variant.rows if row.batch_size == batch_size and row.program_memory_bytes is not None]
    return rows[0].program_memory_bytes if rows else None
