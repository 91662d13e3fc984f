"""From what processes measured to result rows: every field filled, or None with the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants import NULL_LABEL
from benchmarks.host_fields import host_fields
from benchmarks.measured import Measured
from benchmarks.prepared import PreparedVariant
from benchmarks.results import Row
from benchmarks.row_costs import growth_of, put_memory, put_roofline
from benchmarks.row_fields import NULL_REASON, ProcessFacts, Rowed, RowFields, bucket_of
from benchmarks.row_measured import at_lowest_rate, put_latency, put_server, put_throughput, speedup_of
from benchmarks.suite import Case, Measurement


def make_row(
    case: Case,
    variant: PreparedVariant | None,
    records: Rowed,
    processes: Sequence[ProcessFacts],
    run: Mapping[str, Any],
    training: Mapping[str, Any],
    asked: Measurement,
) -> Row:
    """Returns the row of one variant in one scenario, and of the null model where `variant` is None.

    Args:
      case: that it belongs to.
      variant: whose row it is.
      records: what was measured.
      processes: that measured it, in order.
      run: run_id, suite, and the command that all of it came from.
      training: over which devices the training was spread.
      asked: how queries were drawn.
    """
    row, first, experiment = RowFields(), records.of_variant[0], case.experiment
    facts, settings = processes[0], experiment.serving
    at_rate = at_lowest_rate(records.of_variant)
    windows = [window for record in at_rate for window in record.windows]
    label = variant.label if variant else NULL_LABEL
    program = facts.programs[label][str(bucket_of(settings.buckets, first.batch_size))]
    is_server = first.scenario == "server"
    _put_model(row, variant)
    put_latency(row, at_rate)
    queries = sum(len(latencies) for record in at_rate for latencies in record.latency_ms)
    samples = sum(window["samples"] for window in windows)
    padded = sum(window["padded_samples"] for window in windows)
    throughput = samples / sum(window["duration_s"] for window in windows)
    put_throughput(row, records, variant, is_server=is_server)
    put_server(row, records.of_variant, settings)
    queries_in_words = asked.queries.in_words() if is_server else asked.queries.rows_in_words()
    row.fields["load"] |= {"queries": queries_in_words}
    row.fields["load"] |= {"position_padding": facts.position_padding}
    row.fields["load"] |= {"arrivals": asked.arrivals.in_words()} if is_server else {}
    put_memory(row, records, facts, program)
    _put_sparse_speeds(row, variant, records)
    put_roofline(row, variant, program, facts, first, throughput)
    row.put("answer_caching", first.answer_caching, "it is looked at once, before the first scenario")
    energies = [record.energy_j for record in at_rate]
    no_energy = next((record.energy_reason for record in at_rate if record.energy_j is None), None)
    joules = None if no_energy or not samples else sum(e or 0.0 for e in energies) / samples * 1e3
    row.put("energy_j_per_1k_samples", joules, no_energy or "no query was answered")
    compiled = [sum(p["compile_s"] for p in process.programs[label].values()) for process in processes]
    row.put("compile_cached_s", compiled[1] if len(compiled) > 1 else None, "one process: nothing is compiled twice")
    row.fields["host"], why_not_told = host_fields(at_rate)
    row.reasons |= why_not_told
    fault = _fault(variant, records, program)
    no_rate = _why_no_rate(records.of_variant, row.fields["search"], settings.slo_ms) if variant and is_server else None
    if row.fields["search"]:
        row.fields["search"] |= {"no_rate": None if fault else no_rate}
    invalid = fault or no_rate
    row.put("invalid_reason", invalid, "the row is valid")
    if facts.device["mesh"] is None:
        row.reasons["device.mesh"] = "one device answers, no mesh"
    return Row(
        run_id=run["run_id"],
        suite=run["suite"],
        started_at=first.started_at,
        case=f"{experiment.name}/{label}",
        variant=label,
        dataset=experiment.dataset.source,
        device=facts.device,
        scenario=first.scenario,
        processes=len(records.of_variant),
        batch_size=first.batch_size,
        throughput_queries_per_s=throughput * queries / samples if samples else 0.0,
        throughput_samples_per_s=throughput,
        valid=invalid is None,
        compile_s=compiled[0],
        recompiles_in_window=sum(record.recompiles for record in records.of_variant),
        padding_waste=1 - samples / padded if padded else 0.0,
        environment=facts.environment | {"training": dict(training), "command": run["command"]},
        reasons=row.reasons,
        **row.fields,
    )


def _put_model(row: RowFields, variant: PreparedVariant | None) -> None:
    if variant is not None:
        row.fields |= variant.row
        row.reasons |= variant.reasons
        return
    missing = ["protocol", "support", "quality", "quality_metric", "quality_reference", "quality_retained"]
    missing += ["quality_retained_ci95", "validation_quality", "dense_layer_bytes", "checkpoint_bytes", "train_s"]
    missing += ["table_bytes", "masked_share", "realised_share", "train_samples_per_s", "train_speedup"]
    row.reasons |= dict.fromkeys(missing, NULL_REASON)
    empty = {"model": "null", "model_config": {}, "transforms": [], "transform_report": {}, "parameter_bytes": 0}
    row.fields |= dict.fromkeys(missing) | empty


def _put_sparse_speeds(row: RowFields, variant: PreparedVariant | None, records: Rowed) -> None:
    """Puts the speed over fp32 while masked zeros are multiplied, and once they are not."""
    speedup = row.fields["speedup"]
    row.fields |= {"masked_speedup": None, "realised_speedup": None}
    if variant is None or speedup is None or not variant.masks:
        reason = NULL_REASON if variant is None else row.reasons.get("speedup", "nothing in the chain masks weights")
        row.reasons |= dict.fromkeys(("masked_speedup", "realised_speedup"), reason)
        return
    if not variant.realises_masks:
        row.fields["masked_speedup"] = speedup
        row.reasons["realised_speedup"] = "nothing in the chain removes or skips the masked zeros"
        return
    row.fields["realised_speedup"] = speedup
    if records.of_masked is None:
        row.reasons["masked_speedup"] = f"the case has no variant {variant.masked_label!r} to compare with"
    else:
        row.fields["masked_speedup"] = speedup_of(records.of_masked, records.of_fp32)


def _fault(variant: PreparedVariant | None, records: Rowed, program: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with the system or its measurement, None if nothing is."""
    if program["fault"]:
        return program["fault"]
    recompiles = sum(record.recompiles for record in records.of_variant)
    if recompiles:
        return f"{recompiles} programs were compiled inside the timed windows"
    every = [record for of_process in records.of_all for record in of_process]
    # A cache of answers, unlike what went wrong in one window, makes every row of the system worthless.
    caching = (record.fault for record in every if record.answer_caching and record.answer_caching["cached"])
    of_system = next(caching, None)
    if of_system or any(record.fault for record in records.of_variant):
        return of_system or next(record.fault for record in records.of_variant if record.fault)
    growth, _ = growth_of(records.of_all)
    if growth and growth["leaking"]:
        return f"the system leaks {growth['memory']} memory: {growth['in_words']}"
    return variant.below_floor if variant is not None else None


def _why_no_rate(records: Sequence[Measured], row_search: Mapping[str, Any] | None, slo_ms: float) -> str | None:
    """Returns why a server's row has no rate that every process held and the system set, None if it has one."""
    if any(record.search is None for record in records):
        return "no closed loop gave a rate with which the search could begin"
    if row_search and row_search["late_generator"]:
        failed_at, late = row_search["failed_at_qps"], row_search["late_generator"]
        return f"the rate is that of the load generator: at {failed_at:,.0f} queries/s {late}"
    if row_search and row_search["cannot_hold"]:
        return f"p99 cannot hold {slo_ms:g} ms at any rate: {row_search['cannot_hold']}"
    held = [record.search["confirmed"] for record in records if record.search is not None]
    if not any(held):
        failed_at = (row_search or {}).get("failed_at_qps") or 0.0
        return f"p99 did not hold {slo_ms:g} ms at any rate in 3 windows of 3, down to {failed_at:,.3g} queries/s"
    if not all(held):
        return f"p99 did not hold {slo_ms:g} ms at any rate that process {held.index(False) + 1} tried"
    return None
