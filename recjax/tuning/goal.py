"""What a tuning is to reach: limits that a deployment must hold, a quality floor, and the queries that will come."""

import dataclasses
import math
import re
from typing import Any

from recjax.errors import UserError
from recjax.hardware.facts import chip_of, load_prices
from recjax.load.queries import QueryMix

NO_PRICE = "nobody says what an hour of this device costs; --usd-per-hour does"
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """What must hold, and under which queries.

    Attributes:
      p99_ms: limit of the 99th percentile of latencies, from the scheduled arrival.
      memory_bytes: limit of the largest program's arguments, outputs and temporaries on one device; None has none.
      usd_per_million: limit of what a million samples cost; None has none.
      quality_floor: share of fp32's validation quality that must be kept.
      usd_per_hour: of one device, None where nobody says.
      mix: sizes of the queries.
    """

    p99_ms: float
    memory_bytes: int | None = None
    usd_per_million: float | None = None
    quality_floor: float = 0.99
    usd_per_hour: float | None = None
    mix: QueryMix = dataclasses.field(default_factory=QueryMix)

    def __post_init__(self) -> None:
        """Raises UserError for a limit that nothing can hold, or a price limit without a price."""
        for option, value in (("--p99-ms", self.p99_ms), ("--memory", self.memory_bytes)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{option} is {value:g}; allowed: > 0 and finite")
        if self.usd_per_million is not None and not 0 < self.usd_per_million < math.inf:
            allowed = "> 0 and finite, US dollars for a million samples; left out, there is no limit"
            raise UserError(f"--price is {self.usd_per_million:g}; allowed: {allowed}")
        if not 0 < self.quality_floor <= 1:
            raise UserError(
                f"--quality-floor is {self.quality_floor:g}; allowed: a share of fp32's quality, above 0 and at most "
                "1, as 0.99"
            )
        if self.usd_per_hour is not None and not 0 < self.usd_per_hour < math.inf:
            raise UserError(f"--usd-per-hour is {self.usd_per_hour:g}; allowed: > 0 and finite")
        if self.usd_per_million is not None and self.usd_per_hour is None:
            raise UserError(
                "--price needs what an hour of this device costs, and recjax/hardware/prices.toml does not have it; "
                "give --usd-per-hour"
            )

    def price(self, samples_per_s: float, devices: int) -> float | None:
        """Returns US dollars for a million samples at that rate, None where an hour's price is not known."""
        if self.usd_per_hour is None or not samples_per_s:
            return None
        return self.usd_per_hour * devices / 3600 / samples_per_s * 1e6

    def to_json(self) -> dict[str, Any]:
        """Returns the goal as plain JSON values."""
        return dataclasses.asdict(self)


def hourly_price(device_kind: str, given: float | None) -> float | None:
    """Returns what an hour of a device that JAX calls so costs: as given, else by prices.toml, else None."""
    if given is not None:
        return given
    chip = chip_of(device_kind)
    price = load_prices().get(chip.name) if chip else None
    return price.usd_per_chip_hour / chip.devices_per_chip if chip and price else None


def parse_seconds(option: str, text: str) -> float:
    """Returns the seconds of a text such as "90s", "15m" or "2h"; raises UserError for another form."""
    return _parse(option, text, SECONDS, "a time above 0, as 90s, 15m or 2h", str.lower)


def parse_bytes(option: str, text: str) -> int:
    """Returns the bytes of a text such as "512MB" or "2GiB"; raises UserError for another form."""
    return int(_parse(option, text, BYTES, "a size above 0, as 512MB or 2GiB", str.upper))


def parse_queries(text: str) -> QueryMix:
    """Returns the mix that "dlrm_v2" or a number of samples names; raises UserError for anything else."""
    if text == "dlrm_v2":
        return QueryMix(sizes="dlrm_v2")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--queries is {text!r}; allowed: samples of a query, 1 or more, or dlrm_v2 (100 to 700)")
    return QueryMix(samples=int(text))


def _parse(option: str, text: str, units: dict[str, int], allowed: str, fold: Any) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    value = float(found[1]) * units.get(fold(found[2]), 0) if found else 0.0
    if not 0 < value < math.inf:  # a number of hundreds of digits is infinite
        raise UserError(f"{option} is {text!r}; allowed: {allowed}")
    return value
