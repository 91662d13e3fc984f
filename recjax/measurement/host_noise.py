"""What else the host did while something was timed: time stolen by other machines, waiting for a core, throttling.

A figure that the system does not tell is None with the reason.
"""

import dataclasses
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from recjax.measurement.container import ROOT, read_throttling

TICKS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # guest is part of user
BUSY = 0.05  # of the processors' time taken by other programs; from here on times are not to be trusted
SHARES = ("steal_share", "iowait_share", "busy_share")
# Counters whose difference is a field, and why one is missing.
COUNTERS = {
    "cpu_pressure_s": "the kernel has no /proc/pressure/cpu",
    "throttled_s": "no control group of this process counts throttling",
    "throttled_periods": "no control group of this process counts throttling",
    "involuntary_switches": "the system does not count them",
    "voluntary_switches": "the system does not count them",
    "host_switches": "the system has no /proc/stat",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostNoise:
    """What happened between two moments, on the whole host unless it says otherwise.

    Attributes:
      duration_s: between them.
      steal_share: of all cores' time that a hypervisor gave to other machines while this one wanted it.
      iowait_share: of all cores' time, idle while a disk was waited for.
      busy_share: of all cores' time, stolen time not counted.
      cpu_pressure_s: for which some process waited for a core.
      throttled_s: for which this process's container was stopped for having used up its processor time.
      throttled_periods: in which that happened.
      involuntary_switches: how often this process had to give up a core.
      voluntary_switches: how often this process waited for something.
      host_switches: of all processes.
      load_1m: load average at the first and at the last moment.
      cpu_mhz: the slowest and the fastest core, at either moment.
      reasons: why a field is None.
    """

    duration_s: float
    steal_share: float | None
    iowait_share: float | None
    busy_share: float | None
    cpu_pressure_s: float | None
    throttled_s: float | None
    throttled_periods: int | None
    involuntary_switches: int | None
    voluntary_switches: int | None
    host_switches: int | None
    load_1m: tuple[float, float] | None
    cpu_mhz: tuple[float, float] | None
    reasons: dict[str, str]


@dataclasses.dataclass(frozen=True)
class HostReading:
    """The host at one moment.

    Attributes:
      at_s: of a clock that never goes back.
      ticks: of all cores since the start, by state; empty where the system does not count them.
      counters: by the names of COUNTERS; those that the system does not have are missing.
      load_1m: load average.
      mhz: of each core; empty if nothing tells.
    """

    at_s: float
    ticks: dict[str, int]
    counters: dict[str, float | int]
    load_1m: float | None
    mhz: list[float]


class HostWatch:
    """A context that knows, once it is left, what the host did meanwhile: `noise`."""

    noise: HostNoise

    def __init__(self, root: Path = ROOT) -> None:
        """Takes the root of the file system that has proc and sys."""
        self._root = root

    def __enter__(self) -> "HostWatch":
        """Starts watching."""
        self._first = read_host(self._root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sets `noise`, after an error too."""
        self.noise = noise_between(self._first, read_host(self._root))


def read_host(root: Path = ROOT) -> HostReading:
    """Returns the counters of this moment; it takes less than a millisecond.

    Args:
      root: of the file system that has proc and sys.
    """
    stat = {name: values for name, *values in map(str.split, _lines(root / "proc/stat"))}
    load = _lines(root / "proc/loadavg")
    counters = _own_switches()
    if "ctxt" in stat:
        counters["host_switches"] = int(stat["ctxt"][0])
    for line in _lines(root / "proc/pressure/cpu"):  # some avg10=0.00 avg60=0.00 avg300=0.00 total=123
        if line.startswith("some "):
            counters["cpu_pressure_s"] = int(line.rpartition("total=")[2]) / 1e6
    throttling = read_throttling(root)
    if throttling is not None:
        counters |= {"throttled_s": throttling.seconds, "throttled_periods": throttling.periods}
    return HostReading(
        at_s=time.perf_counter(),
        ticks={name: int(value) for name, value in zip(TICKS, stat.get("cpu", ()), strict=False)},
        counters=counters,
        load_1m=float(load[0].split()[0]) if load else None,
        mhz=_core_mhz(root),
    )


def noise_between(first: HostReading, last: HostReading) -> HostNoise:
    """Returns what the host did between two readings."""
    fields: dict[str, Any] = dict.fromkeys((*SHARES, *COUNTERS, "load_1m", "cpu_mhz"))
    reasons = {}
    for name, reason in COUNTERS.items():
        if name in first.counters and name in last.counters:
            fields[name] = last.counters[name] - first.counters[name]
        else:
            reasons[name] = reason
    spent = {name: max(0, last.ticks[name] - first.ticks.get(name, 0)) for name in last.ticks}  # iowait can go down
    total = sum(spent.values())
    if total:
        busy = total - spent["idle"] - spent["iowait"] - spent["steal"]
        fields |= {"steal_share": spent["steal"] / total, "iowait_share": spent["iowait"] / total}
        fields["busy_share"] = busy / total
    else:
        reason = "it took less than the kernel's clock tick" if spent else "the system has no /proc/stat"
        reasons |= dict.fromkeys(SHARES, reason)
    if first.load_1m is None or last.load_1m is None:
        reasons["load_1m"] = "the system has no /proc/loadavg"
    else:
        fields["load_1m"] = (first.load_1m, last.load_1m)
    mhz = first.mhz + last.mhz
    if mhz:
        fields["cpu_mhz"] = (min(mhz), max(mhz))
    else:
        reasons["cpu_mhz"] = "neither cpufreq nor /proc/cpuinfo gives a frequency"
    return HostNoise(duration_s=last.at_s - first.at_s, reasons=reasons, **fields)


def _own_switches() -> dict[str, float | int]:
    """Returns how often this process gave up a core, by force and of its own accord."""
    try:
        import resource
    except ImportError:  # POSIX alone has it
        return {}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"involuntary_switches": usage.ru_nivcsw, "voluntary_switches": usage.ru_nvcsw}


def _core_mhz(root: Path) -> list[float]:
    """Returns the frequency of each core: what cpufreq says, or else /proc/cpuinfo, which virtual machines have too."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    of_cpufreq = [int(line) / 1e3 for file in files for line in _lines(file)]  # from kHz
    pairs = (line.partition(":") for line in _lines(root / "proc/cpuinfo"))
    return of_cpufreq or [float(value) for key, _, value in pairs if key.strip() == "cpu MHz"]


def _lines(file: Path) -> list[str]:
    """Returns a file's lines that are not empty; none if it cannot be read."""
    try:
        return [line for line in file.read_text().splitlines() if line.strip()]
    except OSError:
        return []
