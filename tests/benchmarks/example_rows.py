"""A row of 10,000 queries with a value in every field, and what invented latencies give."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.measurement.percentiles import summarize_latency


def latency_fields(latency_ms: NDArray) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a row's `latency_ms` with intervals of 10% either way, and the reasons of what is None."""
    summary = summarize_latency(latency_ms)
    fields, reasons = dict(summary.values), dict(summary.reasons)
    for name in ("p50", "p99"):
        value = fields[name]
        fields[f"ci95_{name}"] = None if value is None else [0.9 * value, 1.1 * value]
        reasons |= {f"latency_ms.ci95_{name}": "there is no percentile"} if value is None else {}
    return fields, reasons


VALUES: dict[str, Any] = {
    "run_id": "r",
    "started_at": "2025-01-02T03:04:05+00:00",
    "suite": "s",
    "case": "sasrec/int8",
    "model": "SASRec",
    "model_config": {"embedding_dim": 8},
    "dataset": "tiny",
    "protocol": "tiny/test",
    "transforms": [{"transform": "quantize", "bits": 8, "backward_bits": None}],
    "variant": "int8",
    "transform_report": {"int8": {"kernels": {"a/kernel": "int8"}}},
    "support": "native",
    "device": {"platform": "cpu", "kind": "a CPU", "count": 1, "mesh": None},
    "scenario": "server",
    "batch_size": 8,
    "quality": {"ndcg@10": 0.25, "mrr": 0.125},
    "quality_metric": "ndcg@10",
    "quality_reference": {"random": {"ndcg@10": 0.125}},
    "quality_retained": 1.0,
    "quality_retained_ci95": [0.75, 1.25],
    "validation_quality": 0.5,
    "latency_ms": latency_fields(np.arange(1.0, 10_001))[0],
    "throughput_queries_per_s": 100.0,
    "throughput_samples_per_s": 100.0,
    "speedup": {"median": 2.0, "range": [1.5, 2.5], "rounds": 5},
    "target_qps": 100.0,
    "search": {"steps": 6, "lowered": 0, "failed_at_qps": None},
    "slo_ms": 20.0,
    "valid": False,
    "invalid_reason": "it is an example",
    "compile_s": 1.5,
    "recompiles_in_window": 0,
    "padding_waste": 0.25,
    "parameter_bytes": 1000,
    "dense_layer_bytes": 500,
    "checkpoint_bytes": 2000,
    "program_memory_bytes": 4000,
    "peak_memory_bytes": 8000,
    "energy_j_per_1k_samples": 0.5,
    "table_bytes": 400,
    "masked_share": 0.25,
    "realised_share": 0.5,
    "masked_speedup": {"median": 1.0, "range": [0.9, 1.1], "rounds": 5},
    "realised_speedup": {"median": 2.0, "range": [1.5, 2.5], "rounds": 5},
    "products": {"s8 x s8 -> s32": 6},
    "train_samples_per_s": 5000.0,
    "train_speedup": {"median": 0.75, "range": [0.5, 1.0], "rounds": 20},
    "train_s": 3.0,
    "flops_per_sample": 1e6,
    "bytes_per_sample": 1e5,
    "achieved_fraction_of_roofline": 0.5,
    "bound_by": "memory",
    "mfu": 0.25,
    "environment": {"seed": 0},
    "reasons": {"device.mesh": "one device, no mesh"},
    "processes": 3,
    "time_split_ms": {"queue": 0.5, "host_preparation": 0.125, "transfer_in": 0.125, "compute": 2.0},
    "tail_split_ms": {"queue": 4.0, "host_preparation": 0.125, "transfer_in": 0.125, "compute": 2.5},
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
