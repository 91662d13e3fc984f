"""What accelerators can do at most, and what they cost: facts.toml and prices.toml, each figure with its source."""

import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recjax.errors import UserError, unknown_name

FACTS = Path(__file__).with_name("facts.toml")
PRICES = Path(__file__).with_name("prices.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; a figure that is not known is None. Units and meanings stand at the top of facts.toml."""

    name: str
    platform: str  # "tpu" or "cuda"
    device_kinds: tuple[str, ...]  # as JAX names its devices
    devices_per_chip: int
    peak_flops_per_s: Mapping[str, float]
    float32_product: str  # key of peak_flops_per_s
    hbm_bytes: int
    usable_hbm_bytes: int  # of one device
    hbm_bytes_per_s: float
    links: int
    link_bytes_per_s: float
    max_chips: int
    sources: Mapping[str, str]
    torus_axis: int | None = None  # None: the links go through a switch
    network_bytes_per_s: float | None = None
    sparsecores: int | None = None  # None on a GPU
    compute_capability: str | None = None  # None on a TPU
    topology: str | None = None  # how libtpu's topology names begin
    xla: Mapping[str, float | int] | None = None  # of a GPU: fields of XLA's GpuDeviceInfoProto

    @property
    def device_hbm_bytes_per_s(self) -> float:
        """Returns the memory bandwidth of one device."""
        return self.hbm_bytes_per_s / self.devices_per_chip

    def device_flops_per_s(self, dtype: str) -> float | None:
        """Returns one device's peak for products of operands of that type, None where it is not known.

        Args:
          dtype: as JAX names it; float32 at JAX's default precision, float8 of any kind.
        """
        name = "float8" if dtype.startswith("float8") else self.float32_product if dtype == "float32" else dtype
        peak = self.peak_flops_per_s.get(name)
        return None if peak is None else peak / self.devices_per_chip

    def device_link_bytes_per_s(self, shape: tuple[int, ...]) -> float:
        """Returns what a device can send to others at once, in a slice of `shape` chips along each axis.

        Of a GPU that is all its links. Of a TPU it is that of the chip with the fewest neighbours: an axis that is a
        ring gives two links, one that is a line gives the chip at its end one.
        """
        links = self.links
        if self.torus_axis is not None:
            links = sum(2 if size % self.torus_axis == 0 else 1 for size in shape if size > 1)
        return links * self.link_bytes_per_s / self.devices_per_chip


@functools.cache
def chips() -> Mapping[str, Chip]:
    """Returns every chip of facts.toml by its name."""
    tables = tomllib.loads(FACTS.read_text(encoding="utf-8"))["chip"]
    return {table["name"]: Chip(**{**table, "device_kinds": tuple(table["device_kinds"])}) for table in tables}


def find_chip(name: str) -> Chip:
    """Returns the chip of that name.

    Raises:
      UserError: no such chip; the message lists them.
    """
    if name not in chips():
        raise unknown_name("accelerator", name, chips())
    return chips()[name]


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls `device_kind`, None for one that is not in facts.toml."""
    return next((chip for chip in chips().values() if device_kind in chip.device_kinds), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """What an hour of one chip costs."""

    usd_per_chip_hour: float
    provider: str = ""
    region: str = ""
    date: str = ""
    source: str = ""


def load_prices(path: Path = PRICES) -> Mapping[str, Price]:
    """Returns the price of every chip that the file has one for, by the chip's name.

    Raises:
      UserError: no such file, no TOML, a table of no chip, or a price that is none.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the price file {path}: {error.strerror}; copy {PRICES} and edit it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML: {error}; {PRICES} shows the form") from error
    prices = {}
    for name, table in tables.items():
        if name not in chips():
            raise UserError(f"{path}: {unknown_name('accelerator', name, chips())}")
        fields = {field.name for field in dataclasses.fields(Price)}
        if not isinstance(table, dict) or set(table) - fields:
            wrong = sorted(set(table) - fields) if isinstance(table, dict) else [repr(table)]
            raise UserError(f"{path}: [{name}] has {', '.join(wrong)}; allowed: a table of {', '.join(sorted(fields))}")
        usd = table.get("usd_per_chip_hour")
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < math.inf:
            raise UserError(f"{path}: [{name}] usd_per_chip_hour is {usd!r}; allowed: US dollars an hour, 0 or more")
        prices[name] = Price(**{**table, "usd_per_chip_hour": float(usd)})
    return prices
