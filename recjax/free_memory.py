"""How much memory is free where a device keeps its arrays: of an accelerator its own, of a CPU the host's."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/")


@dataclasses.dataclass(frozen=True)
class FreeMemory:
    """The free memory that a device allocates from.

    Attributes:
      n_bytes: that are free; None if nobody says.
      place: in words, as in "this host" or "gpu:0".
      reason: why `n_bytes` is None.
    """

    n_bytes: int | None
    place: str
    reason: str | None = None


def free_memory(device: Any, root: Path = ROOT) -> FreeMemory:
    """Returns what is free for a `jax.Device` of this process.

    All CPU devices of a host share what is free of it; nothing is known of what other processes are about to take.

    Args:
      device: asked for its counts; a CPU keeps none, and the system is asked instead.
      root: of the file system that says what is free of this host.
    """
    if device.platform == "cpu":
        return _free_of_host(root)
    place = f"{device.platform}:{device.id}"
    statistics = device.memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return FreeMemory(None, place, f"{place} does not say how much memory it has")
    return FreeMemory(max(0, statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)), place)


def _free_of_host(root: Path) -> FreeMemory:
    """Returns what the kernel says can be had without swapping, or less if a container's limit is nearer."""
    try:
        kilobytes = _read_counts(root / "proc/meminfo")["MemAvailable:"]
    except (OSError, KeyError):
        return FreeMemory(None, "this host", "the system has no MemAvailable in /proc/meminfo")
    of_host, of_container = kilobytes * 1024, min(_free_under_limits(root), default=None)
    if of_container is not None and of_container < of_host:
        return FreeMemory(of_container, "this container")
    return FreeMemory(of_host, "this host")


def _free_under_limits(root: Path) -> Iterator[int]:
    """Yields what is free under the limit of each control group that this process is in, of both versions."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # Within a container the path may be the host's, which is not mounted; the mount itself is then the group.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            free = _free_in_group(folder, *names)
            if free is not None:
                yield free
            if folder == mount:
                break


def _free_in_group(folder: Path, limit_file: str, usage_file: str, prefix: str) -> int | None:
    """Returns the limit less what is used and cannot be dropped; None where there is no limit."""
    try:
        limit, usage = (folder / limit_file).read_text().strip(), int((folder / usage_file).read_text())
        if limit == "max":
            return None
        counts = _read_counts(folder / "memory.stat")
    except OSError:
        return None
    cached = sum(counts.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))
    return max(0, int(limit) - max(0, usage - cached))


def _read_counts(file: Path) -> dict[str, int]:
    """Returns the numbers of a file whose lines are a name, a number and perhaps a unit."""
    fields = (line.split() for line in file.read_text().splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) > 1}
