"""Which two rows can be compared, why others cannot, and what else differs between two runs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.results import Row

MIN_PROCESSES = 3
FIXED = ("model", "dataset", "protocol", "model_config", "transforms", "device", "slo_ms")
PROCESSOR = ("cpu", "cpus")  # last parts of the names of what must agree in environments
NOT_SAID = ("ceilings", "driver")  # measured in each run; a text of many lines

Difference = tuple[str, Any, Any]  # name, in A, in B


def why_not_comparable(a: Row, b: Row) -> str | None:
    """Returns why the two rows of one name cannot be compared, None if they can."""
    for name, row in (("A", a), ("B", b)):
        if not row.valid:
            return f"{name} is invalid: {row.invalid_reason}"
    differences = differences_of(a, b)
    if differences:
        return "another " + "; another ".join(in_words(difference) for difference in differences)
    few = min(a.processes or 1, b.processes or 1)
    if few < MIN_PROCESSES:
        number = f"{few} process{'es' * (few > 1)}"
        needed = f"{MIN_PROCESSES} on each side tell their noise (benchmarks.run --processes={MIN_PROCESSES})"
        return f"measured in {number}; {needed}"
    if a.scenario == "offline" and (a.load or {}).get("verdict"):
        return "LoadGen's offline is one query, as large as the system is fast; compare throughput_samples_per_s"
    if a.target_qps != b.target_qps:
        share = f"B/A {b.target_qps / a.target_qps:.3f}, " if a.target_qps and b.target_qps else ""
        return f"a searched rate has no interval; {share}{_search(a, 'A')}; {_search(b, 'B')} queries/s"
    return None


def differences_of(a: Row, b: Row) -> list[Difference]:
    """Returns what was measured otherwise, so that the two rows of one name cannot be compared."""
    differences = [difference for name in FIXED for difference in _of_both(name, getattr(a, name), getattr(b, name))]
    differences += list(_asked_otherwise(a, b))
    differences += [d for d in _of_both("environment", a.environment, b.environment) if _is_of_processor(d[0])]
    differences += list(_other_threads(a, b))
    return differences


def rate_held(row: Row) -> bool:
    """Returns whether every process held a server's limit at some rate, which the load generator did not set."""
    search = row.search or {}
    return search.get("confirmed", True) and not search.get("late_generator")


def no_process_held(row: Row) -> bool:
    """Returns whether no process held a server's limit at any rate; False of rows that do not tell how many did."""
    search = row.search or {}
    return search.get("held_processes") == 0 and not search.get("late_generator")


def other_differences(pairs: Iterable[tuple[Row, Row]]) -> list[Difference]:
    """Returns what differs between rows and does not keep them from being compared, each difference once.

    That is what only one side knows of, such as a new setting, and of the environment all but what was measured.
    """
    found: dict[str, Difference] = {}
    for a, b in pairs:
        of_rows = (d for name in FIXED for d in _of_one(name, getattr(a, name), getattr(b, name)))
        of_environment = (*_of_both("", a.environment, b.environment), *_of_one("", a.environment, b.environment))
        for name, before, after in (*of_rows, *of_environment):
            said = name.split(".")
            if said[0] in NOT_SAID or _is_of_processor(name) or isinstance(before, float) or isinstance(after, float):
                continue
            once = said[-1] == "experiment_digest"  # each row has its own
            found.setdefault(name if once else f"{name} {before} {after}", (name, before, after))
    return list(found.values())


def in_words(difference: Difference) -> str:
    """Returns a difference as in "transforms.0.bits (A 8, B 4)"."""
    name, a, b = difference
    return f"{name} (A {_short(a)}, B {_short(b)})"


def _of_both(name: str, a: Any, b: Any) -> Iterator[Difference]:
    """Yields what both sides know of and say otherwise."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in a:
            if key in b:
                yield from _of_both(f"{name}.{key}".lstrip("."), a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (of_a, of_b) in enumerate(zip(a, b, strict=True)):
            yield from _of_both(f"{name}.{index}", of_a, of_b)
    elif a != b:
        yield name, a, b


def _of_one(name: str, a: Any, b: Any) -> Iterator[Difference]:
    """Yields what one side alone knows of."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            below = f"{name}.{key}".lstrip(".")
            if key in a and key in b:
                yield from _of_one(below, a[key], b[key])
            else:
                yield below, a.get(key, "-"), b.get(key, "-")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (of_a, of_b) in enumerate(zip(a, b, strict=True)):
            yield from _of_one(f"{name}.{index}", of_a, of_b)


def _asked_otherwise(a: Row, b: Row) -> Iterator[Difference]:
    """Yields what was asked of the two systems in other words; numbers in `load` and LoadGen's verdict are measured."""
    for name, of_a, of_b in _of_both("load", a.load, b.load):
        is_measured = name.startswith("load.verdict.") and name != "load.verdict.version"
        if isinstance(of_a, str) and isinstance(of_b, str) and not is_measured:
            yield name, of_a, of_b


def _is_of_processor(name: str) -> bool:
    return name.rpartition(".")[2] in PROCESSOR


def _other_threads(a: Row, b: Row) -> Iterator[Difference]:
    """Yields flags that say how many threads compute."""
    of_a, of_b = _thread_flags(a), _thread_flags(b)
    if of_a != of_b:
        yield "number of threads", of_a or "not set", of_b or "not set"


def _thread_flags(row: Row) -> str:
    flags: Mapping[str, str] = row.environment.get("flags", {})
    texts = [f"{name}={value}" for name, value in flags.items() if "THREAD" in name]
    texts += [flag for flag in flags.get("XLA_FLAGS", "").split() if "thread" in flag]
    return " ".join(texts)


def _search(row: Row, name: str) -> str:
    """Returns the bracket of a searched rate, as in "A held 810, failed 900"."""
    failed = (row.search or {}).get("failed_at_qps")
    return f"{name} held {row.target_qps:,.0f}, failed {f'{failed:,.0f}' if failed else 'nowhere'}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
