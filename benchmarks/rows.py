"""From measured windows to result rows: every field filled, or None with the reason."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

from benchmarks.program_check import quantization_fault
from benchmarks.results import Row
from benchmarks.statistics import ratio_summary, summarize_latency
from recjax.config import to_dict
from recjax.hardware.ceilings import Ceilings
from recjax.hardware.device import describe_device, describe_training, peak_memory_bytes, support_platform
from recjax.hardware.estimate import flops_utilization
from recjax.hardware.facts import chip_of
from recjax.serving.compiled import Program

if TYPE_CHECKING:
    from benchmarks.measure import Contestant, Measured

NULL_REASON = "the null model has none: it is the floor of the harness"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What all rows of a run share."""

    run_id: str
    suite: str
    device: jax.Device
    ceilings: Ceilings
    environment: dict[str, Any]


def make_row(
    contestant: "Contestant",
    measured: "Measured",
    of_fp32: "Measured",
    facts: RunFacts,
    of_masked: "Measured | None" = None,
) -> Row:
    """Returns the row of one contestant in one scenario, compared with fp32's windows of the same rounds.

    Args:
      contestant: whose row it is.
      measured: its windows.
      of_fp32: fp32's.
      facts: of the run.
      of_masked: the windows of the same chain without what removes its zeros, where the case has that variant.
    """
    window, platform = measured.window, facts.device.platform
    latency = summarize_latency(window.latency_ms)
    reasons = dict(latency.reasons)
    program = contestant.compiled.programs[contestant.compiled.bucket_of(measured.batch_size)]
    fields = _model_fields(contestant, support_platform(facts.device), reasons)
    is_server = measured.scenario == "server"

    def missing(name: str, reason: str) -> None:
        reasons[name] = reason

    speedup = None
    if is_server:
        missing("speedup", "server rates are searched one after the other, not in turns; compare target_qps")
    elif contestant.trained is None:
        missing("speedup", NULL_REASON)
    else:
        speedup = ratio_summary(measured.samples_per_s / of_fp32.samples_per_s)
    if is_server and measured.search is None:
        missing("search", "the null model is not searched: it is measured at the rate that fp32 reached")
    if not is_server:
        for name in ("target_qps", "search", "slo_ms"):
            missing(name, "only the server scenario has a latency limit")
    missing("energy_j_per_1k_samples", f"recjax reads no energy counter on {platform}")
    mesh = contestant.compiled.mesh
    if mesh is None:
        missing("device.mesh", "one device answers, no mesh")
    peak_memory = peak_memory_bytes(facts.device)
    if peak_memory is None:
        missing("peak_memory_bytes", "the CPU device keeps no count; program_memory_bytes is the compiler's figure")
    if program.memory_bytes is None:
        missing("program_memory_bytes", f"the {platform} compiler gives no memory analysis")
    if program.products is None:
        missing("products", "the compiler made library calls of them, whose text gives no types")
    invalid_reason = _invalid_reason(contestant, measured, program, latency.values["p99"])
    if invalid_reason is None:
        missing("invalid_reason", "the row is valid")

    return Row(
        run_id=facts.run_id,
        started_at=measured.started_at,
        suite=facts.suite,
        dataset=contestant.experiment.dataset.source,
        device=describe_device([facts.device], mesh),
        scenario=measured.scenario,
        batch_size=measured.batch_size,
        latency_ms=latency.values,
        throughput_queries_per_s=measured.throughput * window.queries / window.samples,
        throughput_samples_per_s=measured.throughput,
        speedup=speedup,
        target_qps=window.offered_qps,
        search=measured.search,
        slo_ms=contestant.experiment.serving.slo_ms if is_server else None,
        valid=invalid_reason is None,
        invalid_reason=invalid_reason,
        compile_s=sum(p.compile_s for p in contestant.compiled.programs.values()),
        recompiles_in_window=measured.recompiles,
        padding_waste=window.padding_waste,
        products=None if program.products is None else dict(program.products),
        program_memory_bytes=program.memory_bytes,
        peak_memory_bytes=peak_memory,
        energy_j_per_1k_samples=None,
        environment=facts.environment | {"training": describe_training(contestant.experiment.parallel)},
        reasons=reasons,
        **_roofline_fields(contestant, measured, facts, reasons),
        **_sparse_speed_fields(contestant, measured, of_fp32, of_masked, speedup, reasons),
        **fields,
    )


def _model_fields(contestant: "Contestant", platform: str, reasons: dict[str, str]) -> dict[str, Any]:
    """Returns what belongs to the model and its transforms, whatever the scenario."""
    experiment, trained = contestant.experiment, contestant.trained
    fields = {"case": f"{experiment.name}/{contestant.label}", "variant": contestant.label}
    if trained is None:
        missing = ["protocol", "support", "quality", "quality_metric", "quality_reference", "quality_retained"]
        missing += ["quality_retained_ci95", "validation_quality", "dense_layer_bytes", "checkpoint_bytes", "train_s"]
        missing += ["table_bytes", "masked_share", "realised_share", "train_samples_per_s", "train_speedup"]
        reasons |= dict.fromkeys(missing, NULL_REASON)
        empty = {"model": "null", "model_config": {}, "transforms": [], "transform_report": {}, "parameter_bytes": 0}
        return fields | dict.fromkeys(missing) | empty
    model = trained.model
    if trained.train_speed is None:
        reasons |= dict.fromkeys(["train_samples_per_s", "train_speedup"], trained.no_train_speed)
    if trained.quality_retained is None:
        reasons |= dict.fromkeys(["quality_retained", "quality_retained_ci95"], "fp32 scores 0: there is no ratio")
    return fields | {
        "model": type(experiment.model).__name__.removesuffix("Config"),
        "model_config": to_dict(model.config),
        "protocol": trained.quality.protocol,
        "transforms": [member.to_json() for member in model.transform.members],
        "transform_report": model.report.details,
        "support": model.transform.support(platform),
        "quality": dict(trained.quality.metrics),
        "quality_metric": trained.quality_metric,
        "quality_reference": trained.references,
        "quality_retained": trained.quality_retained,
        "quality_retained_ci95": trained.quality_retained_ci95,
        "validation_quality": trained.validation_quality,
        "parameter_bytes": model.parameter_bytes(),
        "dense_layer_bytes": model.dense_layer_bytes(),
        "table_bytes": model.table_bytes(),
        "masked_share": trained.sparsity["masked_share"],
        "realised_share": trained.sparsity["realised_share"],
        "checkpoint_bytes": trained.checkpoint_bytes,
        "train_samples_per_s": trained.train_speed.samples_per_s if trained.train_speed else None,
        "train_speedup": trained.train_speed.speedup if trained.train_speed else None,
        "train_s": trained.train_s,
    }


def _roofline_fields(
    contestant: "Contestant", measured: "Measured", facts: RunFacts, reasons: dict[str, str]
) -> dict[str, Any]:
    """Returns operations and bytes a sample, and the share of what the measured ceilings allow.

    The ceiling of operations is that of the type most dots run in: int8, bfloat16 or float32. A share above 1
    says nothing of a limit, so it is None, with the reason.
    """
    names = ("flops_per_sample", "bytes_per_sample", "achieved_fraction_of_roofline", "bound_by", "mfu")
    if contestant.trained is None:
        reasons |= dict.fromkeys(names, NULL_REASON)
        return dict.fromkeys(names)
    if measured.scenario == "server":
        reasons |= dict.fromkeys(names, "batches of a server window differ in size; see the offline rows")
        return dict.fromkeys(names)
    program = contestant.compiled.programs[contestant.compiled.bucket_of(measured.batch_size)]
    fields: dict[str, Any] = dict.fromkeys(names)
    if program.flops is None or program.bytes_accessed is None:
        reasons |= dict.fromkeys(names, "the compiler gives no count of operations or bytes")
        return fields
    fields["flops_per_sample"] = flops = program.flops / program.batch_size
    fields["bytes_per_sample"] = bytes_accessed = program.bytes_accessed / program.batch_size
    dot_dtype, mesh = contestant.trained.model.transform.dot_dtype, contestant.compiled.mesh
    n_devices = 1 if mesh is None else mesh.size
    kind = facts.device.device_kind
    fields["mfu"], why_not = model_flops_utilization(flops, dot_dtype, measured.throughput, kind, n_devices)
    reasons |= {"mfu": why_not} if why_not else {}
    of_ceilings = ("achieved_fraction_of_roofline", "bound_by")
    if dot_dtype not in facts.ceilings.flops_per_s:
        reasons |= dict.fromkeys(of_ceilings, f"no ceiling is measured for products in {dot_dtype}")
        return fields
    # The ceilings are of one device, but CPU devices are all of the same processor.
    sharing = 1 if facts.device.platform == "cpu" else n_devices
    compute_s = flops / sharing / facts.ceilings.flops_per_s[dot_dtype]
    memory_s = bytes_accessed / facts.ceilings.bytes_per_s
    share = max(compute_s, memory_s) * measured.throughput
    bound_by = "compute" if compute_s >= memory_s else "memory"
    if share > 1:
        why = {
            "compute": "of the product rate measured at the start of the run, when the machine must have been slower",
            "memory": "by XLA's count of bytes: they come from caches, whose bandwidth was not measured",
        }
        reasons |= dict.fromkeys(of_ceilings, f"{share:.1f} {why[bound_by]}")
        return fields
    return fields | {"achieved_fraction_of_roofline": share, "bound_by": bound_by}


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


def _sparse_speed_fields(
    contestant: "Contestant",
    measured: "Measured",
    of_fp32: "Measured",
    of_masked: "Measured | None",
    speedup: dict[str, Any] | None,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """Returns the speed over fp32 while masked zeros are multiplied, and once they are not."""
    fields: dict[str, Any] = {"masked_speedup": None, "realised_speedup": None}
    transform = contestant.trained.model.transform if contestant.trained else None
    if transform is None or speedup is None or not transform.masks:
        reason = NULL_REASON if transform is None else reasons.get("speedup", "nothing in the chain masks weights")
        reasons |= dict.fromkeys(fields, reason)
        return fields
    if not transform.realises_masks:
        reasons["realised_speedup"] = "nothing in the chain removes or skips the masked zeros"
        return fields | {"masked_speedup": speedup}
    if of_masked is None:
        reasons["masked_speedup"] = f"the case has no variant {transform.only_masked().label!r} to compare with"
    else:
        fields["masked_speedup"] = ratio_summary(of_masked.samples_per_s / of_fp32.samples_per_s)
    return fields | {"realised_speedup": speedup}


def _invalid_reason(contestant: "Contestant", measured: "Measured", program: Program, p99_ms: Any) -> str | None:
    """Returns why the row must not be used, None if it may."""
    if contestant.trained is not None:
        fault = quantization_fault(contestant.trained.model, program, contestant.columns)
        if fault:
            return fault
    if measured.recompiles:
        return f"{measured.recompiles} programs were compiled inside the timed windows"
    if contestant.trained is not None and contestant.trained.below_floor:
        return contestant.trained.below_floor
    slo_ms = contestant.experiment.serving.slo_ms
    if measured.window.overloaded or (measured.scenario == "server" and (p99_ms is None or p99_ms > slo_ms)):
        return f"p99 did not hold {slo_ms:g} ms at any rate tried"
    return None
