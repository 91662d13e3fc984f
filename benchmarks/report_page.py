"""One HTML page that opens without a network: its frame, filters, plots and tables, for the report and the history."""

import base64
import functools
import html
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot_style import Style, page_layout
from benchmarks.report_figure import Plot, rows_of
from benchmarks.summary import EMULATED_MARK, INVALID_MARK, UNSTEADY_MARK

FOLDER = Path(__file__).parent
# The browser itself refuses every request that the page could make.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
FILTERS = {"device": "Device", "model": "Model", "scenario": "Scenario", "batch": "Batch", "variant": "Variant"}
MOST_PINNED = 30  # chips of filters that stay in view while the page scrolls
MARKS = f"{INVALID_MARK} invalid (hollow), {UNSTEADY_MARK} not steady, {EMULATED_MARK} emulated; bars: 95% intervals"


def render_page(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, Style],
    plots: Mapping[str, Plot],
    body: str,
) -> str:
    """Returns the whole page.

    Args:
      title: of the window.
      rows: by key, what the filters ask of each row (`report_runs.row_facts`).
      styles: of every variant.
      plots: by identity, every plot that stands in `body`.
      body: the content, with FILTER_BAR where the filters shall stand.
    """
    figures = {name: {"data": list(plot.traces), "layout": dict(plot.layout)} for name, plot in plots.items()}
    data = json.dumps({"rows": rows, "layout": page_layout(), "figures": figures}, allow_nan=False)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>
{(FOLDER / "report_page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body.replace(FILTER_BAR, _filter_bar(rows, styles), 1)}
</main>
<script type="text/plain" id="data">{_compressed(data)}</script>
<script type="text/plain" id="plotly">{_compressed_plotly()}</script>
<script>
{(FOLDER / "report_page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


FILTER_BAR = "<!--filters-->"  # where a body wants them


def heading(title: str, facts: Mapping[str, str]) -> str:
    """Returns the title with the switch between light and dark, and below it facts in words."""
    pairs = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    switch = '<button id="theme" type="button" aria-label="light or dark look">Look: <span>auto</span></button>'
    return f'<header><h1>{text(title)}</h1>{switch}</header><dl class="facts">{pairs}</dl>'


def plot_cards(identity: str, plots: Sequence[Plot], drawn: dict[str, Plot]) -> str:
    """Returns the plots side by side, and in a line which are left out and why; adds the others to `drawn`."""
    named = {f"{identity}-{index}": plot for index, plot in enumerate(plots) if not plot.missing}
    drawn |= named
    cards = "".join(_plot_card(name, plot) for name, plot in named.items())
    absent = "; ".join(f"{plot.title}: {plot.missing}" for plot in plots if plot.missing)
    return f'<div class="plots">{cards}</div>' + (f'<p class="note">Left out: {text(absent)}.</p>' if absent else "")


def table(
    header: Sequence[str],
    lines: Iterable[Sequence[str]],
    kind: str = "",
    rows: Sequence[Sequence[str]] = (),
    caption: str = "",
) -> str:
    """Returns a table whose columns can be sorted.

    Args:
      header: of the columns.
      lines: of cells.
      kind: CSS classes; "plain" is not sortable.
      rows: keys of the rows behind each line: the filters hide a line when none of them passes.
      caption: for screen readers.
    """
    plain = "plain" in kind.split()
    head = "".join(f"<th>{text(name)}</th>" if plain else sortable(text(name)) for name in header)
    body = "".join(
        f"<tr{keys(rows[number]) if rows else ''}>{''.join(f'<td>{cell(part)}</td>' for part in line)}</tr>"
        for number, line in enumerate(lines)
    )
    hidden = f'<caption class="unseen">{text(caption)}</caption>' if caption else ""
    return f'<table class="{kind}">{hidden}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def sortable(label: str) -> str:
    """Returns a column's header that sorts it; the label is HTML."""
    return f'<th aria-sort="none"><button type="button" class="sort">{label}</button></th>'


def scrolled(content: str, kind: str = "") -> str:
    """Returns a box that scrolls sideways, by keyboard too, so that the page need not."""
    return f'<div class="card scroll {kind}" tabindex="0" role="group">{content}</div>'


def keys(of_rows: Sequence[str]) -> str:
    """Returns the attribute that names the rows behind an element."""
    return f' data-rows="{text(json.dumps(list(of_rows)))}"'


def cell(value: str) -> str:
    """Returns a cell's text, marked where its figure must not be used, with a ratio set apart."""
    if value.startswith((INVALID_MARK, "no: ")):
        return f'<span class="bad">{text(value)}</span>'
    figure, separator, ratio = value.partition(" ")
    if separator and ratio.strip().startswith("x") and "," not in ratio:
        return f'{text(figure)}<span class="ratio">{text(ratio.strip())}</span>'
    return text(value)


def swatch(style: Style) -> str:
    """Returns the colour and the shape of a variant."""
    return f'<span class="swatch" style="--colour:{style.colour};--shape:{style.shape}"></span>'


def text(value: object) -> str:
    """Returns the value escaped for HTML."""
    return html.escape(str(value), quote=True)


def _filter_bar(rows: Mapping[str, Mapping[str, Any]], styles: Mapping[str, Style]) -> str:
    groups = []
    for field, label in FILTERS.items():
        values = list(dict.fromkeys(facts[field] for facts in rows.values()))
        values = sorted(values) if field == "batch" else values
        if len(values) < 2:
            continue
        chips = "".join(
            f'<button type="button" data-field="{field}" data-value="{text(value)}" aria-pressed="false">'
            f"{swatch(styles[value]) if field == 'variant' and value in styles else ''}{text(value)}</button>"
            for value in values
        )
        groups.append(f'<div class="filter" role="group" aria-label="{label}"><span>{label}</span>{chips}</div>')
    few = " few" if sum(group.count("<button") for group in groups) <= MOST_PINNED else ""
    return (
        f'<details class="filters{few}" open><summary>Filters <output id="count"></output></summary>'
        f'<div class="groups">{"".join(groups)}'
        '<div class="filter"><label><input type="checkbox" id="valid"> valid rows only</label>'
        '<button type="button" id="reset">Show all</button></div></div>'
        f'<p class="note">{text(MARKS)}. Plots without a row that passes are hidden. '
        "The address of the page holds the filters.</p></details>"
    )


def _plot_card(identity: str, plot: Plot) -> str:
    buttons = "".join(
        f'<button type="button" data-choice="{text(choice)}" aria-pressed="{str(index == 0).lower()}">'
        f"{text(choice)}</button>"
        for index, choice in enumerate(plot.choices)
    )
    choice = f'<div class="choice" role="group" aria-label="shown">{buttons}</div>' if len(plot.choices) > 1 else ""
    height = plot.layout.get("height", page_layout()["height"])
    return (
        f'<figure class="card"{keys(rows_of(plot))}><figcaption>'
        f'<h3>{text(plot.title)}</h3><p class="note">{text(plot.caption)}</p>'
        f'</figcaption>{choice}<div class="plot" id="{identity}" role="img" aria-label="{text(plot.title)}" '
        f'style="height:{height}px"></div></figure>'
    )


@functools.cache
def _compressed_plotly() -> str:
    """Returns plotly's script, deflated: 2 MB in place of 4.8; browsers since 2024 inflate it themselves."""
    from plotly.offline import get_plotlyjs  # of the extra `bench`, which tables alone do not need

    return _compressed(get_plotlyjs())


def _compressed(content: str) -> str:
    return base64.b64encode(zlib.compress(content.encode(), 9)).decode()
