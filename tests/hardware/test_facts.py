import dataclasses
from pathlib import Path

import pytest

from recjax.errors import UserError
from recjax.hardware.device import TPU_GENERATIONS
from recjax.hardware.facts import Chip, chip_of, chips, find_chip, load_prices

NOT_FIGURES = {"name", "platform", "device_kinds", "sources", "topology"}
NAMES = ("v4", "v5e", "v5p", "v6e", "v7x", "a100-40gb", "a100-80gb", "h100", "h200", "b200")


def test_the_chips_that_plans_are_made_for_are_there() -> None:
    assert tuple(chips()) == NAMES


@pytest.mark.parametrize("chip", chips().values(), ids=lambda chip: chip.name)
def test_every_figure_has_a_source_and_no_source_is_of_nothing(chip: Chip) -> None:
    known = {field.name for field in dataclasses.fields(chip) if getattr(chip, field.name) is not None}
    assert known - NOT_FIGURES == set(chip.sources)
    assert all(len(source) > 10 for source in chip.sources.values())


@pytest.mark.parametrize("chip", chips().values(), ids=lambda chip: chip.name)
def test_figures_are_of_the_right_size(chip: Chip) -> None:
    """A slip of a thousand, or of GB for Gbit, would be far outside these ranges."""
    assert all(1e13 < peak < 1e16 for peak in chip.peak_flops_per_s.values())
    assert chip.float32_product in chip.peak_flops_per_s
    assert 5e11 < chip.hbm_bytes_per_s < 1e13
    assert 1e10 < chip.hbm_bytes < 1e12
    assert 0.7 < chip.usable_hbm_bytes * chip.devices_per_chip / chip.hbm_bytes < 1.01
    assert 1e11 < chip.links * chip.link_bytes_per_s < 1e12


def test_every_tpu_that_jax_names_and_facts_know_has_one_name() -> None:
    for kind, generation in TPU_GENERATIONS.items():
        chip = chip_of(kind)
        assert (chip.name if chip else None) == (generation if generation in chips() else None)


def test_an_unknown_device_is_said_to_be_unknown() -> None:
    assert chip_of("TPU v99") is None
    with pytest.raises(UserError, match=r"unknown accelerator 'v5'; valid: a100-40gb, .*, v7x; did you mean 'v5p'\?"):
        find_chip("v5")


def test_a_chip_of_two_devices_is_shared_by_them() -> None:
    chip = find_chip("v7x")
    assert chip.device_flops_per_s("bfloat16") == 2307e12 / 2
    assert chip.device_hbm_bytes_per_s == 7380e9 / 2
    assert chip.device_link_bytes_per_s((2, 2, 1)) == 2 * 100e9 / 2


def test_float32_products_have_the_peak_of_the_precision_that_jax_computes_them_in() -> None:
    assert find_chip("v6e").device_flops_per_s("float32") == 918e12
    assert find_chip("h200").device_flops_per_s("float32") == 494.5e12
    assert find_chip("h200").device_flops_per_s("float8_e4m3fn") == 1979e12
    assert find_chip("a100-80gb").device_flops_per_s("float8_e4m3fn") is None
    assert find_chip("v7x").device_flops_per_s("int8") is None


@pytest.mark.parametrize(
    ("name", "shape", "links"),
    [
        ("v5e", (1, 1), 0),  # alone
        ("v5e", (1, 4), 1),  # the end of a line
        ("v5e", (4, 4), 2),  # the corner of a grid: no wraparound below 16
        ("v6e", (8, 16), 3),
        ("v6e", (16, 16), 4),
        ("v5p", (2, 2, 1), 2),
        ("v5p", (4, 4, 4), 6),  # a whole cube wraps
        ("h200", (8,), 18),
    ],
)
def test_links_that_the_worst_placed_chip_can_use(name: str, shape: tuple[int, ...], links: int) -> None:
    chip = find_chip(name)
    assert chip.device_link_bytes_per_s(shape) == links * chip.link_bytes_per_s


def test_every_price_that_travels_has_all_that_it_needs() -> None:
    prices = load_prices()
    assert set(prices) <= set(chips())
    for price in prices.values():
        assert 0.5 < price.usd_per_chip_hour < 20
        assert price.provider
        assert price.region
        assert price.date
        assert price.source


def test_another_price_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[v5e]\nusd_per_chip_hour = 0.5\n")
    prices = load_prices(path)
    assert prices["v5e"].usd_per_chip_hour == 0.5
    assert "v6e" not in prices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[v5e\n", "is no TOML"),
        ("[v55]\nusd_per_chip_hour = 1\n", "unknown accelerator 'v55'"),
        ("[v5e]\n", "usd_per_chip_hour is None"),
        ("[v5e]\nusd_per_chip_hour = -1\n", "usd_per_chip_hour is -1"),
        ("[v5e]\nusd_per_chip_hour = 'cheap'\n", "usd_per_chip_hour is 'cheap'"),
        ("[v5e]\nusd_per_chip_hour = inf\n", "usd_per_chip_hour is inf"),
        ("[v5e]\nusd = 1\n", r"\[v5e\] has usd; allowed: a table of date, provider"),
        ("v5e = 1\n", r"\[v5e\] has 1; allowed"),
    ],
)
def test_an_unusable_price_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_prices(path)
    assert "\n" not in str(caught.value)


def test_no_price_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the price file .*none\.toml: No such file"):
        load_prices(tmp_path / "none.toml")
