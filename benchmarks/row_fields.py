"""What the parts of a row are made of: records of the processes, and fields with the reasons of those that are None."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.measured import Measured
from benchmarks.results import RowSamples
from recjax.hardware.ceilings import Ceilings
from recjax.measurement.intervals import Interval

NULL_REASON = "the null model has none: it is the floor of the harness"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """What a measuring process says of itself.

    Attributes:
      process: its number.
      device: platform, kind, count, mesh, and the kind as JAX names it.
      programs: by label and batch size, what the compiler says.
      environment: of its rows.
      position_padding: of the requests' histories, the share of positions that hold nothing; None without histories.
      peak_memory_bytes: of the device, None where it keeps no count.
      peak_host_bytes: None where the system does not tell.
    """

    process: int
    device: dict[str, Any]
    device_kind: str
    programs: dict[str, dict[str, dict[str, Any]]]
    environment: dict[str, Any]
    position_padding: float | None = None
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


class RowFields:
    """Collects a row's fields and the reasons of those that are None."""

    def __init__(self) -> None:
        """Starts empty."""
        self.fields: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: Any, why_not: str | None = None) -> None:
        """Sets a field; `why_not` is read if the value is None."""
        self.fields[name] = value
        if value is None:
            self.reasons[name] = why_not or "unknown"


def samples_of(records: Sequence[Measured]) -> RowSamples:
    """Returns every latency of a row's records."""
    windows = [(record.process, latencies) for record in records for latencies in record.latency_ms]
    return RowSamples([latencies for _, latencies in windows], [process for process, _ in windows])


def bounds_of(of_figure: Interval | None) -> list[float] | None:
    """Returns the ends of an interval, None if there is none."""
    if of_figure is None or of_figure.low is None or of_figure.high is None:
        return None
    return [of_figure.low, of_figure.high]


def bucket_of(buckets: Sequence[int], n: int) -> int:
    """Returns the smallest of the ascending batch sizes that holds n samples."""
    return next(size for size in buckets if size >= n)
