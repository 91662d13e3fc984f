"""Joules over an interval, from counters that the device keeps itself; without one there is None and why.

A counter is of the whole device or processor package: what others run on it is counted too.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclasses.dataclass(frozen=True)
class EnergyReading:
    """Energy counters at one moment.

    Attributes:
      joules: by the counter's name.
      wraps_at: joules at which each starts again from 0; those that do not are missing.
      source: in words.
      reason: why there are no counters.
    """

    joules: dict[str, float]
    wraps_at: dict[str, float]
    source: str
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy over an interval.

    Attributes:
      joules: of all counters; None if there are none.
      parts: by the counter's name.
      source: in words.
      reason: why `joules` is None.
    """

    joules: float | None
    parts: dict[str, float]
    source: str
    reason: str | None = None


def read_energy(platform: str, devices: int = 1, powercap: Path = POWERCAP) -> EnergyReading:
    """Returns the counters of a platform's devices, to be compared with a later reading by `energy_between`.

    RAPL's are renewed every millisecond, those of a GPU every 20 to 100 ms: measure for seconds.

    Args:
      platform: "cpu" (RAPL), "gpu" (NVML) or "tpu" (has none).
      devices: how many GPUs are used, the first ones of CUDA_VISIBLE_DEVICES; of processors all are counted.
      powercap: folder in which the kernel shows RAPL.
    """
    if platform == "cpu":
        return _read_rapl(powercap)
    if platform == "gpu":
        return _read_nvml(devices)
    return EnergyReading({}, {}, "none", f"a {platform} has no energy counter that a program can read")


def energy_between(first: EnergyReading, last: EnergyReading) -> Energy:
    """Returns the joules between two readings.

    A counter that is lower than before has wrapped, once: a package wraps after about 262 kJ, 44 minutes at 100 W, so
    read it more often than that.
    """
    reason = first.reason or last.reason
    if reason is None and first.joules.keys() != last.joules.keys():
        reason = f"counters came or went: {sorted(first.joules)} before, {sorted(last.joules)} after"
    if reason is not None:
        return Energy(None, {}, last.source, reason)
    parts = {}
    for name, before in first.joules.items():
        after = last.joules[name]
        wrapped = after < before
        if wrapped and name not in last.wraps_at:
            return Energy(None, {}, last.source, f"{name} was reset: {after:g} J after {before:g} J")
        parts[name] = after - before + (last.wraps_at[name] if wrapped else 0)
    return Energy(sum(parts.values()), parts, last.source)


def _read_rapl(powercap: Path) -> EnergyReading:
    """Returns each package's counter and each package's memory's, which is not part of it.

    The zones core and uncore are parts of their package, psys is all of them, and intel-rapl-mmio shows the packages a
    second time: none of these is counted.

    Source: Linux, Documentation/power/powercap/powercap.rst.
    """
    joules, wraps_at = {}, {}
    zones = sorted(powercap.glob("intel-rapl:*"))  # AMD's too
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package") and name != "dram":
                continue
            if name == "dram":
                name = f"{(powercap / zone.name.rpartition(':')[0] / 'name').read_text().strip()} dram"
            joules[name] = int((zone / "energy_uj").read_text()) / 1e6
            wraps_at[name] = int((zone / "max_energy_range_uj").read_text()) / 1e6
        except PermissionError:
            reason = f"{zone}/energy_uj may be read by root alone; allow it with sudo chmod a+r {powercap}/*/energy_uj"
            return EnergyReading({}, {}, "RAPL", reason)
        except OSError as error:
            return EnergyReading({}, {}, "RAPL", f"{zone} cannot be read: {error.strerror}")
    if not joules:
        return EnergyReading({}, {}, "RAPL", f"the system shows no processor package in {powercap} (RAPL)")
    return EnergyReading(joules, wraps_at, "RAPL")


def _read_nvml(devices: int) -> EnergyReading:
    """Returns the counters of the first GPUs, since the driver was loaded.

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption (Volta and later), millijoules.
    """
    try:
        import pynvml
    except ImportError:
        return EnergyReading({}, {}, "NVML", "the package nvidia-ml-py is not installed: pip install -e '.[bench,gpu]'")
    try:
        pynvml.nvmlInit()
        try:
            joules = {
                name: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
                for name, handle in _gpus(pynvml, devices)
            }
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return EnergyReading({}, {}, "NVML", f"NVML has no energy counter here: {error}")
    return EnergyReading(joules, {}, "NVML")


def _gpus(pynvml: Any, devices: int) -> Sequence[tuple[str, Any]]:
    """Returns name and handle of the first GPUs that this process may use; NVML itself shows all of the host.

    NVML counts them in the order of the bus, CUDA the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        chosen = [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    else:
        chosen = [name.strip() for name in visible.split(",") if name.strip()]
    chosen = chosen[:devices]
    handles = [
        pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
        for name in chosen
    ]
    return [(f"gpu:{name}", handle) for name, handle in zip(chosen, handles, strict=True)]
