"""What the host did, over the windows of a row."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.host_fields import host_fields
from benchmarks.measured import Measured

COUNTED = {"cpu_pressure_s": 0.5, "throttled_s": None, "involuntary_switches": 3}
NOISE = {"steal_share": 0.1, "busy_share": 0.4, "own_cpu_s": 0.0, "load_1m": (1.0, 1.1), "cpu_mhz": None, **COUNTED}
REASONS = {"throttled_s": "no control group", "cpu_mhz": "nothing tells"}


def record(*windows: dict[str, Any], gap_us: float = 10.0, verdict: dict[str, Any] | None = None) -> Measured:
    noises = [NOISE | {"reasons": REASONS} | window for window in windows]
    host = {"windows": noises, "jitter": {"largest_gap_us": gap_us}}
    return cast("Measured", SimpleNamespace(host=host, windows=[{"verdict": verdict}]))


def test_shares_are_weighted_by_time_and_counts_are_added() -> None:
    first = record({"duration_s": 1.0}, {"duration_s": 3.0, "steal_share": 0.5, "busy_share": 0.8})
    fields, _ = host_fields([first, record({"duration_s": 4.0}, gap_us=70.0)])
    assert fields["watched_s"] == 8.0
    assert fields["steal_share"] == pytest.approx((5 * 0.1 + 3 * 0.5) / 8)
    assert fields["busy_share"] == pytest.approx((5 * 0.4 + 3 * 0.8) / 8)
    assert (fields["cpu_pressure_s"], fields["involuntary_switches"]) == (1.5, 9)
    assert fields["jitter_largest_gap_us"] == 70.0


def test_other_programs_have_what_the_run_itself_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    fields, _ = host_fields([record({"duration_s": 2.0, "own_cpu_s": 2.0}, {"duration_s": 2.0, "own_cpu_s": 3.6})])
    assert fields["others_share"] == pytest.approx(0.4 - 5.6 / 16)
    alone, _ = host_fields([record({"duration_s": 1.0, "own_cpu_s": 1.7})])
    assert alone["others_share"] == 0.0  # clocks of two kinds
    by_loadgen, reasons = host_fields([record({"duration_s": 1.0}, verdict={"result": "VALID"})])
    assert by_loadgen["others_share"] is None
    assert reasons["host.others_share"] == "how much LoadGen's own process took is not known"


def test_what_the_system_does_not_tell_is_none_with_its_reason() -> None:
    fields, reasons = host_fields([record({"duration_s": 1.0})])
    assert (fields["throttled_s"], fields["cpu_mhz"], fields["load_1m"]) == (None, None, (1.0, 1.1))
    assert reasons == {f"host.{name}": reason for name, reason in REASONS.items()}
