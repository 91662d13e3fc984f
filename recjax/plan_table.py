"""A plan as a table of 100 columns, and what must be known to read it."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from recjax.planning import PlanRow

WIDTH = 100
NOTHING = "–"
TOO_MUCH = "DOES NOT FIT"
COUNT = {1e3: "k", 1e6: "M", 1e9: "G", 1e12: "T", 1e15: "P"}
TIME = {1.0: "s", 1e-3: "ms", 1e-6: "us", 1e-9: "ns"}
GIB = 1 << 30
HOW_TO_READ = (
    "Estimates, not measurements: a step at the roofline, which no run beats. Flops, memory traffic and bytes sent are "
    "of one device and one step; capacity is what the compiler (TPU) or JAX's default share (GPU) leaves a program."
)
WHOLE_TRAINING = (
    "in all: what `recjax train` holds on a device at its fullest moment: beside the step, the best parameters, "
    "batches in flight and, while it saves, a copy of a state whose tables are split."
)
ON_SPARSECORES = (
    "sparsecore: a training step with its tables on SparseCores, where rowwise_adagrad is adagrad, with an accumulator "
    "for each column of a row; buffers of ids are as large as some batches need."
)
ONE_TRIP = "* some loop's length is not in the compiled program: bytes sent and memory traffic have it once."


def plan_table(rows: Sequence[PlanRow]) -> Group:
    """Returns the table of a plan with its notes."""
    table = Table(
        "hardware", "program", "memory a device", "a device's step", "roofline", "at best", box=box.SIMPLE_HEAD
    )
    table.padding = (0, 1, 0, 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row)))
        table.add_section()
    return Group(table, *(Text(note) for note in _notes(rows)))


def quantity(value: float | int, unit: str = "", units: Mapping[float, str] = COUNT) -> str:
    """Returns a number with three digits and a prefix: "1.23 M", "45.6 ms"."""
    scales = sorted(units, reverse=True)
    scale = next((scale for scale in scales if abs(value) >= scale), min(1.0, scales[-1]))
    return f"{value / scale:.3g} {units.get(scale, '')}{unit}".rstrip()


def _cells(row: PlanRow) -> list[str]:
    target = row.target
    devices = f"{target.n_devices} device{'s' * (target.n_devices > 1)}"
    hardware = f"{target.name}\n{devices}"
    if row.costs is None or row.estimate is None or row.samples is None:
        memory = NOTHING if row.needed_bytes is None else f"{_of_capacity(row)}\n{TOO_MUCH}"
        return [hardware, row.program, memory, f"does not compile: {row.reason}", NOTHING, NOTHING]
    costs, best = row.costs, row.estimate
    mark = "*" if costs.loops_counted_once else ""
    work = [
        f"flops {quantity(sum(costs.flops.values()))}",
        f"memory {NOTHING if costs.traffic_bytes is None else quantity(costs.traffic_bytes, 'B')}{mark}",
        *(f"{kind} {quantity(n_bytes, 'B')}{mark}" for kind, n_bytes in (costs.collective_bytes or {}).items()),
    ]
    step = NOTHING if best.step_s is None else f"{quantity(best.step_s, units=TIME)}\nby {best.bound_by}"
    held = [_of_capacity(row), "fits" if best.fits else TOO_MUCH]
    if row.training_bytes is not None:
        held.append(f"in all {row.training_bytes / GIB:.2f} GiB")
        held += [TOO_MUCH] * (row.training_bytes > target.chip.usable_hbm_bytes)
    rate = NOTHING
    if best.samples_per_s is not None:
        usd = best.usd_per_million_samples
        rate = f"{quantity(best.samples_per_s)}/s\n{'no price' if usd is None else f'${usd:.3g}/M'}"
    return [
        hardware,
        f"{row.program}\n{row.samples:,}",
        "\n".join(held),
        "\n".join(work),
        step,
        rate,
    ]


def _of_capacity(row: PlanRow) -> str:
    return f"{(row.needed_bytes or 0) / GIB:.2f} of {row.target.chip.usable_hbm_bytes / GIB:.2f} GiB"


def _notes(rows: Sequence[PlanRow]) -> list[str]:
    """Returns how to read the table, why figures are missing, and where prices are from."""
    notes = [HOW_TO_READ]
    if any(row.training_bytes is not None for row in rows):
        notes.append(WHOLE_TRAINING)
    if any(row.program == "sparsecore" for row in rows):
        notes.append(ON_SPARSECORES)
    if any(row.costs and row.costs.loops_counted_once for row in rows):
        notes.append(ONE_TRIP)
    reasons = [reason for row in rows if row.estimate for reason in row.estimate.reasons.values()]
    notes += list(dict.fromkeys(reasons))
    prices = {row.target.chip.name: row.price for row in rows if row.price}
    notes += [
        f"{name}: ${price.usd_per_chip_hour:g} a chip and hour"
        + "".join(f", {part}" for part in (price.provider, price.region, price.date) if part)
        for name, price in prices.items()
    ]
    return notes
