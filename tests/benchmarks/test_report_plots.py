"""What the report draws: the figures of rows, with intervals and marks, or why there is nothing to draw."""

import dataclasses

import numpy as np
import plotly.graph_objects as go
import pytest
from invented_run import SCENARIOS, SPEED, make_rows

from benchmarks.plot_style import page_layout, variant_styles
from benchmarks.report_cost_plots import padding_waste, program_bytes, roofline, stored_bytes, time_split
from benchmarks.report_device_plots import device_plot, device_table
from benchmarks.report_figure import Plot, Shown, rows_of, wrapped
from benchmarks.report_html import MODEL_PLOTS
from benchmarks.report_plots import latency_against_rate, latency_distribution, quality_against_p99, tail_curve
from benchmarks.report_runs import label_runs
from benchmarks.results import Row
from benchmarks.summary import group_variants

ROWS, SAMPLES = make_rows()


def shown(rows: list[Row], with_samples: bool = True) -> Shown:
    variants = [variant for variant in group_variants(rows) if not variant.is_null]
    styles = variant_styles(variant.name for variant in variants)
    return Shown(run=0, variants=variants, styles=styles, samples=SAMPLES if with_samples else {})


def changed(place: int, **changes: object) -> list[Row]:
    return [dataclasses.replace(row, **changes) if index == place else row for index, row in enumerate(ROWS)]


def texts(plot: Plot) -> list[str]:
    return [text for trace in plot.traces for text in trace.get("text", []) if "rows" in trace["meta"]]


@pytest.mark.parametrize("draw", MODEL_PLOTS)
def test_plotly_takes_every_plot(draw):
    plot = draw(shown(ROWS))
    assert not plot.missing
    assert plot.caption.endswith(".")
    go.Figure(data=plot.traces, layout=page_layout() | dict(plot.layout))  # raises on what plotly does not know
    assert {trace["meta"].get("choice") for trace in plot.traces} - {None} <= set(plot.choices)
    keys = {shown(ROWS).key(row) for row in ROWS}
    assert set(rows_of(plot)) <= keys
    assert set(rows_of(plot))


def test_quality_is_drawn_with_its_interval():
    plot = quality_against_p99(shown(ROWS))
    assert plot.choices == ["single_stream", "multi_stream", "offline 64", "offline 256", "server"]
    points = [trace for trace in plot.traces if "rows" in trace["meta"]]
    assert len(points) == len(SPEED) * len(SCENARIOS)
    for point in points:
        assert point["y"] == [pytest.approx(98.7)]
        assert point["error_y"]["array"] == [pytest.approx(101.2 - 98.7)]
        assert point["error_y"]["arrayminus"] == [pytest.approx(98.7 - 96.1)]


def test_invalid_and_unsteady_rows_are_drawn_and_marked():
    rows = changed(0, valid=False, invalid_reason="it <leaks>", steady=False)
    plot = quality_against_p99(shown(rows))
    first = plot.traces[0]
    assert first["marker"]["symbol"] == ["circle-open"]
    assert first["text"] == ["!*"]
    assert "! invalid: it &lt;leaks&gt;" in first["customdata"][0]
    assert "* not steady" in first["customdata"][0]
    assert texts(plot).count("!*") == 1
    assert texts(plot).count("") == len(SPEED) * len(SCENARIOS) - 1
    for draw in (time_split, latency_against_rate):
        assert len(rows_of(draw(shown(rows)))) == len(rows_of(draw(shown(ROWS))))


def test_the_slowest_samples_are_all_in_the_distribution():
    rng = np.random.default_rng(0)
    latency_ms = rng.permutation(np.arange(1.0, 100_001.0))
    curve, share = tail_curve(latency_ms)
    assert curve[0] == 1.0
    assert share[0] == 1.0
    assert curve[-20:].tolist() == list(range(99_981, 100_001))
    assert share[-1] == 1e-5
    assert len(curve) < 150
    np.testing.assert_allclose(share, (100_001 - curve) / 100_000)  # of 1 ... n, n + 1 - x are at least x


def test_without_samples_percentiles_are_drawn():
    from_samples, from_row = (
        latency_distribution(shown(ROWS, with_samples)).traces[0] for with_samples in (True, False)
    )
    assert from_samples["mode"] == "lines"
    assert from_row["mode"] == "lines+markers"
    assert from_row["x"][0] == pytest.approx(ROWS[0].latency_ms["p50"], rel=1e-3)
    assert from_row["text"][0] == "p50"


def test_the_hockey_stick_ends_at_the_rate_found():
    plot = latency_against_rate(shown(ROWS))
    p99, p50 = plot.traces[:2]
    server = next(row for row in ROWS if row.scenario == "server")
    assert (p99["meta"]["choice"], p50["meta"]["choice"]) == ("p99", "p50")
    assert p99["x"] == [300.0, 900.0, 1234.5]
    assert p99["y"] == [2.0, 8.0, server.latency_ms["p99"]]
    assert p50["y"][:2] == [1.0, 2.0]
    limit = plot.traces[-1]
    assert limit["y"] == [20.0, 20.0]
    assert limit["text"][0] == "limit of p99, 20 ms"
    without = [dataclasses.replace(row, search={"steps": 5}) if row.search else row for row in ROWS]
    assert "since version 4" in latency_against_rate(shown(without)).missing


def test_the_roofline_is_that_of_the_measured_ceilings():
    plot = roofline(shown(ROWS))
    point = plot.traces[0]
    assert point["x"] == [pytest.approx(2.5e7 / 1.1e5)] * len(SCENARIOS)  # the invented server row has a count too
    assert point["y"][0] == pytest.approx(2.5e7 * ROWS[0].throughput_samples_per_s)
    lines = [trace for trace in plot.traces if not trace["meta"]]
    slope = lines[0]
    assert slope["x"][1] == pytest.approx(10.0)  # 1e11 FLOP/s over 1e10 bytes/s
    assert slope["y"][1:] == [1e11, 1e11]
    assert slope["y"][0] == pytest.approx(slope["x"][0] * 1e10)
    assert lines[1]["y"] == [4e11, 4e11]


def test_stored_bytes_add_up_and_planned_ones_stand_apart():
    plot = stored_bytes(shown(ROWS))
    assert [trace["name"] for trace in plot.traces] == ["embedding tables", "dense layers", "other"]
    assert [trace["x"][0] for trace in plot.traces] == pytest.approx([400 / 1e6, 0.64, (2_340_000 - 640_400) / 1e6])
    assert len({trace["marker"]["pattern"]["shape"] for trace in plot.traces}) == 3
    planned = program_bytes(shown(ROWS))
    assert "not measured" in planned.caption
    assert "Measured peak of the process that holds all variants: the host 600 MB." in planned.caption
    assert planned.traces[0]["y"] == [pytest.approx(3.1)] * 4


def test_parts_of_a_latency_are_stacked_in_their_order():
    plot = time_split(shown(ROWS))
    single = [trace for trace in plot.traces if trace["meta"]["choice"] == "single_stream"]
    assert [trace["name"] for trace in single] == ["queue", "host preparation", "transfer in", "compute"]
    assert [trace["x"][0] for trace in single] == [0.5, 0.125, 0.125, 2.0]
    none = [dataclasses.replace(row, time_split_ms=None) for row in ROWS]
    assert "since version 4" in time_split(shown(none)).missing


def test_padding_follows_the_rate():
    assert padding_waste(shown(ROWS)).traces[0]["y"] == [50.0, 25.0, 12.5]


def test_devices_stand_side_by_side():
    half = [
        dataclasses.replace(
            row,
            device=row.device | {"kind": "GPU"},
            throughput_samples_per_s=row.throughput_samples_per_s / 2,
            throughput_ci95=None,
        )
        for row in ROWS
    ]
    runs = label_runs([("a", ROWS, {}), ("b", half, {})])
    plot = device_plot("sasrec", runs)
    offline = [trace for trace in plot.traces if trace["meta"]["choice"] == "offline samples/s"]
    assert [trace["name"] for trace in offline] == ["Some CPU (2 cores)", "GPU"]
    assert np.array(offline[0]["x"]) / 2 == pytest.approx(offline[1]["x"])
    assert offline[0]["marker"]["symbol"][0] != offline[1]["marker"]["symbol"][0]
    assert offline[1]["error_x"]["array"] == [None] * len(SPEED)
    header, lines, behind = device_table(runs)
    assert header == ["variant", "figure", "Some CPU (2 cores)", "GPU"]
    assert lines[0][:2] == ["sasrec/fp32", "offline samples/s"]
    assert lines[0][3].endswith("(x0.50)")
    assert [key[0] for key in behind[0]] == ["0", "1"]


def test_long_names_are_broken_before_a_plus():
    assert wrapped("prune(0.5) + shrink + int8") == "prune(0.5)<br>+ shrink<br>+ int8"
    assert wrapped("fp32") == "fp32"
    assert wrapped("a<b") == "a&lt;b"
