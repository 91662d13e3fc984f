import dataclasses
import time
from pathlib import Path

import pytest

from recjax.measurement.host_noise import HostWatch, noise_between, read_host

CPUINFO = "processor\t: 0\ncpu MHz\t\t: 2400.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2600.0\n\n"


def lay_out(root: Path, ticks: str, switches: int, pressure_us: int, throttled_us: int, load: str) -> Path:
    files = {
        "proc/stat": f"cpu  {ticks} 0 0\ncpu0 1 2 3\nintr 5\nctxt {switches}\nbtime 1\n",
        "proc/pressure/cpu": f"some avg10=0.72 avg60=1.05 avg300=3.00 total={pressure_us}\nfull avg10=0.00 total=7\n",
        "proc/loadavg": f"{load} 0.50 0.25 1/200 4242\n",
        "proc/cpuinfo": CPUINFO,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.stat": f"nr_periods 5\nnr_throttled {throttled_us // 1000}\nthrottled_usec {throttled_us}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_what_happened_between_two_readings_by_hand(tmp_path: Path) -> None:
    # user nice system idle iowait irq softirq steal
    lay_out(tmp_path, "100 10 50 1000 20 1 2 30", 5_000, 1_000_000, 4_000, "1.50")
    with HostWatch(tmp_path) as watch:
        lay_out(tmp_path, "140 10 60 1030 25 1 7 40", 5_600, 1_250_000, 9_000, "2.00")
    noise = watch.noise
    # 40 + 0 + 10 + 30 + 5 + 0 + 5 + 10 = 100 ticks
    assert (noise.steal_share, noise.iowait_share, noise.busy_share) == (0.10, 0.05, 0.55)
    assert noise.host_switches == 600
    assert noise.cpu_pressure_s == pytest.approx(0.25)
    assert (noise.throttled_s, noise.throttled_periods) == (pytest.approx(0.005), 5)
    assert noise.load_1m == (1.5, 2.0)
    assert noise.cpu_mhz == (2400.5, 2600.0)
    assert noise.reasons == {}
    assert 0 < noise.duration_s < 10


def test_cpufreq_is_believed_before_cpuinfo(tmp_path: Path) -> None:
    lay_out(tmp_path, "1 1 1 1 1 1 1 1", 1, 1, 1, "0.1")
    for core, khz in ((0, 800_000), (11, 3_100_000)):
        file = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"
        file.parent.mkdir(parents=True)
        file.write_text(f"{khz}\n")
    reading = read_host(tmp_path)
    assert noise_between(reading, reading).cpu_mhz == (800.0, 3100.0)


def test_a_system_that_tells_nothing_has_a_reason_for_each_none(tmp_path: Path) -> None:
    with HostWatch(tmp_path) as watch:
        time.sleep(0.001)
    noise = dataclasses.asdict(watch.noise)
    own = {"involuntary_switches", "voluntary_switches"}  # getrusage needs no files
    missing = {name for name, value in noise.items() if value is None}
    assert missing == set(watch.noise.reasons) == set(noise) - own - {"duration_s", "reasons"}


def test_a_time_shorter_than_a_tick_has_no_shares(tmp_path: Path) -> None:
    lay_out(tmp_path, "1 1 1 1 1 1 1 1", 1, 1, 1, "0.1")
    with HostWatch(tmp_path) as watch:
        pass
    assert watch.noise.steal_share is None
    assert watch.noise.reasons["steal_share"] == "it took less than the kernel's clock tick"
    assert watch.noise.host_switches == 0


def test_ticks_that_go_back_are_none(tmp_path: Path) -> None:
    lay_out(tmp_path, "100 0 0 100 50 0 0 0", 1, 1, 1, "0.1")
    with HostWatch(tmp_path) as watch:
        lay_out(tmp_path, "150 0 0 150 40 0 0 0", 1, 1, 1, "0.1")
    assert (watch.noise.iowait_share, watch.noise.busy_share) == (0.0, 0.5)


def test_this_process_is_seen_to_wait_and_the_host_to_be_busy() -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("the system has no /proc")
    with HostWatch() as watch:
        for _ in range(20):
            time.sleep(0.001)
        end = time.perf_counter() + 0.1
        while time.perf_counter() < end:
            pass
    assert watch.noise.voluntary_switches is not None
    assert watch.noise.voluntary_switches >= 20
    assert watch.noise.busy_share is None or 0 < watch.noise.busy_share <= 1
    assert watch.noise.duration_s >= 0.12


def test_noise_is_known_after_an_error_too(tmp_path: Path) -> None:
    watch = HostWatch(tmp_path)
    with pytest.raises(KeyError), watch:
        raise KeyError
    assert watch.noise.duration_s > 0
