"""The page of many runs over time: a table of the runs, and a small plot for every model, scenario and processor."""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence

from benchmarks.history_rows import StoredRun, comparable_groups
from benchmarks.plot_style import Style, variant_styles
from benchmarks.report_figure import Bounds, Plot, Trace, axes, error_bars, hover_text, marks, with_interval
from benchmarks.report_page import FILTER_BAR, heading, keys, plot_cards, render_page, scrolled, table, text
from benchmarks.report_runs import row_facts, row_key
from benchmarks.results import Row
from benchmarks.suite import SCENARIOS
from benchmarks.summary import NULL_MODEL

Figure = Callable[[Row], tuple[float | None, Bounds]]
FIGURES: Mapping[str, tuple[str, Figure]] = {
    "samples/s": ("samples/s", lambda row: (row.throughput_samples_per_s, row.throughput_ci95)),
    "p50": ("ms", lambda row: (row.latency_ms["p50"], row.latency_ms["ci95_p50"])),
    "p99": ("ms", lambda row: (row.latency_ms["p99"], row.latency_ms["ci95_p99"])),
    "server rate": ("queries/s", lambda row: (row.target_qps, None)),
}
FIRST = {"offline": "samples/s", "single_stream": "p50", "multi_stream": "p99", "server": "server rate"}
HEIGHT_PX = 250
MOST_TICKS = 6
Numbered = tuple[int, Row]  # number of its run


def render_history(runs: Sequence[StoredRun]) -> str:
    """Returns the whole page of runs that are in the order of their start."""
    every = [(number, row) for number, run in enumerate(runs) for row in run.rows if row.model != NULL_MODEL]
    styles = variant_styles(row.variant for _, row in every)
    facts = {row_key(number, row): row_facts(row, runs[number].device) for number, row in every}
    asked: dict[tuple[str, str], list[Numbered]] = {}
    for number, row in every:
        asked.setdefault((runs[number].device, row.case.partition("/")[0]), []).append((number, row))
    body = [
        heading("recjax over time", _facts(runs)),
        '<p class="note">Points are joined where the same was measured: model, settings, data, load, limit, processor '
        "and threads. A line that breaks off has a row before it that is not comparable with the next. "
        "Software and the state of the code may differ: a pointer over a point tells.</p>",
        FILTER_BAR,
        f"<h2>Runs</h2>{scrolled(_runs_table(runs), 'tall')}",
    ]
    drawn: dict[str, Plot] = {}
    again, once = [], []
    for index, ((device, experiment), members) in enumerate(asked.items()):
        of_section = keys([row_key(number, row) for number, row in members])
        plots = plot_cards(f"plot-{index}", _plots(members, runs, styles), drawn)
        title = f"{text(experiment)} on {text(device)}"
        if len({number for number, _ in members}) > 1:
            again.append(f"<section{of_section}><h2>{title}</h2>{plots}</section>")
        else:
            once.append(f"<details{of_section}><summary>{title}</summary>{plots}</details>")
    body += again
    body += ["<section><h2>Measured once so far</h2>", *once, "</section>"] if once else []
    return render_page("recjax over time", facts, styles, drawn, "".join(body))


def _facts(runs: Sequence[StoredRun]) -> dict[str, str]:
    return {
        "Runs": str(len(runs)),
        "Rows": f"{sum(len(run.rows) for run in runs):,}",
        "First": _moment(runs[0].started_at),
        "Last": _moment(runs[-1].started_at),
        "Devices": str(len({run.device for run in runs})),
    }


def _runs_table(runs: Sequence[StoredRun]) -> str:
    header = ["run", "started", "suite", "device", "commit", "software", "rows", "invalid", "not steady", "processes"]
    lines, behind = [], []
    for number, run in enumerate(runs):
        first, rows = run.rows[0], run.rows
        counts = [len(rows), sum(not row.valid for row in rows), sum(row.steady is False for row in rows)]
        said = [run.name, _moment(run.started_at), first.suite, run.device, run.commit, run.software]
        lines.append([*said, *map(str, counts), str(first.processes or 1)])
        behind.append([row_key(number, row) for row in rows if row.model != NULL_MODEL])
    return table(header, lines, "runs", behind, caption="all runs")


def _plots(members: Sequence[Numbered], runs: Sequence[StoredRun], styles: Mapping[str, Style]) -> list[Plot]:
    asked: dict[tuple[str, int], list[Numbered]] = {}
    for number, row in members:
        asked.setdefault((row.scenario, row.batch_size), []).append((number, row))
    ordered = sorted(asked, key=lambda key: (SCENARIOS.index(key[0]), key[1]))
    return [_plot(scenario, size, asked[scenario, size], runs, styles) for scenario, size in ordered]


def _plot(
    scenario: str, size: int, members: Sequence[Numbered], runs: Sequence[StoredRun], styles: Mapping[str, Style]
) -> Plot:
    traces: list[Trace] = []
    numbers = sorted({number for number, _ in members})
    by_variant: dict[str, list[Numbered]] = {}
    for number, row in members:
        by_variant.setdefault(row.variant, []).append((number, row))
    for choice, (unit, figure) in FIGURES.items():
        for variant, of_variant in by_variant.items():
            for group in comparable_groups([row for _, row in of_variant]):
                series = [of_variant[index] for index in group if figure(of_variant[index][1])[0] is not None]
                if series:
                    traces.append(_trace(series, figure, unit, choice, runs, styles[variant]))
    drawn = {trace["meta"]["choice"] for trace in traces}
    first = FIRST[scenario]
    choices = [name for name in (first, *(name for name in FIGURES if name != first)) if name in drawn]
    limit = next((row.slo_ms for _, row in members if row.slo_ms), None)
    words = {
        "offline": f"Full batches of {size}.",
        "single_stream": "One sample a query, one query after the other.",
        "multi_stream": f"{size} samples a query, one query after the other.",
        "server": f"Random arrivals; the highest rate within {limit:g} ms." if limit else "Random arrivals.",
    }
    label = scenario if scenario in ("single_stream", "multi_stream") else f"{scenario}, batch {size}"
    named = numbers[:: math.ceil(len(numbers) / MOST_TICKS)]
    ticks = {"tickvals": named, "ticktext": [_tick(runs[number].started_at) for number in named], "tickangle": 0}
    margin = 0.4
    titles = {choice: f"{choice}, {unit}" if unit not in choice else choice for choice, (unit, _) in FIGURES.items()}
    x_axis = ticks | {"range": [numbers[0] - margin, numbers[-1] + margin], "title": {"text": "start of the run, UTC"}}
    return Plot(
        title=label,
        caption=words[scenario],
        traces=traces,
        layout=axes("", "", log="y", xaxis=x_axis, meta={"titles": {"yaxis": titles}}) | {"height": HEIGHT_PX},
        choices=choices,
        missing="" if traces else "no figure",
    )


def _trace(
    series: Sequence[Numbered], figure: Figure, unit: str, choice: str, runs: Sequence[StoredRun], style: Style
) -> Trace:
    values = [figure(row)[0] or 0.0 for _, row in series]
    bounds = [figure(row)[1] for _, row in series]
    hover = [
        hover_text(
            row,
            [
                f"{row.variant}: {with_interval(value, interval, unit)}",
                f"{_moment(runs[number].started_at)}, {runs[number].name}",
                f"commit {runs[number].commit}, {runs[number].software}",
            ],
        )
        for (number, row), value, interval in zip(series, values, bounds, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": series[0][1].variant,
        "x": [number for number, _ in series],
        "y": values,
        "text": [marks(row) for _, row in series],
        "textposition": "top center",
        "cliponaxis": False,
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "error_y": error_bars(values, bounds, style.colour),
        "line": {"color": style.colour, "width": 1.5},
        "marker": {
            "color": style.colour,
            "size": 8,
            "symbol": [style.symbol + ("" if row.valid else "-open") for _, row in series],
        },
        "meta": {"rows": [row_key(number, row) for number, row in series], "choice": choice},
    }


def _moment(started_at: str) -> str:
    return f"{datetime.datetime.fromisoformat(started_at):%Y-%m-%d %H:%M}"


def _tick(started_at: str) -> str:
    return f"{datetime.datetime.fromisoformat(started_at):%m-%d<br>%H:%M}"
