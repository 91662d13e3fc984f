"""Time, rate and price of a program on a chip that is not here: a roofline, which no run can beat.

Each resource is taken to be busy at its peak for what the program needs of it, and the slowest of them to hide all
others. A real run takes longer: peaks are not reached, and what depends on each other does not overlap.

Source: Williams, Waterman and Patterson, Roofline (CACM 2009), with the links to other chips as a third roof.
"""

import dataclasses
import math
from collections.abc import Mapping

from recjax.hardware.facts import Chip, Price
from recjax.hardware.program_costs import ProgramCosts

SPARSECORES_UNKNOWN = "what SparseCores read, write and send in a step is not in the program's text: no time of theirs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a program would do at best; a figure that cannot be had is None, and `reasons` says why.

    Attributes:
      fits: whether the program's memory is within what a device has for it.
      compute_s: products, each at the peak of its operands' type.
      memory_s: bytes to and from the device's memory at its bandwidth.
      links_s: bytes to other devices over all links that the worst placed chip has.
      step_s: the largest of the three.
      bound_by: "compute", "memory" or "links": which that is.
      samples_per_s: of all devices together.
      usd_per_million_samples: of all chips, at their price.
      reasons: of each figure that is None.
    """

    fits: bool
    compute_s: float | None
    memory_s: float | None
    links_s: float | None
    step_s: float | None
    bound_by: str | None
    samples_per_s: float | None
    usd_per_million_samples: float | None
    reasons: dict[str, str]


def estimate(
    costs: ProgramCosts, chip: Chip, shape: tuple[int, ...], samples: int, price: Price | None = None
) -> Estimate:
    """Returns the roofline of one run of a program on a slice or server.

    Args:
      costs: of one device.
      chip: of which there are as many as `shape` multiplies to.
      shape: chips along each axis of the slice, as (4, 4); (8,) is a server of eight GPUs.
      samples: that one run of the program serves or learns from, on all devices together.
      price: of a chip; None leaves the price out.
    """
    reasons = {}
    compute_s = _compute_s(costs.flops, chip)
    if compute_s is None:
        unknown = [dtype for dtype in costs.flops if chip.device_flops_per_s(dtype) is None]
        reasons["compute_s"] = f"no published peak of {chip.name} for products of {', '.join(unknown)}"
    memory_s = None
    if costs.traffic_bytes is None:
        reasons["memory_s"] = SPARSECORES_UNKNOWN
    else:
        memory_s = costs.traffic_bytes / chip.device_hbm_bytes_per_s
    sent, links_s = sum((costs.collective_bytes or {}).values()), None
    if costs.collective_bytes is None:
        reasons["links_s"] = SPARSECORES_UNKNOWN
    elif sent and not chip.device_link_bytes_per_s(shape):
        reasons["links_s"] = f"no published bandwidth between the devices of one {chip.name}"
    else:
        links_s = sent / chip.device_link_bytes_per_s(shape) if sent else 0.0
    step_s = bound_by = rate = usd = None
    if compute_s is not None and memory_s is not None and links_s is not None:
        times = {"compute": compute_s, "memory": memory_s, "links": links_s}
        bound_by = max(times, key=lambda name: times[name])
        step_s = times[bound_by]
        rate = samples / step_s if step_s else None
    else:
        reasons["step_s"] = reasons["samples_per_s"] = next(iter(reasons.values()))
    if price is None:
        reasons["usd_per_million_samples"] = f"no price of {chip.name} in the price file"
    elif rate is None:
        reasons["usd_per_million_samples"] = reasons.get("step_s", "the program does nothing")
    else:
        usd = price.usd_per_chip_hour * math.prod(shape) / 3600 / rate * 1e6
    return Estimate(
        fits=costs.memory_bytes <= chip.usable_hbm_bytes,
        compute_s=compute_s,
        memory_s=memory_s,
        links_s=links_s,
        step_s=step_s,
        bound_by=bound_by,
        samples_per_s=rate,
        usd_per_million_samples=usd,
        reasons=reasons,
    )


def flops_utilization(flops: Mapping[str, float], chip: Chip, seconds: float) -> float | None:
    """Returns the share of the peak that a measured time means (MFU), None where a type's peak is not known.

    Args:
      flops: of one run on one device, by the type of the operands.
      chip: that it ran on.
      seconds: that the run took.
    """
    compute_s = _compute_s(flops, chip)
    return None if compute_s is None else compute_s / seconds


def _compute_s(flops: Mapping[str, float], chip: Chip) -> float | None:
    """Returns the seconds of products, each at one device's peak for its type; None where one is not known."""
    seconds = []
    for dtype, count in flops.items():
        peak = chip.device_flops_per_s(dtype)
        if peak is None:
            return None
        seconds.append(count / peak)
    return math.fsum(seconds)
