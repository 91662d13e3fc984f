"""Rows and latencies of an invented run, for its report."""

from typing import Any

import numpy as np
from example_rows import VALUES, latency_fields

from benchmarks.results import Row, check_row
from benchmarks.summary import samples_key

SPEED = {"fp32": 1.0, "bf16": 1.5, "int8": 2.0, "prune(0.5) + shrink + int8": 3.0}
SCENARIOS = (("single_stream", 1), ("multi_stream", 8), ("offline", 64), ("offline", 256), ("server", 256))
REASON = "the processor has no such counter"
CURVE = [
    {"rate_qps": 300.0, "p50_ms": 1.0, "p99_ms": 2.0, "padding_waste": 0.5},
    {"rate_qps": 900.0, "p50_ms": 2.0, "p99_ms": 8.0, "padding_waste": 0.25},
]
CEILINGS = {"flops_per_s": {"float32": 1e11, "int8": 4e11}, "bytes_per_s": 1e10}


def make_row(
    experiment: str, variant: str, scenario: str, batch_size: int, latency_ms: np.ndarray, **changes: Any
) -> Row:
    latency, reasons = latency_fields(latency_ms)
    rate = batch_size * 1e3 / float(latency_ms.mean())
    is_server = scenario == "server"
    values: dict[str, Any] = {
        "run_id": "20250102T030405-abcdef",
        "suite": "invented",
        "case": f"{experiment}/{variant}",
        "model_config": {"embedding_dim": 64},
        "protocol": "tiny/5-core/full_catalogue/test",
        "transforms": [],
        "variant": variant,
        "transform_report": {},
        "device": {"platform": "cpu", "kind": "Some CPU (2 cores)", "count": 1, "mesh": None},
        "scenario": scenario,
        "batch_size": batch_size,
        "quality": {"ndcg@10": 0.0599, "hr@10": 0.12},
        "quality_reference": {"popularity": {"ndcg@10": 0.0361, "hr@10": 0.071}, "random": {"ndcg@10": 0.0014}},
        "quality_retained": 0.987,
        "quality_retained_ci95": [0.961, 1.012],
        "validation_quality": 0.061,
        "latency_ms": latency,
        "throughput_queries_per_s": rate / batch_size,
        "throughput_samples_per_s": rate,
        "speedup": None if is_server else {"median": 2.314, "range": [2.2, 2.4], "rounds": 5},
        "target_qps": 1234.5 if is_server else None,
        "search": {"probes": 7, "failed_at_qps": 1500.0, "curve": CURVE} if is_server else None,
        "slo_ms": 20.0 if is_server else None,
        "valid": True,
        "invalid_reason": None,
        "padding_waste": 0.125,
        "parameter_bytes": 2_340_000,
        "dense_layer_bytes": 640_000,
        "checkpoint_bytes": 2_400_000,
        "program_memory_bytes": 3_100_000,
        "peak_memory_bytes": None,
        "energy_j_per_1k_samples": None,
        "train_s": 12.0,
        "flops_per_sample": 2.5e7,
        "bytes_per_sample": 1.1e5,
        "achieved_fraction_of_roofline": 0.31,
        "bound_by": "compute",
        "mfu": 0.2,
        "environment": {"versions": {"jax": "0.12.0"}, "seed": 0, "git": {"commit": "c" * 40}, "ceilings": CEILINGS},
    }
    values = VALUES | values | changes
    missing = {name: REASON for name, value in values.items() if value is None}
    row = Row(**(values | {"reasons": {**missing, "device.mesh": "one device", **reasons}}))
    check_row(row)
    return row


def make_rows(experiment: str = "sasrec") -> tuple[list[Row], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows, samples = [], {}
    for variant, speed in SPEED.items():
        for scenario, batch_size in SCENARIOS:
            latency_ms = batch_size**0.8 / speed * (1 + rng.gamma(1.5, 0.1, 500))
            rows.append(make_row(experiment, variant, scenario, batch_size, latency_ms))
            samples[samples_key(rows[-1])] = latency_ms
    no_quality = dict.fromkeys(
        ("quality", "quality_metric", "quality_reference", "quality_retained", "quality_retained_ci95", "protocol")
    )
    for scenario, batch_size in SCENARIOS:
        null = make_row(
            "null", "null", scenario, batch_size, np.full(500, 0.02), model="null", speedup=None, **no_quality
        )
        rows.append(null)
    return rows, samples
