import itertools
from types import SimpleNamespace

import jax
import pytest

from recjax.hardware import ceilings
from recjax.hardware.ceilings import measure_ceilings


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.MATRIX_SIZE, "cpu", 64)
    monkeypatch.setitem(ceilings.PASS_BYTES, "cpu", 1 << 16)


@pytest.mark.usefixtures("small")
def test_rates_are_work_over_the_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # One timed run of each measurement takes 0.5 s of a clock that is read twice a run, and the others longer.
    steps = itertools.cycle([0.9, 0.0] * (ceilings.REPEATS - 1) + [0.5, 0.0])
    ticks = itertools.chain([0.0], itertools.accumulate(steps))
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    measured = measure_ceilings(jax.devices("cpu")[0])
    product = 2 * 64**3 / 0.5  # a multiply-add counts two
    assert measured.flops_per_s == pytest.approx({"float32": product, "bfloat16": product, "int8": product})
    assert measured.bytes_per_s == pytest.approx(2 * (1 << 16) / 0.5)  # read and written


@pytest.mark.usefixtures("small")
def test_rates_of_this_machine_are_positive() -> None:
    measured = measure_ceilings(jax.devices("cpu")[0])
    assert set(measured.flops_per_s) == {"float32", "bfloat16", "int8"}
    assert min(*measured.flops_per_s.values(), measured.bytes_per_s) > 0


def test_every_platform_has_sizes() -> None:
    assert set(ceilings.MATRIX_SIZE) == set(ceilings.PASS_BYTES) == {"cpu", "gpu", "tpu"}
    assert min(ceilings.MATRIX_SIZE.values()) >= 1024  # too small a product measures dispatch
    assert min(ceilings.PASS_BYTES.values()) >= 1 << 30  # beyond any last-level cache
