"""The stored run of the quick suite holds the harness's floor to what docs/measurement.md says of it."""

from pathlib import Path

from benchmarks.measure import NULL_RATE_QPS
from benchmarks.results import read_rows

STORED = Path(__file__).parents[2] / "benchmarks/results/quick-intel-xeon-amx/results.jsonl"
FLOOR_MS = 0.150


def test_the_null_model_is_served_within_the_floor_at_1000_queries_a_second() -> None:
    servers = [row for row in read_rows(STORED) if row.model == "null" and row.scenario == "server"]
    assert len(servers) == len({row.case for row in read_rows(STORED) if row.model == "null"}) == 2
    assert NULL_RATE_QPS == 1_000.0
    for row in servers:
        assert (row.target_qps, row.valid, row.invalid_reason) == (NULL_RATE_QPS, True, None), row.case
        assert 0 < row.latency_ms["p50"] <= FLOOR_MS, row.case
