"""The picture of `docs/transforms.md`: every variant's speed and quality on every model, as coloured tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.summary import Variant
from benchmarks.transforms_page_text import TOPICS

WIDTH_PX, ROW_PX, MARGIN_PX = 1200, 21, 110
MOST_COLOURED_RATIO, MOST_COLOURED_LOSS = (
    4.0,
    0.1,
)  # where the colours end: four times as fast or slow, a tenth of quality
COLOURS = "PuOr"  # orange below, purple above: told apart by colour-blind readers

Value = Callable[[Variant], float | None]


def write_plot(by_experiment: Mapping[str, Sequence[Variant]], file: Path) -> None:
    """Writes the figure as a page of its own with the library in it."""
    page = make_plot(by_experiment).to_html(include_plotlyjs=True, config={"displayModeBar": False})
    file.write_text(page, encoding="utf-8")


def make_plot(by_experiment: Mapping[str, Sequence[Variant]]) -> go.Figure:
    """Returns three tables side by side, a line a variant and a column a model: two speeds, and quality kept."""
    found = {(name, variant.name): variant for name, variants in by_experiment.items() for variant in variants}
    measured = {label for _, label in found}
    labels = [label for topic in TOPICS for label in topic.labels if label in measured]
    blocks: tuple[tuple[str, Value, Callable[[float], float], str], ...] = (
        ("speed, largest batches", _speed_of_batches, _ratio_colour, "{:.2f}"),
        ("speed, one request", _speed_of_one, _ratio_colour, "{:.2f}"),
        ("quality kept", lambda variant: variant.first("quality_retained"), _quality_colour, "{:.1%}"),
    )
    figure = make_subplots(
        1, len(blocks), shared_yaxes=True, subplot_titles=[title for title, *_ in blocks], horizontal_spacing=0.015
    )
    for column, (_, value_of, colour, form) in enumerate(blocks, start=1):
        values = [
            [value_of(found[name, label]) if (name, label) in found else None for name in by_experiment]
            for label in labels
        ]
        figure.add_heatmap(
            x=list(by_experiment),
            y=labels,
            z=[[None if value is None else colour(value) for value in line] for line in values],
            text=[["" if value is None else form.format(value) for value in line] for line in values],
            texttemplate="%{text}",
            hoverinfo="skip",
            colorscale=COLOURS,
            zmin=-1,
            zmax=1,
            xgap=1,
            ygap=1,
            showscale=False,
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(
        width=WIDTH_PX,
        height=len(labels) * ROW_PX + MARGIN_PX,
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 10, "r": 10, "t": 40, "b": 70},
    )
    return figure


def _speed_of_batches(variant: Variant) -> float | None:
    speedup = variant.of("offline")[-1].speedup
    return None if speedup is None else speedup["median"]


def _speed_of_one(variant: Variant) -> float | None:
    speedup = variant.of("single_stream")[0].speedup
    return None if speedup is None else speedup["median"]


def _ratio_colour(ratio: float) -> float:
    """Returns -1 to 1 of the colours' range, 0 for a ratio of 1."""
    return math.log(ratio) / math.log(MOST_COLOURED_RATIO)


def _quality_colour(share: float) -> float:
    return (share - 1) / MOST_COLOURED_LOSS
