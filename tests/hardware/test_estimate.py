import dataclasses

import pytest

from recjax.hardware.estimate import SPARSECORES_UNKNOWN, estimate, flops_utilization
from recjax.hardware.facts import Price, find_chip
from recjax.hardware.program_costs import ProgramCosts

GIB = 1 << 30
COSTS = ProgramCosts(
    argument_bytes=10 * GIB,
    output_bytes=8 * GIB,
    alias_bytes=8 * GIB,
    temporary_bytes=2 * GIB,
    code_bytes=0,
    flops={"float32": 197e9, "int8": 393e9},
    xla_flops=None,
    traffic_bytes=819_000_000,
    collective_bytes={"all-reduce": 40_000_000, "all-to-all": 10_000_000},
    loops_counted_once=False,
)
PRICE = Price(usd_per_chip_hour=3.6)


def test_a_step_takes_as_long_as_its_slowest_resource() -> None:
    """v5e: 197 T bf16 and 393 T int8 operations, 819 GB/s, and 2 links of 50 GB/s at the corner of a 4x4 grid."""
    best = estimate(COSTS, find_chip("v5e"), (4, 4), samples=1000, price=PRICE)
    assert best.compute_s == pytest.approx(1e-3 + 1e-3)
    assert best.memory_s == pytest.approx(1e-3)
    assert best.links_s == pytest.approx(50e6 / 100e9)
    assert (best.step_s, best.bound_by) == (best.compute_s, "compute")
    assert best.samples_per_s == pytest.approx(1000 / 2e-3)
    assert best.usd_per_million_samples == pytest.approx(16 * 3.6 / 3600 * (1e6 / 500_000))
    assert best.fits
    assert best.reasons == {}


@pytest.mark.parametrize(
    ("changes", "bound_by", "step_s"),
    [
        ({"traffic_bytes": 8_190_000_000}, "memory", 10e-3),
        ({"collective_bytes": {"all-gather": 1_000_000_000}}, "links", 10e-3),
        ({"flops": {}, "collective_bytes": {}}, "memory", 1e-3),
    ],
)
def test_what_bounds_a_step(changes: dict, bound_by: str, step_s: float) -> None:
    best = estimate(dataclasses.replace(COSTS, **changes), find_chip("v5e"), (4, 4), samples=1000)
    assert best.bound_by == bound_by
    assert best.step_s == pytest.approx(step_s)


def test_a_ring_has_more_links_than_a_line() -> None:
    small, large = (estimate(COSTS, find_chip("v5e"), shape, samples=1).links_s for shape in ((4, 4), (16, 16)))
    assert small is not None
    assert large is not None
    assert small == pytest.approx(2 * large)


def test_a_program_that_needs_more_than_there_is_does_not_fit() -> None:
    chip = find_chip("v5e")
    just, more = (
        dataclasses.replace(COSTS, temporary_bytes=chip.usable_hbm_bytes - 10 * GIB + extra) for extra in (0, 1)
    )
    assert estimate(just, chip, (1, 1), samples=1).fits
    assert not estimate(more, chip, (1, 1), samples=1).fits


def test_no_peak_means_no_time_no_rate_and_no_price_and_says_so() -> None:
    best = estimate(COSTS, find_chip("v7x"), (2, 2, 1), samples=1000, price=PRICE)
    assert (best.compute_s, best.step_s, best.bound_by, best.samples_per_s) == (None, None, None, None)
    assert best.usd_per_million_samples is None
    assert best.memory_s == pytest.approx(COSTS.traffic_bytes / find_chip("v7x").device_hbm_bytes_per_s)
    reason = "no published peak of v7x for products of int8"
    assert best.reasons == dict.fromkeys(("compute_s", "step_s", "samples_per_s", "usd_per_million_samples"), reason)


def test_two_devices_of_one_chip_have_no_published_link() -> None:
    costs = dataclasses.replace(COSTS, flops={})
    best = estimate(costs, find_chip("v7x"), (1, 1, 1), samples=1)
    assert (best.links_s, best.step_s) == (None, None)
    assert best.reasons["step_s"] == "no published bandwidth between the devices of one v7x"


def test_what_sparsecores_move_is_not_known() -> None:
    costs = dataclasses.replace(COSTS, traffic_bytes=None, collective_bytes=None)
    best = estimate(costs, find_chip("v6e"), (2, 2), samples=1000, price=PRICE)
    assert best.compute_s is not None
    assert (best.memory_s, best.links_s, best.step_s, best.samples_per_s) == (None, None, None, None)
    unknown = ("memory_s", "links_s", "step_s", "samples_per_s", "usd_per_million_samples")
    assert best.reasons == dict.fromkeys(unknown, SPARSECORES_UNKNOWN)


def test_no_price_is_said() -> None:
    best = estimate(COSTS, find_chip("v5e"), (4, 4), samples=1000)
    assert best.usd_per_million_samples is None
    assert best.reasons == {"usd_per_million_samples": "no price of v5e in the price file"}


def test_a_program_that_does_nothing_has_no_rate() -> None:
    idle = dataclasses.replace(COSTS, flops={}, traffic_bytes=0, collective_bytes={})
    best = estimate(idle, find_chip("v5e"), (1, 1), samples=1, price=PRICE)
    assert (best.step_s, best.samples_per_s, best.usd_per_million_samples) == (0.0, None, None)


def test_utilization_is_the_ideal_time_over_the_measured_one() -> None:
    assert flops_utilization({"float32": 197e9, "int8": 393e9}, find_chip("v5e"), 8e-3) == pytest.approx(0.25)
    assert flops_utilization({"int8": 1.0}, find_chip("v7x"), 1.0) is None
