"""Several runs side by side: the same variant on each device."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.plot_style import COLOURS, SYMBOLS
from benchmarks.report_figure import Bounds, Plot, Trace, axes, error_bars, hover_text, marks, with_interval, wrapped
from benchmarks.report_runs import ReportRun, row_key
from benchmarks.results import Row
from benchmarks.summary import Variant, format_gain, format_number, group_experiments

Figure = Callable[[Row], tuple[float | None, Bounds]]
FIGURES: Mapping[str, tuple[str, str, Figure]] = {  # button: scenario, unit, figure of its best row
    "offline samples/s": ("offline", "samples/s", lambda row: (row.throughput_samples_per_s, row.throughput_ci95)),
    "single_stream p50": ("single_stream", "ms", lambda row: (row.latency_ms["p50"], row.latency_ms["ci95_p50"])),
    "single_stream p99": ("single_stream", "ms", lambda row: (row.latency_ms["p99"], row.latency_ms["ci95_p99"])),
    "server queries/s": ("server", "queries/s", lambda row: (row.target_qps, None)),
}


def device_plot(experiment: str, runs: Sequence[ReportRun]) -> Plot:
    """Returns the figures of a model's variants in every run, a symbol and a colour a run."""
    of_runs = variants_of(experiment, runs)
    names = list(dict.fromkeys(name for variants in of_runs for name in variants))
    traces: list[Trace] = []
    for choice, (scenario, unit, figure) in FIGURES.items():
        for number, (run, variants) in enumerate(zip(runs, of_runs, strict=True)):
            rows = [(name, row) for name, variant in variants.items() if (row := variant.best(scenario))]
            found = [(name, row, *figure(row)) for name, row in rows if figure(row)[0] is not None]
            if not found:
                continue
            colour = COLOURS[(number + 1) % len(COLOURS)]
            symbol = list(SYMBOLS)[number % len(SYMBOLS)]
            x, bounds = [value or 0.0 for *_, value, _ in found], [interval for *_, interval in found]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": run.label,
                    "x": x,
                    "y": [wrapped(name) for name, *_ in found],
                    "text": [marks(row) for _, row, *_ in found],
                    "textposition": "middle right",
                    "cliponaxis": False,
                    "customdata": [
                        hover_text(row, [f"{run.label}: {name}", with_interval(value, interval, unit)])
                        for name, row, value, interval in found
                    ],
                    "hovertemplate": "%{customdata}<extra></extra>",
                    "error_x": error_bars(x, bounds, colour),
                    "marker": {
                        "color": colour,
                        "size": 11,
                        "symbol": [symbol + ("" if row.valid else "-open") for _, row, *_ in found],
                    },
                    "showlegend": True,
                    "meta": {"rows": [row_key(number, row) for _, row, *_ in found], "choice": choice},
                }
            )
    drawn = {trace["meta"]["choice"] for trace in traces}
    y_axis = {"categoryorder": "array", "categoryarray": [wrapped(name) for name in reversed(names)]}
    titles = {choice: f"{choice}, ms" if unit == "ms" else choice for choice, (_, unit, _) in FIGURES.items()}
    layout = axes("", "", log="x", yaxis=y_axis, meta={"titles": {"xaxis": titles}})
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return Plot(
        title=experiment,
        caption="Each variant at its best valid row of the scenario, with its 95% interval where it has one. Software "
        "may differ too; benchmarks.compare judges whether a difference is one.",
        traces=traces,
        layout=layout | {"height": 150 + 46 * len(names), "showlegend": True, "legend": legend},
        choices=[choice for choice in FIGURES if choice in drawn],
        missing="" if traces else "no variant was measured in two runs",
    )


def device_table(runs: Sequence[ReportRun]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Returns header, lines and the rows' keys behind each: a variant's figures in every run, over the first's."""
    header = ["variant", "figure", *(run.label for run in runs)]
    lines, behind = list[list[str]](), list[list[str]]()
    for experiment in experiments_of(runs):
        of_runs = variants_of(experiment, runs)
        for name in dict.fromkeys(name for variants in of_runs for name in variants):
            for choice, (scenario, unit, figure) in FIGURES.items():
                rows = [variants[name].best(scenario) if name in variants else None for variants in of_runs]
                values = [figure(row)[0] if row else None for row in rows]
                if sum(value is not None for value in values) > 1:
                    cells = [
                        _cell(row, value, values[0] if number else None)
                        for number, (row, value) in enumerate(zip(rows, values, strict=True))
                    ]
                    what = choice if choice.endswith(unit) else f"{choice}, {unit}"
                    lines.append([f"{experiment}/{name}", what, *cells])
                    behind.append([row_key(number, row) for number, row in enumerate(rows) if row])
    return header, lines, behind


def experiments_of(runs: Sequence[ReportRun]) -> list[str]:
    """Returns the names of all models, in order of appearance."""
    return list(dict.fromkeys(name for run in runs for name in group_experiments(run.rows)))


def variants_of(experiment: str, runs: Sequence[ReportRun]) -> list[dict[str, Variant]]:
    """Returns a model's variants by name, run by run."""
    return [{v.name: v for v in group_experiments(run.rows).get(experiment, [])} for run in runs]


def _cell(row: Row | None, value: float | None, of_first: float | None) -> str:
    words = format_number(value)
    if value is not None and of_first:
        words += f" ({format_gain(value / of_first)})"
    return f"{marks(row)} {words}".strip() if row else words
