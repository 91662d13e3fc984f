"""How the report's plots look: one colour and marker a variant, empty figures and logarithmic axes."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito (2008), colour-blind safe; black and yellow are left out, for the page is white or dark.
COLOURS = ("#8a8f98", "#0077c2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
SYMBOLS = {  # plotly's name: the same shape in CSS, for the legend
    "circle": "circle(50%)",
    "square": "inset(6%)",
    "diamond": "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
    "triangle-up": "polygon(50% 6%, 100% 94%, 0 94%)",
    "triangle-down": "polygon(0 6%, 100% 6%, 50% 94%)",
    "pentagon": "polygon(50% 0, 100% 38%, 81% 100%, 19% 100%, 0 38%)",
    "hourglass": "polygon(4% 4%, 96% 4%, 4% 96%, 96% 96%)",
    "bowtie": "polygon(4% 4%, 4% 96%, 96% 4%, 96% 96%)",
}
AXIS_GREY = "#7d838c"  # legible on white and on the dark page
GRID_GREY = "rgba(128, 134, 145, 0.22)"
HEIGHT_PX = 320
FINER = tuple(tuple(n / parts for n in range(parts, 10 * parts)) for parts in (1, 2, 5, 10))
MANTISSAS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), *FINER)


@dataclasses.dataclass(frozen=True)
class Style:
    """How a variant is drawn everywhere; `shape` is the CSS clip path of `symbol`."""

    colour: str
    symbol: str
    shape: str


def variant_styles(names: Iterable[str]) -> dict[str, Style]:
    """Returns the style of each name, in order of first appearance; the first, fp32, is grey."""
    names = list(dict.fromkeys(names))
    colours, symbols = itertools.cycle(COLOURS), itertools.cycle(SYMBOLS)
    picked = [(name, next(colours), next(symbols)) for name in names]
    return {name: Style(colour, symbol, SYMBOLS[symbol]) for name, colour, symbol in picked}


def blank_figure(x_title: str, y_title: str) -> go.Figure:
    """Returns a figure without background, legend or title, whose grey text suits a white and a dark page."""
    axis = {
        "gridcolor": GRID_GREY,
        "linecolor": GRID_GREY,
        "zerolinecolor": GRID_GREY,
        "tickfont": {"color": AXIS_GREY},
        "title": {"font": {"color": AXIS_GREY, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    figure = go.Figure()
    figure.update_layout(
        template={"layout": {"xaxis": axis, "yaxis": axis}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": AXIS_GREY},
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        height=HEIGHT_PX,
        showlegend=False,
        hovermode="closest",
        hoverlabel={"align": "left", "namelength": -1},
        xaxis_title_text=x_title,
        yaxis_title_text=y_title,
    )
    return figure


def set_log_axis(axis: go.layout.XAxis | go.layout.YAxis, values: Iterable[float]) -> None:
    """Makes the axis logarithmic with round numbers around the values."""
    axis.update(type="log", **tick_labels(values))


def tick_labels(values: Iterable[float]) -> dict[str, list[Any]]:
    """Returns plotly's `tickvals` and `ticktext` of a logarithmic axis that shows the values."""
    positive = [value for value in values if value > 0]
    ticks = log_ticks(min(positive) / 1.2, max(positive) * 1.2) if positive else []
    return {"tickvals": ticks, "ticktext": [_short(tick) for tick in ticks]}


def log_ticks(low: float, high: float) -> list[float]:
    """Returns four to ten round numbers from `low` to `high`; fewer where the two are very close."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in MANTISSAS:
        round_numbers = [float(f"{mantissa * 10.0**decade:.3g}") for decade in decades for mantissa in mantissas]
        ticks = [number for number in round_numbers if low <= number <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: math.ceil(len(ticks) / 10) or 1]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
