"""How the report's plots look: one colour and marker a variant, one colour and pattern a part, and their layout."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

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
PART_COLOURS = ("#8a8f98", "#e69f00", "#56b4e9", "#009e73", "#0077c2", "#cc79a7", "#d55e00", "#b8a13a")
PATTERNS = ("|", "/", "+", "\\", "", "x", ".", "-")  # no part is known by its colour alone
AXIS_GREY = "#7d838c"  # legible on white and on a dark page
GRID_GREY = "rgba(128, 134, 145, 0.22)"
HEIGHT_PX = 320


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


def page_layout() -> dict[str, Any]:
    """Returns plotly's layout of every plot: no background, title or legend; the style sheet colours its text."""
    axis = {
        "gridcolor": GRID_GREY,
        "linecolor": GRID_GREY,
        "zerolinecolor": GRID_GREY,
        "tickfont": {"color": AXIS_GREY},
        "title": {"font": {"color": AXIS_GREY, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    return {
        "template": {"layout": {"xaxis": axis, "yaxis": axis}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": AXIS_GREY},
        "margin": {"l": 8, "r": 14, "t": 18, "b": 8},
        "height": HEIGHT_PX,
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "namelength": -1},
    }
