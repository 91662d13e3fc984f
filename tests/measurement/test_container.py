from pathlib import Path

import pytest

from recjax.measurement.container import container_limits, read_throttling


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_limits_of_version_2_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pods/one\n",
            "sys/fs/cgroup/pods/one/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pods/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pods/one/memory.max": "1073741824\n",
            "sys/fs/cgroup/pods/memory.max": "max\n",
            "sys/fs/cgroup/pods/one/cpu.stat": "usage_usec 9\nnr_periods 8\nnr_throttled 3\nthrottled_usec 2000000\n",
            "sys/fs/cgroup/pods/cpu.stat": "usage_usec 9\nnr_periods 8\nnr_throttled 1\nthrottled_usec 500000\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 9\n",
        },
    )
    limits = container_limits(root)
    assert (limits.cpus, limits.memory_bytes, limits.reasons) == (1.5, 2**30, {})
    throttling = read_throttling(root)
    assert throttling is not None
    assert (throttling.seconds, throttling.periods) == (2.5, 4)


def test_limits_of_version_1(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/a\n3:cpuset:/\n1:cpu,cpuacct:/docker/a\n",
            # Only the mount is there, as within a container.
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_time 3000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    limits = container_limits(root)
    assert (limits.cpus, limits.memory_bytes) == (0.5, None)
    assert limits.reasons == {"memory_bytes": "no limit is set"}
    throttling = read_throttling(root)
    assert throttling is not None
    assert (throttling.seconds, throttling.periods) == (pytest.approx(0.003), 2)


def test_a_group_without_a_limit_has_none(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    limits = container_limits(root)
    assert (limits.cpus, limits.memory_bytes) == (None, None)
    assert limits.reasons == {
        "cpus": "no limit is set",
        "memory_bytes": "the system has no control groups for it",
    }
    assert read_throttling(root) is None


def test_a_system_without_control_groups_says_so(tmp_path: Path) -> None:
    assert set(container_limits(tmp_path).reasons) == {"cpus", "memory_bytes"}
    assert read_throttling(tmp_path) is None
