"""What LoadGen wrote of a run: its errors, its verdict and the latency of every query.

Shapes: N queries.
"""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DETAIL, TRACE = "mlperf_log_detail.txt", "mlperf_log_trace.json"
RECORD = ":::MLLOG "  # begins every line of the detail log; a JSON object follows
# A sample's begin in the trace: microseconds of its scheduled arrival since the trace began, then nanoseconds since
# that arrival. The trace as a whole is no JSON: LoadGen quotes some strings of other events twice.
SAMPLE = re.compile(
    r'"name":"Sample".*"ts":([\d.]+),.*"query_seq":(\d+),.*"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)'
)
# Two threads met at a slot of the log, or more than 1,024 entries came within 10 ms: both are then done another way.
ABOUT_THE_LOG = ("CAS failed", "Logging allocation detected")
TOO_MANY_OUTSTANDING = "Too many outstanding queries"
VERDICT = {  # name in a result row: key of the detail log
    "result": "result_validity",
    "early_stopping_met": "early_stopping_met",
    "min_duration_met": "result_min_duration_met",
    "min_queries_met": "result_min_queries_met",
    "latency_limit_met": "result_perf_constraints_met",
    "invalid_reason": "result_invalid_reason",
    "early_stopping": "early_stopping_result",
    "queries": "result_query_count",
    "over_limit": "result_overlatency_query_count",
    "scheduled_qps": "result_scheduled_samples_per_sec",
    "samples_per_s": "result_samples_per_second",
    "version": "loadgen_version",
    "schedule_seed": "effective_schedule_rng_seed",
    "sample_seed": "effective_sample_index_rng_seed",
    "library_seed": "effective_qsl_rng_seed",
}


class LoadGenError(RuntimeError):
    """A run under LoadGen that gives no figures; the message says what LoadGen said, or that it had to be ended."""


@dataclasses.dataclass(frozen=True)
class Latencies:
    """LoadGen's own times of every query, in the order of their numbers.

    Attributes:
      arrival_s: [N] scheduled arrivals, seconds after the first.
      issue_lag_ms: [N] from then until LoadGen issued the query.
      latency_ms: [N] from the scheduled arrival until the query's last sample was completed.
    """

    arrival_s: NDArray
    issue_lag_ms: NDArray
    latency_ms: NDArray


def remove_logs(folder: Path) -> None:
    """Removes what another run has left in the folder and this one could be taken for."""
    for name in (DETAIL, TRACE):
        (folder / name).unlink(missing_ok=True)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of the detail log; a line that a killed process left unfinished is left out."""
    file = folder / DETAIL
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return [json.loads(line.removeprefix(RECORD)) for line in lines if line.startswith(RECORD) and line.endswith("}}")]


@dataclasses.dataclass(frozen=True)
class Problems:
    """Texts of what LoadGen flagged, each once and with how often it came: what fails a run, and what does not."""

    failures: tuple[str, ...]
    remarks: tuple[str, ...]


def logged_problems(records: list[dict[str, Any]]) -> Problems:
    """Returns all errors and warnings; only warnings about the keeping of LoadGen's own log do not fail a run."""
    failures, remarks = Counter[str](), Counter[str]()
    for record in records:
        if record["metadata"]["is_error"] or record["metadata"]["is_warning"]:
            text = " ".join(str(record["value"]).split())
            keeping = not record["metadata"]["is_error"] and text.startswith(ABOUT_THE_LOG)
            (remarks if keeping else failures)[f"{record['key']}: {text}"] += 1
    return Problems(_with_counts(failures), _with_counts(remarks))


def _with_counts(texts: Counter[str]) -> tuple[str, ...]:
    return tuple(text if count == 1 else f"{text} ({count:,} times)" for text, count in texts.items())


def verdict_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns LoadGen's verdict by the names of VERDICT, with p50, p90 and p99 as it computed them.

    None stands where the scenario has no such record.
    """
    values = {record["key"]: record["value"] for record in records}
    verdict = {name: values.get(key) for name, key in VERDICT.items()}
    for text in ("invalid_reason", "early_stopping"):
        verdict[text] = " ".join((verdict[text] or "").replace("*", " ").split()) or None
    per_query = "_per_query" if "result_50.00_percentile_per_query_latency_ns" in values else ""
    for percent in (50, 90, 99):
        latency_ns = values.get(f"result_{percent}.00_percentile{per_query}_latency_ns")
        verdict[f"p{percent}_ms"] = None if latency_ns is None else latency_ns / 1e6
    return verdict


def read_latencies(folder: Path) -> Latencies:
    """Returns the times of every query in the trace; a query's samples count as its last does.

    Raises:
      LoadGenError: no sample in it.
    """
    with open(folder / TRACE, encoding="utf-8", errors="replace") as trace:
        found = [match.groups() for match in map(SAMPLE.search, trace) if match]
    if not found:
        raise LoadGenError(f"LoadGen's trace {folder / TRACE} has no sample in it")
    times = np.array(found, np.float64)
    number, first_sample = np.unique(times[:, 1].astype(np.int64), return_index=True)
    completed_ns = np.zeros(len(number))
    np.maximum.at(completed_ns, np.searchsorted(number, times[:, 1]), times[:, 3])
    arrival_us = times[first_sample, 0]
    return Latencies((arrival_us - arrival_us[0]) / 1e6, times[first_sample, 2] / 1e6, completed_ns / 1e6)


def one_query(records: list[dict[str, Any]]) -> Latencies:
    """Returns the times of a run that was one query: what its slowest sample took."""
    slowest_ns = next(record["value"] for record in records if record["key"] == "result_max_latency_ns")
    return Latencies(np.zeros(1), np.zeros(1), np.array([slowest_ns / 1e6]))
