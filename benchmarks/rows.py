"""From what processes measured to result rows: every field filled, or None with the reason."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contestants import NULL_LABEL
from benchmarks.measured import Measured
from benchmarks.prepared import PreparedVariant
from benchmarks.results import Row, RowSamples
from benchmarks.statistics import ratio_summary
from benchmarks.suite import Case, Measurement
from recjax.hardware.ceilings import Ceilings
from recjax.hardware.estimate import flops_utilization
from recjax.hardware.facts import chip_of
from recjax.load.rate_search import holds_limit_of
from recjax.load.window import PARTS
from recjax.measurement.early_stopping import estimate_percentile
from recjax.measurement.intervals import Interval, interval, paired_ratio, quantile_of, rate_of
from recjax.measurement.memory_growth import MemoryGrowth, memory_growth
from recjax.measurement.outliers import count_outliers
from recjax.measurement.percentiles import summarize_latency
from recjax.measurement.steady_state import LAST_WINDOWS, steady_state

NULL_REASON = "the null model has none: it is the floor of the harness"
SINGLE_STREAM_PERCENTILE, OTHER_PERCENTILE = 0.9, 0.99  # that LoadGen reports of single_stream, and of the others
ABOVE_CEILING = {
    "compute": "of the product rate measured at the start of the run, when the machine must have been slower",
    "memory": "by XLA's count of bytes: they come from caches, whose bandwidth was not measured",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """What a measuring process says of itself.

    Attributes:
      process: its number.
      device: platform, kind, count, mesh, and the kind as JAX names it.
      programs: by label and batch size, what the compiler says.
      environment: of its rows.
      peak_memory_bytes: of the device, None where it keeps no count.
      peak_host_bytes: None where the system does not tell.
    """

    process: int
    device: dict[str, Any]
    device_kind: str
    programs: dict[str, dict[str, dict[str, Any]]]
    environment: dict[str, Any]
    peak_memory_bytes: int | None = None
    peak_host_bytes: int | None = None

    @property
    def ceilings(self) -> Ceilings:
        """Returns the device's measured limits."""
        return Ceilings(**self.environment["ceilings"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rowed:
    """One scenario's records of a variant, one a process, and those of what it is compared with.

    Attributes:
      of_variant: of the variant itself.
      of_fp32: of fp32, in the same processes and rounds.
      of_masked: of the same chain without what removes its zeros, None where the case has no such variant.
      of_all: of the variant in all scenarios, process by process.
    """

    of_variant: Sequence[Measured]
    of_fp32: Sequence[Measured]
    of_masked: Sequence[Measured] | None
    of_all: Sequence[Sequence[Measured]]


class _Row:
    """Collects a row's fields and the reasons of those that are None."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: Any, why_not: str | None = None) -> None:
        self.fields[name] = value
        if value is None:
            self.reasons[name] = why_not or "unknown"


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
    row, first, experiment = _Row(), records.of_variant[0], case.experiment
    facts, settings = processes[0], experiment.serving
    windows = [window for record in records.of_variant for window in record.windows]
    label = variant.label if variant else NULL_LABEL
    program = facts.programs[label][str(_bucket(settings.buckets, first.batch_size))]
    is_server = first.scenario == "server"
    _put_model(row, variant)
    _put_latency(row, records.of_variant)
    throughput = float(np.median(np.concatenate([record.samples_per_s for record in records.of_variant])))
    queries = sum(len(latencies) for record in records.of_variant for latencies in record.latency_ms)
    samples = sum(window["samples"] for window in windows)
    padded = sum(window["padded_samples"] for window in windows)
    _put_throughput(row, records, variant, is_server=is_server)
    _put_server(row, records.of_variant, settings.slo_ms)
    queries_in_words = asked.queries.in_words() if is_server else asked.queries.rows_in_words()
    row.fields["load"] |= {"queries": queries_in_words}
    row.fields["load"] |= {"arrivals": asked.arrivals.in_words()} if is_server else {}
    _put_memory(row, records, facts, program)
    _put_sparse_speeds(row, variant, records)
    _put_roofline(row, variant, program, facts, first, throughput)
    row.put("answer_caching", first.answer_caching, "it is looked at once, before the first scenario")
    energies = [record.energy_j for record in records.of_variant]
    no_energy = next((record.energy_reason for record in records.of_variant if record.energy_j is None), None)
    joules = None if no_energy or not samples else sum(e or 0.0 for e in energies) / samples * 1e3
    row.put("energy_j_per_1k_samples", joules, no_energy or "no query was answered")
    compiled = [sum(p["compile_s"] for p in process.programs[label].values()) for process in processes]
    row.put("compile_cached_s", compiled[1] if len(compiled) > 1 else None, "one process: nothing is compiled twice")
    row.put("host", _host(records.of_variant), None)
    invalid = _invalid_reason(variant, records, program, settings.slo_ms)
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


def samples_of(records: Sequence[Measured]) -> RowSamples:
    """Returns every latency of a row's records."""
    windows = [(record.process, latencies) for record in records for latencies in record.latency_ms]
    return RowSamples([latencies for _, latencies in windows], [process for process, _ in windows])


def _put_model(row: _Row, variant: PreparedVariant | None) -> None:
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


def _put_latency(row: _Row, records: Sequence[Measured]) -> None:
    """Puts percentiles with intervals, the parts of the latency, outliers, and whether all of it is steady."""
    samples = samples_of(records)
    windows = [window for window in samples.windows_ms if len(window)]
    if not windows:
        none = dict.fromkeys(["p50", "p90", "p95", "p99", "p99_9", "max", "mean", "ci95_p50", "ci95_p99"])
        row.reasons |= dict.fromkeys([f"latency_ms.{name}" for name in none], "no query was answered")
        row.fields["latency_ms"] = none | {"n": 0, "ci95_over": "windows"}
        for name in ("time_split_ms", "outliers", "early_stopping", "steady"):
            row.put(name, None, "no query was answered")
        return
    processes = [p for p, window in zip(samples.processes, samples.windows_ms, strict=True) if len(window)]
    summary = summarize_latency(samples.latency_ms)
    row.reasons |= {name: why for name, why in summary.reasons.items() if not name.startswith("latency_ms.ci95")}
    latency, over = dict(summary.values), "windows"
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        of_figure = None if latency[name] is None else interval(quantile_of(windows, quantile), processes)
        over = of_figure.over if of_figure else over
        latency[f"ci95_{name}"] = _bounds(of_figure)
        if latency[f"ci95_{name}"] is None:
            why = of_figure.reason if of_figure else summary.reasons[f"latency_ms.{name}"]
            row.reasons[f"latency_ms.ci95_{name}"] = why or "unknown"
    row.fields["latency_ms"] = latency | {"ci95_over": over}
    n = len(samples.latency_ms)
    parts: dict[str, float] = {}
    for window in (window for record in records for window in record.windows):
        for name, total_ms in window["parts_ms"].items():
            parts[name] = parts.get(name, 0.0) + total_ms / n
    row.fields["time_split_ms"] = {name: parts[name] for name in PARTS if name in parts}
    outliers = count_outliers(samples.latency_ms)
    row.fields["outliers"] = {
        "mild": outliers.low_mild + outliers.high_mild,
        "severe": outliers.low_severe + outliers.high_severe,
        "share": outliers.share,
    }
    percentile = SINGLE_STREAM_PERCENTILE if records[0].scenario == "single_stream" else OTHER_PERCENTILE
    estimate = estimate_percentile(samples.latency_ms, percentile)
    row.fields["early_stopping"] = {"percentile": percentile, "latency_ms": estimate.latency_ms}
    if estimate.latency_ms is None:
        row.reasons["early_stopping.latency_ms"] = estimate.reason or "unknown"
    of_processes = [_steady(record) for record in records]
    too_short = [why for steady, why in of_processes if steady is None]
    if too_short:
        row.put("steady", None, too_short[0])
    else:
        row.fields["steady"] = all(steady for steady, _ in of_processes)
        unsteady = [why for steady, why in of_processes if not steady]
        if unsteady:
            row.reasons["steady"] = unsteady[0]


def _steady(record: Measured) -> tuple[bool | None, str]:
    if len(record.windows) < LAST_WINDOWS:
        return None, f"{len(record.windows)} windows in a process; {LAST_WINDOWS} must agree"
    medians = [float(np.median(latencies)) if len(latencies) else 0.0 for latencies in record.latency_ms]
    return steady_state(record.samples_per_s, medians)


def _put_throughput(row: _Row, records: Rowed, variant: PreparedVariant | None, *, is_server: bool) -> None:
    of_rate = interval(_rate(records.of_variant), _processes(records.of_variant))
    row.put("throughput_ci95", _bounds(of_rate), of_rate.reason)
    why_not = None
    if is_server:
        why_not = "server rates are searched one after the other, not in turns; compare target_qps"
    elif variant is None:
        why_not = NULL_REASON
    elif not all(np.all(one.samples_per_s) for one in (*records.of_variant, *records.of_fp32)):
        why_not = "a window answered no query"
    row.put("speedup", None if why_not else _speedup(records.of_variant, records.of_fp32), why_not)


def _speedup(records: Sequence[Measured], of_fp32: Sequence[Measured]) -> dict[str, Any]:
    """Returns samples/s over fp32's in the same rounds: median and range over the rounds, and the ratio's interval."""
    pairs = zip(records, of_fp32, strict=True)
    rounds = np.concatenate([ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs])
    of_ratio = paired_ratio(_rate(records), _rate(of_fp32), _processes(records))
    bounds = _bounds(of_ratio)
    return ratio_summary(rounds) | ({} if bounds is None else {"ci95": bounds})


def _put_server(row: _Row, records: Sequence[Measured], slo_ms: float) -> None:
    first, windows = records[0], [window for record in records for window in record.windows]
    load: dict[str, Any] = {"windows": len(windows)}
    verdicts = [window["verdict"] for window in windows if window["verdict"]]
    if first.scenario != "server":
        for name in ("target_qps", "search", "slo_ms"):
            row.put(name, None, "only the server scenario has a latency limit")
        loop = "LoadGen's, from a process of its own" if verdicts else "closed, in the process of the system"
        row.fields["load"] = load | {"loop": loop, "verdict": verdicts[-1] if verdicts else None}
        return
    row.fields |= {"target_qps": windows[0]["offered_qps"], "slo_ms": slo_ms}
    search = None
    if first.search is not None:
        held = [
            holds_limit_of(ms, w, slo_ms)[0] for r in records for ms, w in zip(r.latency_ms, r.windows, strict=True)
        ]
        search = dict(first.search) | {"held_windows": sum(held), "windows": len(held)}
    row.put("search", search, "the null model is not searched: it is measured at a fixed rate")
    lags = [window["send_lag_ms"] for window in windows if window["send_lag_ms"]]
    shares = [window["generator_cpu_share"] for window in windows]
    row.fields["load"] = load | {
        "loop": "LoadGen's, from a process of its own" if verdicts else "open, from a process of its own",
        "verdict": verdicts[-1] if verdicts else None,
        "send_lag_ms": {name: max(lag[name] for lag in lags) for name in lags[0]} if lags else None,  # worst window
        "unanswered": sum(window["unanswered"] for window in windows),
        "generator_cpu_share": None if None in shares else max(shares),
    }


def _put_memory(row: _Row, records: Rowed, facts: ProcessFacts, program: Mapping[str, Any]) -> None:
    platform = facts.device["platform"]
    row.put("peak_memory_bytes", facts.peak_memory_bytes, f"the {platform} device keeps no count")
    row.put("peak_host_bytes", facts.peak_host_bytes, "the system keeps no count")
    row.put("program_memory_bytes", program["memory_bytes"], f"the {platform} compiler gives no memory analysis")
    row.put("products", program["products"], "the compiler made library calls of them, whose text gives no types")
    growth, reason = _growth(records.of_all)
    row.put("memory_growth", growth, reason)


def _growth(of_all: Sequence[Sequence[Measured]]) -> tuple[dict[str, Any] | None, str]:
    """Returns how memory grows over all windows of the variant, in the process in the middle by its growth.

    A system that leaks does so in every process; one process of many that grew had a heap that was spread badly.
    """
    found: dict[str, Any] | None = None
    why = "no window"
    for index, memory in enumerate(("host", "device")):
        seen = [one for of_process in of_all if (one := _growth_in(of_process, memory, index)) is not None]
        why = seen[-1].reason if seen else why
        known = sorted((one for one in seen if one.leaking is not None), key=lambda one: one.later_bytes)
        if not known:
            continue
        middle = known[len(known) // 2]
        growth = {
            "memory": memory,
            "leaking": bool(middle.leaking),
            "leaking_processes": sum(bool(one.leaking) for one in known),
            "processes": len(known),
            "bytes_per_query": middle.bytes_per_query,
            "later_bytes": middle.later_bytes,
            "in_words": middle.reason,
        }
        if found is None or (growth["leaking"], growth["later_bytes"]) > (found["leaking"], found["later_bytes"]):
            found = growth
    return found, why


def _growth_in(of_process: Sequence[Measured], memory: str, index: int) -> MemoryGrowth | None:
    grown = [getattr(record, f"{memory}_growth_bytes") for record in of_process]
    if any(growth is None for growth in grown):
        return None
    queries = [max(1, len(latencies)) for record in of_process for latencies in record.latency_ms]
    steps = [step for growth in grown for step in growth]
    return memory_growth(np.cumsum([of_process[0].held_bytes[index], *steps]).tolist(), queries)


def _put_roofline(
    row: _Row,
    variant: PreparedVariant | None,
    program: Mapping[str, Any],
    facts: ProcessFacts,
    first: Measured,
    samples_per_s: float,
) -> None:
    """Puts operations and bytes a sample, and the share of what the measured ceilings allow.

    The ceiling of operations is that of the type most dots run in: int8, bfloat16 or float32. A share above 1
    says nothing of a limit, so it is None, with the reason.
    """
    names = ("flops_per_sample", "bytes_per_sample", "achieved_fraction_of_roofline", "bound_by", "mfu")
    row.fields |= dict.fromkeys(names)
    if variant is None or first.scenario == "server":
        why = NULL_REASON if variant is None else "batches of a server window differ in size; see the offline rows"
        row.reasons |= dict.fromkeys(names, why)
        return
    if program["flops"] is None or program["bytes_accessed"] is None:
        row.reasons |= dict.fromkeys(names, "the compiler gives no count of operations or bytes")
        return
    size = _bucket([int(bucket) for bucket in facts.programs[variant.label]], first.batch_size)
    row.fields["flops_per_sample"] = flops = program["flops"] / size
    row.fields["bytes_per_sample"] = bytes_accessed = program["bytes_accessed"] / size
    n_devices = facts.device["count"]
    mfu, why_not = model_flops_utilization(flops, variant.dot_dtype, samples_per_s, facts.device_kind, n_devices)
    row.put("mfu", mfu, why_not)
    of_ceilings = ("achieved_fraction_of_roofline", "bound_by")
    ceilings = facts.ceilings
    if variant.dot_dtype not in ceilings.flops_per_s:
        row.reasons |= dict.fromkeys(of_ceilings, f"no ceiling is measured for products in {variant.dot_dtype}")
        return
    # The ceilings are of one device, but CPU devices are all of the same processor.
    sharing = 1 if facts.device["platform"] == "cpu" else n_devices
    compute_s = flops / sharing / ceilings.flops_per_s[variant.dot_dtype]
    memory_s = bytes_accessed / ceilings.bytes_per_s
    share = max(compute_s, memory_s) * samples_per_s
    bound_by = "compute" if compute_s >= memory_s else "memory"
    if share > 1:
        row.reasons |= dict.fromkeys(of_ceilings, f"{share:.1f} {ABOVE_CEILING[bound_by]}")
        return
    row.fields |= {"achieved_fraction_of_roofline": share, "bound_by": bound_by}


def model_flops_utilization(
    flops_per_sample: float, dtype: str, samples_per_s: float, device_kind: str, n_devices: int
) -> tuple[float | None, str | None]:
    """Returns the share of the devices' published peak that the rate means (MFU), or None and why there is none.

    Args:
      flops_per_sample: operations of all devices together.
      dtype: that most products run in.
      samples_per_s: of all devices together.
      device_kind: as JAX names it.
      n_devices: that answer together.
    """
    chip = chip_of(device_kind)
    if chip is None:
        return None, f"{device_kind} is unknown: recjax/hardware/facts.toml has no published peak of it"
    share = flops_utilization({dtype: flops_per_sample}, chip, n_devices / samples_per_s)
    return share, None if share is not None else f"no published peak of {chip.name} for products of {dtype}"


def _put_sparse_speeds(row: _Row, variant: PreparedVariant | None, records: Rowed) -> None:
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
        row.fields["masked_speedup"] = _speedup(records.of_masked, records.of_fp32)


def _invalid_reason(
    variant: PreparedVariant | None, records: Rowed, program: Mapping[str, Any], slo_ms: float
) -> str | None:
    """Returns why the row must not be used, None if it may."""
    if program["fault"]:
        return program["fault"]
    recompiles = sum(record.recompiles for record in records.of_variant)
    if recompiles:
        return f"{recompiles} programs were compiled inside the timed windows"
    every = [record for of_process in records.of_all for record in of_process]
    # A cache of answers, unlike what went wrong in one window, makes every row of the system worthless.
    caching = (record.fault for record in every if record.answer_caching and record.fault)
    of_system = next(caching, None)
    if of_system or any(record.fault for record in records.of_variant):
        return of_system or next(record.fault for record in records.of_variant if record.fault)
    growth, _ = _growth(records.of_all)
    if growth and growth["leaking"]:
        return f"the system leaks {growth['memory']} memory: {growth['in_words']}"
    if variant is not None and variant.below_floor:
        return variant.below_floor
    if records.of_variant[0].scenario != "server":
        return None
    search = records.of_variant[0].search
    if search is not None and not search["confirmed"]:
        return f"p99 did not hold {slo_ms:g} ms at any rate tried"
    latencies = samples_of(records.of_variant).latency_ms
    if variant is not None and (not len(latencies) or np.percentile(latencies, 99, method="inverted_cdf") > slo_ms):
        return f"p99 is above {slo_ms:g} ms at the rate that was found"
    return None


def _host(records: Sequence[Measured]) -> dict[str, Any]:
    """Returns what else happened on the host during the windows, and its jitter after them."""
    noises = [noise for record in records for noise in record.host["windows"]]

    def total(name: str) -> float | None:
        values = [noise[name] for noise in noises]
        return None if None in values else sum(values)

    shares = [noise["steal_share"] for noise in noises]
    seconds = [noise["duration_s"] for noise in noises]
    steal = None if None in shares else float(np.average(shares, weights=seconds))
    counts = ("cpu_pressure_s", "throttled_s", "involuntary_switches")
    largest = max(record.host["jitter"]["largest_gap_us"] for record in records)
    return {
        "watched_s": sum(seconds),
        "steal_share": steal,
        **{name: total(name) for name in counts},
        "load_1m": noises[-1]["load_1m"],
        "cpu_mhz": noises[-1]["cpu_mhz"],
        "jitter_largest_gap_us": largest,
    }


def _rate(records: Sequence[Measured]) -> Any:
    windows = [window for record in records for window in record.windows]
    return rate_of([window["samples"] for window in windows], [window["duration_s"] for window in windows])


def _processes(records: Sequence[Measured]) -> list[int]:
    return [record.process for record in records for _ in record.windows]


def _bounds(of_figure: Interval | None) -> list[float] | None:
    if of_figure is None or of_figure.low is None or of_figure.high is None:
        return None
    return [of_figure.low, of_figure.high]


def _bucket(buckets: Sequence[int], n: int) -> int:
    return next(size for size in buckets if size >= n)
