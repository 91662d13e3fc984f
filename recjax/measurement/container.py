"""What a container may use, and how often it was stopped for using more: control groups of both versions."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED_BYTES = 2**60  # version 1 writes a number near 2**63 for "no limit"
NO_GROUP = "the system has no control groups for it"
NO_LIMIT = "no limit is set"


@dataclasses.dataclass(frozen=True)
class ContainerLimits:
    """The tightest limits of the control groups that this process is in.

    Attributes:
      cpus: processor time in cores, as 1.5.
      memory_bytes: resident memory.
      reasons: why a field is None.
    """

    cpus: float | None
    memory_bytes: int | None
    reasons: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Throttling:
    """How much this process's control groups were stopped so far for having used up their processor time.

    Attributes:
      seconds: for which they were stopped.
      periods: in which that happened.
    """

    seconds: float
    periods: int


def container_limits(root: Path = ROOT) -> ContainerLimits:
    """Returns the limits that cpu.max or cfs_quota_us, and memory.max or limit_in_bytes, set.

    Args:
      root: of the file system that has proc/self/cgroup and sys/fs/cgroup.
    """
    reasons: dict[str, str] = {}
    cpus = _tightest([_cpus(folder) for folder in _groups(root, "cpu")], "cpus", reasons)
    memory = _tightest([_memory_bytes(folder) for folder in _groups(root, "memory")], "memory_bytes", reasons)
    return ContainerLimits(cpus, None if memory is None else int(memory), reasons)


def read_throttling(root: Path = ROOT) -> Throttling | None:
    """Returns the sums over the groups that this process is in, None where no group counts them.

    When a group is stopped, so is all within it.
    """
    counts = [stat for folder in _groups(root, "cpu") if "nr_throttled" in (stat := _counts(folder / "cpu.stat"))]
    if not counts:
        return None
    # microseconds in version 2, nanoseconds in version 1
    seconds = sum(stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9 for stat in counts)
    return Throttling(seconds, sum(stat["nr_throttled"] for stat in counts))


def _tightest(limits: list[float | None], name: str, reasons: dict[str, str]) -> float | None:
    """Returns the smallest limit; infinite ones are none, and None is a group that does not say."""
    known = [limit for limit in limits if limit is not None]
    smallest = min(known, default=float("inf"))
    if smallest < float("inf"):
        return smallest
    reasons[name] = NO_LIMIT if known else NO_GROUP
    return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the process's groups under a controller, from its own one to the outermost.

    Within a container the path may be the host's, which is not mounted; the mount itself is then the group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder
            if folder == mount:
                break


def _cpus(folder: Path) -> float | None:
    """Returns a group's cores, infinite without a limit, None if it does not say."""
    text = _read(folder / "cpu.max")
    if text is None:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota is None or period is None:
            return None
        text = f"{quota} {period}"
    quota, period = text.split()
    return float("inf") if quota in ("max", "-1") else int(quota) / int(period)


def _memory_bytes(folder: Path) -> float | None:
    """Returns a group's bytes, infinite without a limit, None if it does not say."""
    text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    if text is None:
        return None
    return float("inf") if text == "max" or int(text) >= UNLIMITED_BYTES else float(text)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _counts(file: Path) -> dict[str, int]:
    """Returns the numbers of a file whose lines are a name and a number; nothing if there is no such file."""
    fields = (line.split() for line in (_read(file) or "").splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) == 2}
