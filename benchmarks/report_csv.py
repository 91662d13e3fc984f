"""`results.csv`: a run's rows as a flat table, one row a line; a figure that could not be had is an empty cell."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Row
from recjax.load.window import PARTS

PERCENTILES = ("p50", "p90", "p95", "p99", "p99_9", "max", "mean")
AS_THEY_ARE = (
    "compile_s",
    "compile_cached_s",
    "recompiles_in_window",
    "padding_waste",
    "parameter_bytes",
    "dense_layer_bytes",
    "table_bytes",
    "checkpoint_bytes",
    "program_memory_bytes",
    "peak_memory_bytes",
    "peak_host_bytes",
    "masked_share",
    "realised_share",
    "energy_j_per_1k_samples",
    "train_samples_per_s",
    "train_s",
    "flops_per_sample",
    "bytes_per_sample",
    "achieved_fraction_of_roofline",
    "bound_by",
    "mfu",
)


def _part(field: str, *path: str | int) -> Callable[[Row], Any]:
    """Returns a function that gives what stands at the path in a field, None where any of it is missing."""

    def value(row: Row) -> Any:
        found = getattr(row, field)
        for step in path:
            if isinstance(found, Mapping):
                found = found.get(step)
            elif isinstance(found, Sequence) and isinstance(step, int) and step < len(found):
                found = found[step]
            else:
                return None
        return found

    return value


COLUMNS: Mapping[str, Callable[[Row], Any]] = {
    **{name: _part(name) for name in ("run_id", "started_at", "suite")},
    "experiment": lambda row: row.case.partition("/")[0].strip(),
    **{name: _part(name) for name in ("variant", "model", "dataset")},
    **{name: _part("device", name.removeprefix("device_")) for name in ("platform", "device_kind", "device_count")},
    **{name: _part(name) for name in ("scenario", "batch_size", "processes", "valid", "invalid_reason")},
    **{name: _part(name) for name in ("steady", "support", "protocol", "quality_metric")},
    "quality": lambda row: (row.quality or {}).get(row.quality_metric or ""),
    "quality_retained": _part("quality_retained"),
    "quality_retained_low": _part("quality_retained_ci95", 0),
    "quality_retained_high": _part("quality_retained_ci95", 1),
    **{f"{name}_ms": _part("latency_ms", name) for name in PERCENTILES},
    **{
        f"{name}_ms_{end}": _part("latency_ms", f"ci95_{name}", index)
        for name in ("p50", "p99")
        for index, end in enumerate(("low", "high"))
    },
    "latencies": _part("latency_ms", "n"),
    "interval_over": _part("latency_ms", "ci95_over"),
    "outliers_mild": _part("outliers", "mild"),
    "outliers_severe": _part("outliers", "severe"),
    **{f"{name}_ms": _part("time_split_ms", name) for name in PARTS},
    **{f"tail_{name}_ms": _part("tail_split_ms", name) for name in PARTS},
    "queries_per_s": _part("throughput_queries_per_s"),
    "samples_per_s": _part("throughput_samples_per_s"),
    "samples_per_s_low": _part("throughput_ci95", 0),
    "samples_per_s_high": _part("throughput_ci95", 1),
    "speedup": _part("speedup", "median"),
    "speedup_low": _part("speedup", "ci95", 0),
    "speedup_high": _part("speedup", "ci95", 1),
    "server_rate_qps": _part("target_qps"),
    "failed_at_qps": _part("search", "failed_at_qps"),
    "limit_ms": _part("slo_ms"),
    "send_lag_ms_p99": _part("load", "send_lag_ms", "p99"),
    "unanswered": _part("load", "unanswered"),
    "generator_cpu_share": _part("load", "generator_cpu_share"),
    **{name: _part("host", name) for name in ("steal_share", "busy_share", "others_share", "jitter_largest_gap_us")},
    **{name: _part(name) for name in AS_THEY_ARE},
    "commit": _part("environment", "git", "commit"),
    "jax": _part("environment", "versions", "jax"),
}


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Writes the rows in order, below a line of column names (docs/report.md explains them)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([value(row) for value in COLUMNS.values()])
