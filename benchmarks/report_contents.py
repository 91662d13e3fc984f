"""What `report.md` and `report.html` both say: the heading facts, the full tables and how to read them."""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.results import Row
from benchmarks.suite import MULTI_STREAM_SAMPLES, SCENARIOS
from benchmarks.summary import (
    MISSING,
    Variant,
    format_bytes,
    format_gain,
    format_number,
    format_percent,
    format_quality,
    group_experiments,
    group_variants,
    metric_name,
    offline_gain,
)

HOW_TO_READ = (
    (
        "Sample and query",
        "A sample is one row of the request columns: one user's history for a next-item model, one user for a top-n "
        "one, one (user, item) for ratings, one (user, item, moment) for a binary one. A query is what arrives at "
        f"once: one sample in single_stream and server, {MULTI_STREAM_SAMPLES} in multi_stream, one full batch in "
        "offline.",
    ),
    (
        "Scenarios",
        "In single_stream, multi_stream and offline the next query is sent when the last is answered. In server, "
        "queries arrive at random (Poisson) at a fixed rate and are answered in batches of what is waiting; its "
        "figure is the highest rate found at which p99 stays within the limit in one of two windows: one search, one "
        "variant after another, without an interval. The scenarios are MLPerf-like: runs are shorter, offline is "
        "one batch after another, and no row is a result of that benchmark.",
    ),
    (
        "Latency",
        "From sending the request on the host to having its answer on the host. Compile time is never part of it, "
        "every program is warm (one query runs untimed before a closed-loop window), and no sample of a window is "
        "dropped. Server latency runs from the scheduled arrival, so waiting behind a slow batch counts. Percentiles "
        "are order statistics: p99 is the smallest sample that at least 99% of the samples do not exceed.",
    ),
    (
        "Intervals",
        "The 95% interval of a percentile is that of the binomial distribution of ranks. It assumes independent "
        "samples and covers this run on this machine, not another run or another seed.",
    ),
    (
        "Speed ratios",
        "Variants of a model take turns, round after round, each in another order, and samples/s is the median of the "
        "rounds. In the first table x2.00 is twice fp32's samples/s, each at the batch size that is best for it. In "
        "the table of all rows it is at the same batch size: the median over the rounds of this variant's samples/s "
        "over fp32's in the same round, so that a change of the machine's speed falls on both.",
    ),
    (
        "Quality",
        "Of the stored variables that are served, by the same forward pass, on the test part, under the protocol named "
        "above the quality table. Kept is quality over that of fp32, which had the same epochs of training, but for "
        "those that a shrink adds. popularity, random and constant learn nothing about the user: a model must clear "
        "them. Any further line without latency is a simpler model trained on the same data.",
    ),
    (
        "Emulated",
        "~ marks a variant that this platform computes without its gain: masked zeros are still multiplied, or it has "
        "no instructions for bfloat16 or int8. Only shrinking turns zeros into less work.",
    ),
    (
        "Invalid",
        "! marks a figure that must not be used, such as a server run in which no rate held the limit; the reason is "
        "listed.",
    ),
    (
        "Host",
        "Lag is the p99 of how late the server's queries were sent, of the worst window. Steal is the share of all "
        "cores' time that a hypervisor gave to others during the row's windows, where it says so; gap the longest time "
        "that a spinning process was held up right after them.",
    ),
    (
        "Memory",
        "Total is the bytes of all stored variables, dense those of dense layers among them. Program memory is what "
        "the compiler plans for one batch: arguments, outputs and temporaries.",
    ),
    (
        "Harness floor",
        "The null model does no work; what it takes is the harness's own share of every latency above it.",
    ),
)


SINCE_PROCESSES = {  # what the notes say of rows that fresh processes measured
    "Sample and query": (
        "A sample is one row of the request columns: one user's history for a next-item model, one user for a top-n "
        "one, one (user, item) for ratings, one (user, item, moment) for a binary one. A query is what arrives at "
        f"once: one sample in single_stream, {MULTI_STREAM_SAMPLES} in multi_stream, one full batch in offline; in "
        "server one sample, unless a row's load says otherwise."
    ),
    "Scenarios": (
        "In single_stream, multi_stream and offline the next query is sent when the last is answered. In server, "
        "queries arrive at random (Poisson, unless a row's load says otherwise) at a fixed rate, sent by another "
        "process, and are answered in batches of what is waiting. Each process finds a rate that holds the limit of "
        "p99 in three windows of three, or lowers it until one does; the row's rate is the lowest of them, and its "
        "latencies are those at that rate. The scenarios are MLPerf-like: runs are shorter, offline is one batch after "
        "another, and no row is a result of that benchmark."
    ),
    "Intervals": (
        "95% intervals come from a bootstrap over the processes that measured a row, or over its windows where there "
        "are fewer than three processes. They cover this machine and these trained models, not another machine or "
        "another seed. A server rate has none."
    ),
    "Speed ratios": (
        "Variants of a model take turns, round after round, each in another order; samples/s are all samples by all "
        "seconds. In the first table x2.00 is twice fp32's samples/s, each at the batch size that is best for it. In "
        "the table of all rows it is at the same batch size: the median over the rounds of this variant's samples/s "
        "over fp32's in the same round, so that a change of the machine's speed falls on both."
    ),
}


def how_to_read(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns titles and notes that fit how the rows were measured: rows of before version 4 had one process."""
    changed = SINCE_PROCESSES if any(row.processes for row in rows) else {}
    return [(title, changed.get(title, words)) for title, words in HOW_TO_READ]


def heading_facts(rows: Sequence[Row]) -> dict[str, str]:
    """Returns device, suite, start, duration and counts, in words."""
    first, last = min(row.started_at for row in rows), max(row.started_at for row in rows)
    device, n_invalid = rows[0].device, sum(not row.valid for row in rows)
    count = f", {device['count']} devices" if device["count"] > 1 else ""
    versions = rows[0].environment.get("versions", {})
    return {
        "Device": f"{device['kind']}, {device['platform']}{count}",
        "Suite": rows[0].suite,
        "Started": f"{datetime.datetime.fromisoformat(first):%Y-%m-%d %H:%M} UTC",
        "First to last row": _duration(first, last),
        "JAX": str(versions.get("jax", MISSING)),
        "Rows": str(len(rows)),
        "Invalid rows": str(n_invalid),
    }


def recommendation(variants: Sequence[Variant], kept: float = 0.98) -> str | None:
    """Returns in a sentence which variant has the most samples/s of those that surely keep that share of the quality.

    Surely: the lower end of the 95% interval is not below it. The first variant is fp32.
    """
    candidates = [
        (variant, row)
        for variant in variants
        if (variant.first("quality_retained_ci95") or [0])[0] >= kept and (row := variant.best("offline")) and row.valid
    ]
    if not candidates:
        return None
    variant, row = max(candidates, key=lambda pair: pair[1].throughput_samples_per_s)
    ratio = f", {format_gain(offline_gain(variant, variants[0]))} of fp32" if variant is not variants[0] else ""
    rate = f"{format_number(row.throughput_samples_per_s)} samples/s in batches of {row.batch_size}{ratio}"
    return f"Most throughput with {kept:.0%} of fp32's quality or more, 95% sure: {variant.name} ({rate})."


def quality_table(variants: Sequence[Variant]) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines of the metrics of the variants and of their reference models, without group gaps."""
    measured: dict[str, Mapping[str, float]] = {v.name: v.first("quality") or {} for v in variants}
    references: Mapping[str, Mapping[str, float]] = variants[0].first("quality_reference") or {}
    named = {name for values in (*measured.values(), *references.values()) for name in values}
    metrics = sorted((name for name in named if "/gap(" not in name), key=_natural)  # gaps between groups: in the rows
    lines = [
        [name, *(format_quality(values.get(metric)) for metric in metrics), validation]
        for group, has_validation in ((measured, True), (references, False))
        for name, values in group.items()
        for validation in [_validation(variants, name) if has_validation else ""]
    ]
    chosen = metric_name(variants[0].first("quality_metric"))
    return ["variant", *map(metric_name, metrics), f"validation {chosen}"], lines


def protocols(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the protocol of each experiment's quality."""
    return {name: variants[0].first("protocol") or MISSING for name, variants in group_experiments(rows).items()}


def full_rows(rows: Iterable[Row]) -> list[Row]:
    """Returns all rows as the full table has them: variant by variant, scenario by scenario, by batch size."""
    return [row for variant in group_variants(rows) for scenario in SCENARIOS for row in variant.of(scenario)]


def full_table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines of all rows, variant by variant, one a scenario and batch size."""
    return FULL_COLUMNS, [_full_cells(row) for row in full_rows(rows)]


TIME_SPLITS = {  # title and caption by the field of a row
    "time_split_ms": (
        "Where the time goes",
        "Mean of each part of a query's latency; the parts add up to it. Of LoadGen's queries only the lag is known.",
    ),
    "tail_split_ms": (
        "Where the tail's time goes",
        "The same of the slowest 1% of the queries: what grows from the one to the other makes the tail.",
    ),
}
PADDING_TITLE = "Padding by batch sizes"
PADDING_NOTE = (
    "Share, in %, of the server's computed samples that are padding. Only the first share was measured: the others are "
    "what the same batches would be padded to with other compiled sizes up to the same largest one. They tell which "
    "sizes are worth measuring; with other sizes, other batches form."
)


def padding_table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines of the server rows' padding by compiled sizes; no lines for rows without that field."""
    by_case = {row.case: of_row for row in full_rows(rows) if (of_row := (row.load or {}).get("padding_by_buckets"))}
    header = ["case", "compiled sizes", *next(iter(by_case.values()), {})]
    lines = [
        [case, " ".join(map(str, of_row["as served"]["buckets"]))]
        + [format_percent(of_policy["padding_waste"]) for of_policy in of_row.values()]
        for case, of_row in by_case.items()
    ]
    return header, lines


def missing_figures(rows: Iterable[Row]) -> list[tuple[str, str, int]]:
    """Returns (reason, fields, number of rows) for everything that could not be had, a reason once."""
    fields: dict[str, dict[str, None]] = {}
    counts: dict[str, set[int]] = {}
    for index, row in enumerate(rows):
        for field, reason in row.reasons.items():
            if field == "invalid_reason" and row.valid:
                continue
            # How many samples a row has stands in its column n; here it would only repeat the reason.
            reason = re.sub(r"^[\d,]+ samples", "n samples", reason)
            fields.setdefault(reason, {})[field] = None
            counts.setdefault(reason, set()).add(index)
    return [(reason, ", ".join(names), len(counts[reason])) for reason, names in fields.items()]


def environment_facts(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the environment of the run as name and value, nested names joined by dots."""
    return dict(_flatten({"run_id": rows[0].run_id, "device": rows[0].device, **rows[0].environment}, ""))


FULL_COLUMNS = [
    "case",
    "scenario",
    "batch",
    "p50 ms",
    "p50 95%",
    "p90 ms",
    "p95 ms",
    "p99 ms",
    "p99 95%",
    "p99.9 ms",
    "max ms",
    "mean ms",
    "n",
    "queries/s",
    "samples/s",
    "over fp32",
    "range",
    "rate q/s",
    "failed q/s",
    "limit ms",
    "lag p99 ms",
    "padding %",
    "compile s",
    "recompiles",
    "steal %",
    "gap ms",
    "program MB",
    "peak MB",
    "J/1k samples",
    "FLOP/sample",
    "B/sample",
    "roofline %",
    "MFU %",
    "bound by",
    "support",
    "steady",
    "valid",
]


def _full_cells(row: Row) -> list[str]:
    latency, speedup, host = row.latency_ms, row.speedup, row.host or {}
    gap_us = host.get("jitter_largest_gap_us")
    return [
        row.case,
        row.scenario,
        str(row.batch_size),
        format_number(latency["p50"]),
        _interval(latency["ci95_p50"]),
        *(format_number(latency[name]) for name in ("p90", "p95", "p99")),
        _interval(latency["ci95_p99"]),
        *(format_number(latency[name]) for name in ("p99_9", "max", "mean")),
        f"{latency['n']:,}",
        format_number(row.throughput_queries_per_s),
        format_number(row.throughput_samples_per_s),
        format_gain(speedup["median"] if speedup else None),
        "{:.2f} to {:.2f}".format(*speedup["range"]) if speedup else MISSING,
        format_number(row.target_qps),
        format_number((row.search or {}).get("failed_at_qps")),
        format_number(row.slo_ms),
        format_number(((row.load or {}).get("send_lag_ms") or {}).get("p99")),
        format_percent(row.padding_waste),
        format_number(row.compile_s),
        str(row.recompiles_in_window),
        format_percent(host.get("steal_share")),
        format_number(None if gap_us is None else gap_us / 1e3),
        format_bytes(row.program_memory_bytes),
        format_bytes(row.peak_memory_bytes),
        format_number(row.energy_j_per_1k_samples),
        format_number(row.flops_per_sample),
        format_number(row.bytes_per_sample),
        format_percent(row.achieved_fraction_of_roofline),
        format_percent(row.mfu),
        row.bound_by or MISSING,
        row.support or MISSING,
        MISSING if row.steady is None else "yes" if row.steady else "no",
        "yes" if row.valid else f"no: {row.invalid_reason}",
    ]


def _validation(variants: Iterable[Variant], name: str) -> str:
    return next(format_quality(v.first("validation_quality")) for v in variants if v.name == name)


def _interval(bounds: Sequence[float] | None) -> str:
    return MISSING if bounds is None else f"{format_number(bounds[0])} to {format_number(bounds[1])}"


def _duration(first: str, last: str) -> str:
    elapsed = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(first)
    seconds = round(elapsed.total_seconds())
    return f"{seconds} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _natural(name: str) -> tuple[str, int]:
    metric, _, cutoff = name.partition("@")
    return metric, int(cutoff) if cutoff.isdigit() else 0


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _flatten(part, f"{prefix}{key}.")
        else:
            yield prefix + str(key), MISSING if part in (None, "", {}) else str(part)
