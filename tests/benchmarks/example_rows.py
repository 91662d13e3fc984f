"""Fields that result rows have since version 4, with values that a row could have."""

from typing import Any

SINCE_4: dict[str, Any] = {
    "processes": 3,
    "time_split_ms": {"queue": 0.5, "host_preparation": 0.125, "transfer_in": 0.125, "compute": 2.0},
    "outliers": {"mild": 3, "severe": 1, "share": 0.0004},
    "early_stopping": {"percentile": 0.99, "latency_ms": 9_950.0},
    "steady": True,
    "throughput_ci95": [95.0, 105.0],
    "load": {"loop": "closed, in the process of the system", "windows": 9},
    "compile_cached_s": 0.25,
    "peak_host_bytes": 600_000_000,
    "memory_growth": {"memory": "host", "leaking": False, "bytes_per_query": 0.0, "later_bytes": 0, "in_words": "none"},
    "answer_caching": {"fresh_over_repeated": 1.0, "ci95": [0.9, 1.1]},
    "host": {"watched_s": 1.5, "steal_share": None},
}
