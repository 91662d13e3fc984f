"""Tables of the report that only some rows have."""

import dataclasses

from invented_run import make_rows

from benchmarks.report_contents import padding_table
from benchmarks.report_figure import curve_of


def test_padding_by_batch_sizes_is_told_of_servers_that_have_it() -> None:
    rows, _ = make_rows()
    assert padding_table(rows)[1] == []
    (row,) = (row for row in rows if row.scenario == "server" and row.variant == "int8")
    padding = {
        "as served": {"buckets": [1, 64], "padding_waste": 0.25},
        "powers of 2": {"buckets": [1, 2, 4], "padding_waste": 0.125},
    }
    header, lines = padding_table([*rows, dataclasses.replace(row, load={"padding_by_buckets": padding})])
    assert header == ["case", "compiled sizes", "as served", "powers of 2"]
    assert lines == [["sasrec/int8", "1 64", "25.0", "12.5"]]


def test_points_above_the_rate_of_the_row_are_not_drawn() -> None:
    rows, _ = make_rows()
    row = next(row for row in rows if row.scenario == "server")
    assert [point["rate_qps"] for point in curve_of(row)] == [300.0, 900.0]
    lowered = dataclasses.replace(row, target_qps=900.0)
    assert [point["rate_qps"] for point in curve_of(lowered)] == [300.0]
