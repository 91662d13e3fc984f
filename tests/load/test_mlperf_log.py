"""What is read from LoadGen's logs, on lines as it writes them; no LoadGen is needed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recjax.errors import UserError
from recjax.load.mlperf import require_loadgen
from recjax.load.mlperf_log import (
    DETAIL,
    TRACE,
    LoadGenError,
    logged_problems,
    one_query,
    read_latencies,
    read_records,
    remove_logs,
    verdict_of,
)


def record(key: str, value: Any, *, error: bool = False, warning: bool = False) -> dict[str, Any]:
    return {"key": key, "value": value, "metadata": {"is_error": error, "is_warning": warning}}


def write_detail(folder: Path, *records: dict[str, Any]) -> None:
    (folder / DETAIL).write_text("".join(f":::MLLOG {json.dumps(line)}\n" for line in records))


def test_records_are_read_but_for_a_line_that_was_cut_off(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []
    write_detail(tmp_path, record("a", 1), record("b", "two"))
    with open(tmp_path / DETAIL, "a") as log:
        log.write(':::MLLOG {"key": "c", "value": 3, "metad')
    assert [(line["key"], line["value"]) for line in read_records(tmp_path)] == [("a", 1), ("b", "two")]


def test_errors_and_warnings_fail_but_for_those_about_the_log() -> None:
    twice = record("error_runtime", "Attempted to complete a sample twice.", error=True)
    clock = record("warning_generic_message", "PerfClock and system_clock differ by more than 0.1%! ", warning=True)
    contention = record("warning_generic_message", "CAS failed.", warning=True)
    found = logged_problems([record("a", 1), twice, contention, twice, clock, contention, contention])
    assert found.failures == (
        "error_runtime: Attempted to complete a sample twice. (2 times)",
        "warning_generic_message: PerfClock and system_clock differ by more than 0.1%!",
    )
    assert found.remarks == ("warning_generic_message: CAS failed. (3 times)",)
    assert logged_problems([record("error_runtime", "CAS failed.", error=True)]).failures


def test_a_verdict_has_none_where_the_scenario_has_no_record() -> None:
    verdict = verdict_of(
        [
            record("result_validity", "INVALID"),
            record("early_stopping_met", False),
            record("early_stopping_result", " * Only processed 10 queries.  * Need to process at least 64"),
            record("result_50.00_percentile_latency_ns", 1_500_000),
            record("result_invalid_reason", ""),
        ]
    )
    assert (verdict["result"], verdict["early_stopping_met"], verdict["latency_limit_met"]) == ("INVALID", False, None)
    assert verdict["early_stopping"] == "Only processed 10 queries. Need to process at least 64"
    assert (verdict["p50_ms"], verdict["p99_ms"], verdict["invalid_reason"]) == (1.5, None, None)
    assert json.dumps(verdict)


def test_percentiles_of_queries_go_before_those_of_their_samples() -> None:
    of_samples, of_queries = "result_50.00_percentile_latency_ns", "result_50.00_percentile_per_query_latency_ns"
    assert verdict_of([record(of_samples, 1_000_000), record(of_queries, 3_000_000)])["p50_ms"] == 3.0


def sample_line(arrival_us: float, query: int, issue_ns: int, complete_ns: int) -> str:
    arguments = (
        f'"sample_seq":9,"query_seq":{query},"sample_idx":7,"issue_start_ns":{issue_ns},"complete_ns":{complete_ns}'
    )
    return (
        f'{{"name":"Sample","cat":"default","ph":"b","pid":1,"id":9,"ts":{arrival_us:.3f},"args":{{{arguments}}}}},\n'
        f'{{"name":"Sample","cat":"default","ph":"e", "pid":1,"id":9,"ts":{arrival_us + complete_ns / 1e3:.3f}}},\n'
    )


def test_latencies_are_in_the_order_of_queries_and_of_their_last_samples(tmp_path: Path) -> None:
    (tmp_path / TRACE).write_text(
        '{"traceEvents":[\n{"name":"LogDetail","args":{"key":""loadgen_version""}},\n'
        + sample_line(500.0, 0, 1_000, 2_000_000)
        + sample_line(2500.5, 1, 4_000, 1_000_000)
        + sample_line(500.0, 0, 1_000, 3_000_000)
        + '{"name":"LastTrace"}\n]}'
    )
    times = read_latencies(tmp_path)
    np.testing.assert_allclose(times.arrival_s, [0, 2000.5e-6])
    np.testing.assert_allclose(times.issue_lag_ms, [1e-3, 4e-3])
    np.testing.assert_allclose(times.latency_ms, [3, 1])


def test_a_trace_without_samples_is_an_error(tmp_path: Path) -> None:
    (tmp_path / TRACE).write_text('{"traceEvents":[\n')
    with pytest.raises(LoadGenError, match="has no sample in it"):
        read_latencies(tmp_path)


def test_one_query_takes_as_long_as_its_slowest_sample() -> None:
    assert one_query([record("a", 0), record("result_max_latency_ns", 2_500_000)]).latency_ms.tolist() == [2.5]


def test_logs_of_another_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (DETAIL, TRACE, "mine.txt"):
        (tmp_path / name).touch()
    remove_logs(tmp_path)
    remove_logs(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package mlcommons-loadgen, which is not installed; pip install"):
        require_loadgen()
