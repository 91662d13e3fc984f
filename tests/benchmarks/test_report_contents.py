"""Tables of the report that only some rows have."""

import dataclasses
from typing import Any

import pytest
from invented_run import make_rows

from benchmarks.report_contents import padding_table
from benchmarks.report_figure import curve_of
from benchmarks.summary import floor_in_words


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


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({}, ""),  # of rows that do not say
        ({"generator_niceness": -10, "generator_short_slice": True}, ""),
        (
            {"generator_niceness": 0, "generator_short_slice": True},
            "; the generator did not get its priority (niceness 0, not -10)",
        ),
        (
            {"generator_niceness": 5, "generator_short_slice": False},
            "; the generator did not get its priority (niceness 5, not -10) and short slices of a core",
        ),
    ],
)
def test_what_the_load_generator_was_refused_is_told_with_the_floor(load: dict[str, Any], words: str) -> None:
    rows, _ = make_rows()
    (null,) = (row for row in rows if row.variant == "null" and row.scenario == "server")
    (line,) = floor_in_words([dataclasses.replace(null, load=load)])
    assert line == (
        "floor of the load generator and the serving loop at 1,234 queries/s, null's requests: "
        f"p50 0.0200 ms, p99 0.0200 ms{words}"
    )


def test_points_above_the_rate_of_the_row_are_not_drawn() -> None:
    rows, _ = make_rows()
    row = next(row for row in rows if row.scenario == "server")
    assert [point["rate_qps"] for point in curve_of(row)] == [300.0, 900.0]
    lowered = dataclasses.replace(row, target_qps=900.0)
    assert [point["rate_qps"] for point in curve_of(lowered)] == [300.0]
