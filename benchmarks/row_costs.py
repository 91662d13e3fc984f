"""What a variant cost in one scenario, as fields of its row: memory, and its share of what the device can do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.measured import Measured
from benchmarks.prepared import PreparedVariant
from benchmarks.row_fields import NULL_REASON, ProcessFacts, Rowed, RowFields, bucket_of
from recjax.hardware.estimate import flops_utilization
from recjax.hardware.facts import chip_of
from recjax.measurement.memory_growth import MemoryGrowth, memory_growth

ABOVE_CEILING = {
    "compute": "of the product rate measured at the start of the run, when the machine must have been slower",
    "memory": "by XLA's count of bytes: they come from caches, whose bandwidth was not measured",
}


def put_memory(row: RowFields, records: Rowed, facts: ProcessFacts, program: Mapping[str, Any]) -> None:
    """Puts what the program, the process and the device held, and whether it grew."""
    platform = facts.device["platform"]
    row.put("peak_memory_bytes", facts.peak_memory_bytes, f"the {platform} device keeps no count")
    row.put("peak_host_bytes", facts.peak_host_bytes, "the system keeps no count")
    row.put("program_memory_bytes", program["memory_bytes"], f"the {platform} compiler gives no memory analysis")
    row.put("products", program["products"], "the compiler made library calls of them, whose text gives no types")
    growth, reason = growth_of(records.of_all)
    row.put("memory_growth", growth, reason)


def growth_of(of_all: Sequence[Sequence[Measured]]) -> tuple[dict[str, Any] | None, str]:
    """Returns how memory grows over all windows of the variant, in the process in the middle by its growth.

    A system that leaks does so in every process; one process of many that grew had a heap that was spread badly.
    """
    found: dict[str, Any] | None = None
    why = "neither the system nor the device says what this process holds"
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


def put_roofline(
    row: RowFields,
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
    size = bucket_of([int(bucket) for bucket in facts.programs[variant.label]], first.batch_size)
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
    why_not = f"{share:.1f} {ABOVE_CEILING[bound_by]}"
    # Bytes that stay in caches are counted as well, so above its ceiling memory may not be the limit; compute is.
    row.put("bound_by", bound_by if share <= 1 or bound_by == "compute" else None, why_not)
    row.put("achieved_fraction_of_roofline", share if share <= 1 else None, why_not)


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
    if not samples_per_s:
        return None, "no query was answered"
    share = flops_utilization({dtype: flops_per_sample}, chip, n_devices / samples_per_s)
    return share, None if share is not None else f"no published peak of {chip.name} for products of {dtype}"


def _growth_in(of_process: Sequence[Measured], memory: str, index: int) -> MemoryGrowth | None:
    grown = [getattr(record, f"{memory}_growth_bytes") for record in of_process]
    if any(growth is None for growth in grown):
        return None
    queries = [max(1, len(latencies)) for record in of_process for latencies in record.latency_ms]
    steps = [step for growth in grown for step in growth]
    return memory_growth(np.cumsum([of_process[0].held_bytes[index], *steps]).tolist(), queries)
