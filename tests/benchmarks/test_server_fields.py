"""The server's fields of a row that several processes measured."""

from types import SimpleNamespace
from typing import Any, cast

from benchmarks.measured import Measured
from benchmarks.row_fields import RowFields
from benchmarks.row_measured import put_server
from recjax.config import Serving

SERVING = Serving(buckets=(1, 8), slo_ms=10.0)
FACTS = {
    "verdict": None,
    "send_lag_ms": {"p50": 0.1, "p99": 0.2, "max": 0.3},
    "generator_cpu_share": 0.2,
    "privileges": {"generator_niceness": -10, "generator_short_slice": True},
    "unanswered": 0,
    "batch_sizes": {"3": 2},
}


def record(rate_qps: float, **search: Any) -> Measured:
    known = {
        "confirmed": True,
        "held_at_qps": rate_qps,
        "failed_at_qps": None,
        "late_generator": None,
        "cannot_hold": None,
    }
    known |= {"lowered": 0, "probes": 0}
    one = SimpleNamespace(scenario="server", windows=[FACTS | {"offered_qps": rate_qps}], search=known | search)
    return cast("Measured", one)


def put(*records: Measured) -> RowFields:
    row = RowFields()
    put_server(row, records, SERVING)
    return row


def test_the_rate_is_the_lowest_that_a_process_confirmed() -> None:
    first = record(900.0, failed_at_qps=990.0, probes=7, curve=[1])
    row = put(first, record(729.0, failed_at_qps=810.0, late_generator="it fell behind", lowered=2), record(900.0))
    assert (row.fields["target_qps"], row.fields["slo_ms"]) == (729.0, 10.0)
    assert row.fields["search"] == {
        "confirmed": True,
        "held_processes": 3,
        "held_at_qps": 729.0,
        "failed_at_qps": 810.0,
        "late_generator": "it fell behind",
        "cannot_hold": None,
        "lowered": 2,
        "probes": 7,
        "curve": [1],
        "rates_qps": [900.0, 729.0, 900.0],
    }


def test_the_load_is_that_of_the_windows_at_the_rows_rate() -> None:
    row = put(record(900.0), record(729.0), record(729.0))
    assert row.fields["load"]["windows"] == 2


def test_one_process_that_confirmed_nothing_leaves_the_row_without_a_rate_that_held() -> None:
    row = put(record(900.0), record(300.0, confirmed=False, held_at_qps=None, failed_at_qps=300.0))
    search = row.fields["search"]
    assert row.fields["target_qps"] == 300.0
    assert (search["confirmed"], search["held_at_qps"], search["failed_at_qps"]) == (False, None, 300.0)


def test_padding_is_told_for_other_batch_sizes() -> None:
    padding = put(record(900.0), record(900.0)).fields["load"]["padding_by_buckets"]
    assert padding["as served"] == {"buckets": [1, 8], "padding_waste": 1 - 3 / 8}
    assert padding["powers of 2"] == {"buckets": [1, 2, 4, 8], "padding_waste": 1 - 3 / 4}
