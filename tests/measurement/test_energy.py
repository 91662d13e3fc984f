import ctypes.util
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import pytest

from recjax.measurement.energy import energy_between, read_energy

RANGE_UJ = 262_143_328_850


def lay_out(powercap: Path, zones: dict[str, tuple[str, int]]) -> Path:
    """Writes zones (name and microjoules) as the kernel shows them."""
    for zone, (name, microjoules) in zones.items():
        (powercap / zone).mkdir(parents=True, exist_ok=True)
        (powercap / zone / "name").write_text(f"{name}\n")
        (powercap / zone / "energy_uj").write_text(f"{microjoules}\n")
        (powercap / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return powercap


def test_packages_and_their_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    joules = dict(zip(names, (10, 6, 1, 2, 20, 3, 40, 10), strict=True))
    lay_out(tmp_path, {zone: (name, 5_000_000) for zone, name in names.items()})
    first = read_energy("cpu", powercap=tmp_path)
    lay_out(tmp_path, {zone: (name, 5_000_000 + joules[zone] * 1_000_000) for zone, name in names.items()})
    energy = energy_between(first, read_energy("cpu", powercap=tmp_path))
    assert energy.parts == {"package-0": 10, "package-0 dram": 2, "package-1": 20, "package-1 dram": 3}
    assert (energy.joules, energy.source, energy.reason) == (35, "RAPL", None)


def test_a_counter_that_wrapped_goes_on(tmp_path: Path) -> None:
    lay_out(tmp_path, {"intel-rapl:0": ("package-0", RANGE_UJ - 3_000_000)})
    first = read_energy("cpu", powercap=tmp_path)
    lay_out(tmp_path, {"intel-rapl:0": ("package-0", 4_500_000)})
    assert energy_between(first, read_energy("cpu", powercap=tmp_path)).joules == pytest.approx(7.5)


def test_a_counter_that_cannot_wrap_but_fell_was_reset(tmp_path: Path) -> None:
    first = read_energy("cpu", powercap=lay_out(tmp_path, {"intel-rapl:0": ("package-0", 3_000_000)}))
    last = dataclasses.replace(first, joules={"package-0": 1.0}, wraps_at={})
    energy = energy_between(first, last)
    assert (energy.joules, energy.reason) == (None, "package-0 was reset: 1 J after 3 J")


def test_a_package_that_comes_or_goes_leaves_no_sum(tmp_path: Path) -> None:
    first = read_energy("cpu", powercap=lay_out(tmp_path, {"intel-rapl:0": ("package-0", 1)}))
    last = read_energy("cpu", powercap=lay_out(tmp_path, {"intel-rapl:1": ("package-1", 1)}))
    energy = energy_between(first, last)
    assert energy.joules is None
    assert energy.reason == "counters came or went: ['package-0'] before, ['package-0', 'package-1'] after"


@pytest.mark.parametrize("zones", [{}, {"intel-rapl:0": ("psys", 5)}])
def test_a_system_without_packages_says_so(tmp_path: Path, zones: dict[str, tuple[str, int]]) -> None:
    reading = read_energy("cpu", powercap=lay_out(tmp_path, zones))
    energy = energy_between(reading, reading)
    assert (energy.joules, energy.parts) == (None, {})
    assert energy.reason == f"the system shows no processor package in {tmp_path} (RAPL)"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no users")
def test_a_counter_that_root_alone_may_read_names_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users as a whole
        powercap = lay_out(Path(folder), {"intel-rapl:0": ("package-0", 5)})
        powercap.chmod(0o755)
        (powercap / "intel-rapl:0" / "energy_uj").chmod(0o000)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)  # root may read everything
        try:
            reading = read_energy("cpu", powercap=powercap)
        finally:
            if is_root:
                os.seteuid(0)
    assert reading.reason is not None
    assert "may be read by root alone; allow it with sudo chmod a+r" in reading.reason


def test_a_tpu_has_no_counter() -> None:
    reading = read_energy("tpu")
    assert energy_between(reading, reading).reason == "a tpu has no energy counter that a program can read"


def test_a_host_without_nvidia_driver_says_so() -> None:
    if ctypes.util.find_library("nvidia-ml"):
        pytest.skip("there is a driver")
    reading = read_energy("gpu")
    energy = energy_between(reading, reading)
    assert (energy.joules, energy.source) == (None, "NVML")
    assert energy.reason is not None
    assert "nvidia-ml-py is not installed" in energy.reason or "NVML has no energy counter here" in energy.reason


@pytest.mark.gpu
def test_a_gpu_uses_energy() -> None:
    first = read_energy("gpu")
    start = time.perf_counter()
    time.sleep(1)
    last = read_energy("gpu")
    energy = energy_between(first, last)
    assert energy.joules is not None, energy.reason
    assert 5 < energy.joules / (time.perf_counter() - start) < 1_500  # watts
