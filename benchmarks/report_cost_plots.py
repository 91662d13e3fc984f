"""The report's plots of what limits a row and what it takes: roofline, memory, padding, parts of the latency."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.plot_style import AXIS_GREY, PART_COLOURS, PATTERNS
from benchmarks.report_contents import TIME_SPLITS
from benchmarks.report_figure import (
    MARK_FONT,
    Plot,
    Shown,
    Trace,
    axes,
    choice_of,
    curve_of,
    hover_text,
    marks,
    points,
    wrapped,
)
from benchmarks.results import Row
from benchmarks.suite import SCENARIOS
from benchmarks.summary import Variant, format_bytes, format_number, format_percent
from recjax.load.window import PARTS

BAR_PX, FRAME_PX = 44, 130  # of horizontal bars: height of one, and of everything around them


def roofline(shown: Shown) -> Plot:
    """Returns operations a second over operations a byte, below the ceilings measured in the run, log-log."""
    traces, intensities = list[Trace](), list[float]()
    for variant in shown.variants:
        rows = [row for row in variant.rows if row.flops_per_sample and row.bytes_per_sample]
        rows.sort(key=lambda row: row.batch_size)
        if not rows:
            continue
        x = [row.flops_per_sample / row.bytes_per_sample for row in rows]  # type: ignore[operator]
        y = [row.flops_per_sample * row.throughput_samples_per_s for row in rows]  # type: ignore[operator]
        intensities += x
        words = [
            [
                f"{format_number(rate)} FLOP/s at {format_number(intensity)} FLOP/byte",
                _share_in_words(row),
            ]
            for row, intensity, rate in zip(rows, x, y, strict=True)
        ]
        bounds = [
            [row.flops_per_sample * bound for bound in row.throughput_ci95] if row.throughput_ci95 else None  # type: ignore[operator]
            for row in rows
        ]
        traces.append(points(shown, variant, rows, x, y, words, y_bounds=bounds, lines=True))
        traces[-1]["line"] = traces[-1]["line"] | {"width": 1}
    ceilings: Mapping[str, Any] = shown.variants[0].rows[0].environment.get("ceilings") or {}
    if intensities and ceilings:
        traces += _roofs(ceilings, min(intensities), max(intensities))
    return Plot(
        title="Roofline",
        caption="Grey: ceilings measured at the start of the run. Under the slope memory limits, under a flat line "
        "products do. FLOP and bytes are the compiler's counts, so a point above comes from caches.",
        traces=traces,
        layout=axes("FLOP per byte", "FLOP/s", log="xy"),
        missing="" if intensities else "the rows have no count of operations and bytes",
    )


def stored_bytes(shown: Shown) -> Plot:
    """Returns the bytes of a variant's stored variables as stacked bars."""
    parts: dict[str, list[float | None]] = {"embedding tables": [], "dense layers": [], "other": []}
    variants = [variant for variant in shown.variants if variant.first("parameter_bytes") is not None]
    for variant in variants:
        total, dense = variant.first("parameter_bytes"), variant.first("dense_layer_bytes")
        tables = variant.first("table_bytes")
        parts["embedding tables"].append(tables)
        parts["dense layers"].append(dense)
        parts["other"].append(total - (dense or 0) - (tables or 0))
    unit, unit_bytes = _unit(parts)
    if variants and all(value is None for value in parts["embedding tables"]):
        parts = {"dense layers": parts["dense layers"], "tables and other": parts["other"]}
    in_unit = {
        name: [None if value is None else value / unit_bytes for value in values] for name, values in parts.items()
    }

    def in_words(value: float) -> str:
        return f"{format_number(value)} {unit}"

    return Plot(
        title="Stored parameters",
        caption="Left is better: bytes of the arrays that are stored and served, counted.",
        traces=_stacked(shown, variants, [variant.rows for variant in variants], in_unit, in_words, colours=(4, 2, 0)),
        layout=_bar_layout(unit, len(variants)),
        missing="" if variants else "no row has the bytes of its variables",
    )


def program_bytes(shown: Shown) -> Plot:
    """Returns what the compiler plans for a program of each batch size."""
    traces = []
    for variant in shown.variants:
        by_size = {row.batch_size: row for row in variant.rows if row.program_memory_bytes is not None}
        rows = [by_size[size] for size in sorted(by_size)]
        if rows:
            sizes = [float(row.batch_size) for row in rows]
            megabytes = [(row.program_memory_bytes or 0) / 1e6 for row in rows]
            words = [[f"{format_bytes(row.program_memory_bytes)} MB planned"] for row in rows]
            traces.append(points(shown, variant, rows, sizes, megabytes, words, lines=True, text=[""] * len(rows)))
    ticks = sorted({x for trace in traces for x in trace["x"]})
    x_axis = {"type": "log", "tickvals": ticks, "ticktext": [f"{x:,.0f}" for x in ticks]}
    return Plot(
        title="Memory of the program",
        caption="Down is better: arguments, outputs and temporaries as the compiler plans them, not measured. "
        + measured_peaks(shown),
        traces=traces,
        layout=axes("batch size", "MB, planned", log="y", xaxis=x_axis),
        missing="" if traces else "the compiler gives no memory analysis here",
    )


def measured_peaks(shown: Shown) -> str:
    """Returns in words what the device and the host held at most."""
    words = []
    for field, name in (("peak_memory_bytes", "the device"), ("peak_host_bytes", "the host")):
        held = [value for variant in shown.variants for row in variant.rows if (value := getattr(row, field))]
        if held:
            words.append(f"{name} {format_bytes(max(held))} MB")
    if not words:
        return "No peak was measured."
    return f"Measured peak of the process that holds all variants: {', '.join(words)}."


def padding_waste(shown: Shown) -> Plot:
    """Returns the padded share of the server's batches over the offered rate."""
    traces = []
    for variant in shown.variants:
        for row in variant.of("server"):
            if row.target_qps is None:
                continue
            curve = curve_of(row)
            rates = [point["rate_qps"] for point in curve] + [row.target_qps]
            shares = [100 * point["padding_waste"] for point in curve] + [100 * row.padding_waste]
            words = [
                [f"{share:.1f}% of the computed samples are padding", f"{format_number(rate)} queries/s"]
                for rate, share in zip(rates, shares, strict=True)
            ]
            traces.append(points(shown, variant, [row] * len(rates), rates, shares, words, lines=True))
            traces[-1]["text"] = [""] * len(curve) + [marks(row)]
    every = [row for variant in shown.variants for row in variant.rows]
    sizes = sorted({row.batch_size for row in every})
    closed = max((row.padding_waste for row in every if row.scenario != "server"), default=None)
    others = "" if closed is None else f" Closed loops: at most {format_percent(closed)}%."
    return Plot(
        title="Padding",
        caption="Down is better: share of the server's computed samples that nobody asked for. A batch is padded to "
        f"the next compiled size; measured sizes: {', '.join(f'{size:,}' for size in sizes)}.{others}",
        traces=traces,
        layout=axes(
            "offered rate, queries/s", "padding, % of computed samples", log="x", yaxis={"rangemode": "tozero"}
        ),
        missing="" if traces else "no row of the server scenario",
    )


def time_split(shown: Shown) -> Plot:
    """Returns the mean of each part of a latency, as stacked bars."""
    return _time_split(shown, "time_split_ms", "mean latency, ms")


def tail_split(shown: Shown) -> Plot:
    """Returns the same of the slowest 1% of the queries."""
    return _time_split(shown, "tail_split_ms", "mean latency of the slowest 1%, ms")


def _time_split(shown: Shown, field: str, axis: str) -> Plot:
    every = [row for variant in shown.variants for row in variant.rows]
    ordered = sorted(every, key=lambda row: (SCENARIOS.index(row.scenario), row.batch_size))
    choices = list(dict.fromkeys(choice_of(row, every) for row in ordered if getattr(row, field)))
    traces = []
    for choice in choices:
        measured = [
            (variant, row, getattr(row, field))
            for variant in shown.variants
            for row in variant.rows
            if getattr(row, field) and choice_of(row, every) == choice
        ]
        named = [name for name in PARTS if any(name in split for _, _, split in measured)]
        parts = {name.replace("_", " "): [split.get(name, 0.0) for _, _, split in measured] for name in named}
        variants, rows = [variant for variant, _, _ in measured], [[row] for _, row, _ in measured]
        colours = [PARTS.index(name) for name in named]
        traces += _stacked(
            shown, variants, rows, parts, lambda ms: f"{format_number(ms)} ms", colours=colours, choice=choice
        )
    title, caption = TIME_SPLITS[field]
    return Plot(
        title=title,
        caption=f"Left is better. {caption}",
        traces=traces,
        layout=_bar_layout(axis, len(shown.variants)),
        choices=choices,
        missing=""
        if traces
        else "the rows have no parts of their latency (rows have them since version 4, of the "
        "slowest queries since version 5)",
    )


def _unit(parts: Mapping[str, Sequence[float | None]]) -> tuple[str, float]:
    """Returns the unit for bars of these bytes, and how many bytes it is."""
    largest = max((value or 0.0 for values in parts.values() for value in values), default=0.0)
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((name, size) for name, size in units if largest >= size), ("bytes", 1.0))


def _stacked(
    shown: Shown,
    variants: Sequence[Variant],
    rows: Sequence[Sequence[Row]],
    parts: Mapping[str, Sequence[float | None]],
    in_words: Callable[[float], str],
    *,
    colours: Sequence[int],
    choice: str | None = None,
) -> list[Trace]:
    """Returns a trace a part; each bar is of `rows[i]`, any of which lets it pass the page's filters."""
    labels, firsts = [wrapped(variant.name) for variant in variants], [members[0] for members in rows]
    traces: list[Trace] = []
    for number, (name, values) in zip(colours, parts.items(), strict=False):
        words = [
            [f"{variant.name}: {name} {in_words(value)}"] if value is not None else [""]
            for variant, value in zip(variants, values, strict=True)
        ]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": list(values),
                "y": labels,
                "customdata": [
                    hover_text(row, line) if choice else line[0] for row, line in zip(firsts, words, strict=True)
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": {
                    "color": PART_COLOURS[number % len(PART_COLOURS)],
                    "line": {"width": 0},
                    "pattern": {
                        "shape": PATTERNS[number % len(PATTERNS)],
                        "size": 5,
                        "solidity": 0.3,
                        "fillmode": "overlay",
                    },
                },
                "showlegend": True,
                "meta": {"rows": [[shown.key(row) for row in members] for members in rows], "choice": choice},
            }
        )
    if traces and choice:
        traces[-1] |= {"text": [marks(row) for row in firsts], "textposition": "outside", "textfont": MARK_FONT}
    return traces


def _bar_layout(title: str, n_bars: int) -> dict[str, Any]:
    layout = axes(title, "", yaxis={"autorange": "reversed", "ticks": ""}, xaxis={"rangemode": "tozero", "nticks": 6})
    return layout | {
        "barmode": "stack",
        "bargap": 0.35,
        "height": max(320, FRAME_PX + BAR_PX * n_bars),
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }


def _roofs(ceilings: Mapping[str, Any], lowest: float, highest: float) -> list[Trace]:
    """Returns a line a type of product: what memory allows, up to what products allow."""
    bandwidth, traces = ceilings["bytes_per_s"], list[Trace]()
    peaks = {name: rate for name, rate in ceilings["flops_per_s"].items() if rate}
    for index, (name, peak) in enumerate(sorted(peaks.items(), key=lambda item: item[1])):
        ridge = peak / bandwidth
        left, right = min(lowest / 3, ridge), max(highest * 3, ridge * 3)
        words = f"{name}, {format_number(peak / 1e9)} GFLOP/s"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+text",
                "name": words,
                "x": [left, ridge, right] if index == 0 else [ridge, right],
                "y": [left * bandwidth, peak, peak] if index == 0 else [peak, peak],
                "text": ["", "", words] if index == 0 else ["", words],
                "textposition": "top left",
                "textfont": {"size": 11},
                "line": {"color": AXIS_GREY, "width": 1.5, "dash": ("solid", "dash", "dot", "dashdot")[index % 4]},
                "hovertemplate": f"{words}; memory {format_number(bandwidth / 1e9)} GB/s<extra></extra>",
                "meta": {},
            }
        )
    last = max(peaks.values(), default=0.0)
    if len(peaks) > 1 and math.isfinite(last):  # the slope goes on to the highest flat line
        first = min(peaks.values())
        x = [first / bandwidth, last / bandwidth]
        traces.append(traces[0] | {"x": x, "y": [first, last], "text": ["", ""], "mode": "lines"})
    return traces


def _share_in_words(row: Row) -> str:
    if row.achieved_fraction_of_roofline is None:
        return row.reasons.get("achieved_fraction_of_roofline", "")
    return f"{format_percent(row.achieved_fraction_of_roofline)}% of the ceiling, bound by {row.bound_by}"
