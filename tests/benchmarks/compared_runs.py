"""Rows and samples of invented runs, to compare."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from example_rows import latency_fields
from numpy.typing import NDArray

from benchmarks.comparison import Run
from benchmarks.results import ResultWriter, Row, RowSamples, write_samples
from benchmarks.summary import samples_key


def make_row(latency_ms: NDArray, case: str = "sasrec/fp32", batch_size: int = 16, **changes: Any) -> Row:
    """Returns a valid offline row of eight processes; what no comparison reads is None, with a reason."""
    names = [field.name for field in dataclasses.fields(Row) if field.name != "schema_version"]
    latency, reasons = latency_fields(latency_ms)
    values: dict[str, Any] = dict.fromkeys(names) | {
        "run_id": "r",
        "started_at": "2025-01-02T03:04:05+00:00",
        "suite": "s",
        "case": case,
        "model": "SASRec",
        "model_config": {"embedding_dim": 8},
        "dataset": "tiny",
        "protocol": "tiny/test",
        "transforms": [{"transform": "quantize", "bits": 8}],
        "variant": case.partition("/")[2],
        "transform_report": {},
        "device": {"platform": "cpu", "kind": "a CPU", "count": 1, "mesh": None},
        "scenario": "offline",
        "batch_size": batch_size,
        "processes": 8,
        "quality": {"ndcg@10": 0.25, "mrr": 0.125},
        "quality_metric": "ndcg@10",
        "quality_retained": 1.0,
        "quality_retained_ci95": [1.0, 1.0],
        "latency_ms": latency,
        "throughput_samples_per_s": batch_size * 1e3 / float(latency_ms.mean()),
        "throughput_queries_per_s": 1e3 / float(latency_ms.mean()),
        "load": {"windows": 24, "loop": "closed, in the process of the system"},
        "valid": True,
        "compile_s": 1.0,
        "recompiles_in_window": 0,
        "padding_waste": 0.0,
        "parameter_bytes": 1000,
        "estimated": False,
        "environment": {"versions": {"jax": "0.12.0"}, "cpu": "a CPU", "flags": {}, "ceilings": {"bytes_per_s": 1e9}},
        **changes,
    }
    missing = [name for name, value in values.items() if value is None]
    reasons = dict.fromkeys([*missing, "device.mesh"], "invented") | reasons
    return Row(**values | {"reasons": reasons})


def draw_samples(
    rng: np.random.Generator, slowdown: float = 1.0, processes: int = 8, effect: float = 0.02, n: int = 150
) -> RowSamples:
    """Returns three windows a process whose latencies are about 2 ms; `effect` is the processes' deviation."""
    effects = rng.normal(0, effect, processes)
    windows = [2 * slowdown * np.exp(own + rng.normal(0, 0.05, n)) for own in effects for _ in range(3)]
    return RowSamples(windows, [process for process in range(processes) for _ in range(3)])


def make_run(name: str, samples: Mapping[str, RowSamples], **changes: Any) -> Run:
    """Returns a run with a row for each case, of these samples."""
    rows = [make_row(of_row.latency_ms, case, **changes) for case, of_row in samples.items()]
    return run_of(name, rows, list(samples.values()))


def run_of(name: str, rows: Sequence[Row], samples: Sequence[RowSamples]) -> Run:
    """Returns the run of rows and their samples."""
    keys = [samples_key(row) for row in rows]
    return Run(name=name, rows=dict(zip(keys, rows, strict=True)), samples=dict(zip(keys, samples, strict=True)))


def write_run(run: Run, folder: Path) -> Path:
    """Writes the run as benchmarks.run does, and returns its folder."""
    ResultWriter(folder).write(run.rows.values())
    write_samples(folder / "samples.npz", run.samples)
    return folder


def log_interval(values: Sequence[float], factor: float) -> tuple[float, float, float]:
    """Returns the geometric mean of values, and the bounds of mean * exp(-+ factor * standard error of the log)."""
    logs = np.log(values)
    half = factor * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    mean = float(logs.mean())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
