"""What is free: from the files that a Linux kernel writes, made up here, and on this machine."""

from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from recjax.free_memory import FreeMemory, free_memory

MEMINFO = "MemTotal:       24684084 kB\nMemFree:        16917952 kB\nMemAvailable:   20000000 kB\n"
OF_HOST = 20_000_000 * 1024
UNLIMITED_V1 = 9223372036854771712


class Accelerator(NamedTuple):
    """A device with a memory of its own, of which there is none here."""

    statistics: dict[str, int] | None
    platform: str = "gpu"
    id: int = 3

    def memory_stats(self) -> dict[str, int] | None:
        return self.statistics


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group_v2(limit: str, used: int, cached: int = 0, folder: str = "sys/fs/cgroup") -> dict[str, str]:
    active, inactive = cached // 4, cached - cached // 4
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\nfile {cached}\ninactive_file {inactive}\nactive_file {active}\n",
    }


def group_v1(limit: int, used: int, cached: int, folder: str) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\ntotal_active_file 0\n",
    }


def free(root: Path, files: dict[str, str]) -> FreeMemory:
    return free_memory(jax.devices("cpu")[0], write(root, files))


def test_a_cpu_has_what_the_host_can_give_without_swapping(tmp_path: Path):
    assert free(tmp_path, {"proc/meminfo": MEMINFO}) == FreeMemory(OF_HOST, "this host")


def test_an_unknown_system_says_so(tmp_path: Path):
    assert free(tmp_path, {}).n_bytes is None
    old = free(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\n"})
    assert (old.n_bytes, old.reason) == (None, "the system has no MemAvailable in /proc/meminfo")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (group_v2("8000000000", 3_000_000_000, 1_000_000_000), FreeMemory(6_000_000_000, "this container")),
        (group_v2("8000000000", 9_000_000_000), FreeMemory(0, "this container")),
        (group_v2("max", 3_000_000_000), FreeMemory(OF_HOST, "this host")),
        (group_v2("99000000000", 1_000_000_000), FreeMemory(OF_HOST, "this host")),  # the limit is above the host
    ],
    ids=["limited", "above its limit", "no limit", "limit above the host"],
)
def test_a_container_has_no_more_than_its_limit(tmp_path: Path, group: dict[str, str], expected: FreeMemory):
    assert free(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", **group}) == expected


def test_the_limit_of_a_group_above_counts_too(tmp_path: Path):
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/job/step\n",
        **group_v2("7000000000", 1_000_000_000, folder="sys/fs/cgroup/job"),
        **group_v2("max", 1_000_000_000, folder="sys/fs/cgroup/job/step"),
    }
    assert free(tmp_path, files) == FreeMemory(6_000_000_000, "this container")


@pytest.mark.parametrize("where", ["sys/fs/cgroup/memory/docker/1f", "sys/fs/cgroup/memory"])
def test_groups_of_the_first_version_may_be_mounted_under_their_own_name_or_none(tmp_path: Path, where: str):
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/docker/1f\n",
        **group_v1(UNLIMITED_V1, 9, 0, "sys/fs/cgroup/memory"),
        **group_v1(5_000_000_000, 2_000_000_000, 500_000_000, where),
    }
    assert free(tmp_path, files) == FreeMemory(3_500_000_000, "this container")


def test_an_accelerator_is_asked_itself():
    assert free_memory(Accelerator({"bytes_limit": 100, "bytes_in_use": 30})) == FreeMemory(70, "gpu:3")
    assert free_memory(Accelerator({"bytes_limit": 100})) == FreeMemory(100, "gpu:3")
    for statistics in (None, {}, {"bytes_in_use": 30}):
        unknown = free_memory(Accelerator(statistics))
        assert (unknown.n_bytes, unknown.reason) == (None, "gpu:3 does not say how much memory it has")


def test_this_machine_has_some_and_not_more_than_all():
    found = free_memory(jax.devices("cpu")[0])
    if found.n_bytes is None:
        assert found.reason
    else:
        total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        assert 0 < found.n_bytes <= int(total.split()[1]) * 1024
