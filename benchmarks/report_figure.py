"""What the report's plots are made of: traces of plotly in plain dicts that the page's script filters.

The script reads `meta` of a trace: `row`, the key of the row that all of it shows, or `rows`, a key or keys a point;
`choice`, under which of the plot's buttons it is shown (absent: under all); `frontier`, that the script shall join the
best points of the plot here. In `meta` of the layout, `log` names the axes whose ticks the script sets to what is
visible, and `titles` has the title of an axis by choice.
"""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from benchmarks.plot_style import Style
from benchmarks.report_runs import row_key
from benchmarks.results import Row
from benchmarks.summary import EMULATED_MARK, INVALID_MARK, UNSTEADY_MARK, Variant, format_number

MARK_FONT = {"size": 14, "weight": 700}
Bounds = Sequence[float] | None
Trace = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot of the page.

    Attributes:
      title: above it.
      caption: how to read it, a line.
      traces: plotly's, with the `meta` of this module.
      layout: plotly's, what differs from the page's.
      choices: buttons of which one is pressed; a trace may belong to one of them.
      missing: why there is nothing to draw, "" where there is.
    """

    title: str
    caption: str
    traces: Sequence[Trace] = ()
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    choices: Sequence[str] = ()
    missing: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """The variants of one model in one run, as its plots show them.

    Attributes:
      run: number of the run.
      variants: fp32 first.
      styles: of every variant of the page.
      samples: raw latency in ms by `samples_key`.
    """

    run: int
    variants: Sequence[Variant]
    styles: Mapping[str, Style]
    samples: Mapping[str, NDArray]

    def key(self, row: Row) -> str:
        """Returns by which name the page's script knows the row."""
        return row_key(self.run, row)


def marks(row: Row) -> str:
    """Returns the marks that a point of the row carries: invalid, unsteady."""
    return (INVALID_MARK if not row.valid else "") + (UNSTEADY_MARK if row.steady is False else "")


def choice_of(row: Row, rows: Sequence[Row]) -> str:
    """Returns the button under which a row is shown: its scenario, with the batch size where the scenario has several.

    Args:
      row: one of them.
      rows: of the model.
    """
    sizes = {other.batch_size for other in rows if other.scenario == row.scenario}
    return row.scenario if len(sizes) == 1 else f"{row.scenario} {row.batch_size}"


def curve_of(row: Row) -> list[Mapping[str, Any]]:
    """Returns a server row's points at rates below its own, without those whose window says nothing.

    They are shares of the rate that the first process found; another one may have lowered it since.
    """
    curve = [point for point in (row.search or {}).get("curve") or [] if not point.get("fault")]
    return [point for point in curve if row.target_qps is None or point["rate_qps"] < row.target_qps]


def points(
    shown: Shown,
    variant: Variant,
    rows: Sequence[Row],
    x: Sequence[float | None],
    y: Sequence[float | None],
    hover: Sequence[Sequence[str]],
    *,
    x_bounds: Sequence[Bounds] = (),
    y_bounds: Sequence[Bounds] = (),
    lines: bool = False,
    choice: str | None = None,
    **options: Any,
) -> Trace:
    """Returns points of a variant, one a row, with marks, error bars and what a pointer over them shows.

    Args:
      shown: the model that the plot is of.
      variant: whose colour and symbol they have.
      rows: [N].
      x: [N].
      y: [N].
      hover: [N] lines of text, not escaped.
      x_bounds: [N] ends of the interval around each x, or nothing.
      y_bounds: [N] of each y.
      lines: whether they are joined.
      choice: the button that shows them.
      options: of plotly.
    """
    style = shown.styles[variant.name]
    return {
        "type": "scatter",
        "mode": f"{'lines+' if lines else ''}markers+text",
        "name": html.escape(variant.name),
        "x": list(x),
        "y": list(y),
        "text": [marks(row) for row in rows],
        "textposition": "top center",
        "textfont": MARK_FONT,
        "cliponaxis": False,
        "customdata": [hover_text(row, words) for row, words in zip(rows, hover, strict=True)],
        "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
        "line": {"color": style.colour, "width": 2},
        "marker": {
            "color": style.colour,
            "size": 9,
            "symbol": [style.symbol + ("" if row.valid else "-open") for row in rows],
        },
        **({"error_x": error_bars(x, x_bounds, style.colour)} if any(x_bounds) else {}),
        **({"error_y": error_bars(y, y_bounds, style.colour)} if any(y_bounds) else {}),
        "meta": {"rows": [shown.key(row) for row in rows], "choice": choice},
        **options,
    }


def hover_text(row: Row, lines: Sequence[str]) -> str:
    """Returns the lines as plotly shows them, and below them what is to be known of the row."""
    size = f"batch {row.batch_size}" if row.scenario != "server" else f"batches up to {row.batch_size}"
    remarks = [f"{row.scenario}, {size}"]
    if not row.valid:
        remarks.append(f"{INVALID_MARK} invalid: {row.invalid_reason}")
    if row.steady is False:
        remarks.append(f"{UNSTEADY_MARK} not steady: the last windows differ by more than 10%")
    if row.support == "emulated":
        remarks.append(f"{EMULATED_MARK} emulated: computed without its gain here")
    return "<br>".join(html.escape(line) for line in (*lines, *remarks))


def with_interval(value: float | None, bounds: Bounds, unit: str) -> str:
    """Returns a figure in words, with its 95% interval if it has one."""
    words = f"{format_number(value)} {unit}"
    return f"{words} (95%: {format_number(bounds[0])} to {format_number(bounds[1])})" if bounds else words


def axes(x_title: str, y_title: str, log: str = "", **options: Any) -> dict[str, Any]:
    """Returns a layout with the titles of both axes, those named in `log` ("x", "y", "xy") being logarithmic.

    Further options are merged into plotly's of the same name, such as `yaxis` and `meta`.
    """
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x_title}, **({"type": "log"} if "x" in log else {})},
        "yaxis": {"title": {"text": y_title}, **({"type": "log"} if "y" in log else {})},
        "meta": {"log": list(log)},
    }
    for name, value in options.items():
        layout[name] = {**layout[name], **value} if name in layout else value
    return layout


def rows_of(plot: Plot) -> list[str]:
    """Returns the keys of all rows that a plot shows, each once."""
    found: dict[str, None] = {}
    for trace in plot.traces:
        meta = trace["meta"]
        for of_point in [meta["row"]] if "row" in meta else meta.get("rows", []):
            found |= dict.fromkeys([of_point] if isinstance(of_point, str) else of_point)
    return list(found)


def wrapped(name: str, width: int = 13) -> str:
    """Returns a variant's name for an axis, broken before a "+" where it is long."""
    lines = [""]
    for index, part in enumerate(name.split(" + ")):
        word = f"+ {part}" if index else part
        if index and len(lines[-1]) + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(html.escape(line) for line in lines)


def error_bars(values: Sequence[float | None], bounds: Sequence[Bounds], colour: str) -> dict[str, Any]:
    """Returns the bars of values from one bound of their intervals to the other; none where there is none."""
    pairs = list(zip(values, bounds, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, b[1] - value) if b and value is not None else None for value, b in pairs],
        "arrayminus": [max(0.0, value - b[0]) if b and value is not None else None for value, b in pairs],
        "thickness": 1.2,
        "width": 3,
        "color": colour,
    }
