"""The runs that a report shows: one, or several side by side, each under the name of its device."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from benchmarks.results import Row
from benchmarks.summary import samples_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportRun:
    """One run of a report.

    Attributes:
      label: its device in words, and its name where another run is of the same device.
      rows: at least one.
      samples: raw latency in ms by `samples_key(row)`; a row without an entry is drawn from its percentiles.
    """

    label: str
    rows: Sequence[Row]
    samples: Mapping[str, NDArray]


def label_runs(runs: Iterable[tuple[str, Sequence[Row], Mapping[str, NDArray]]]) -> list[ReportRun]:
    """Returns the runs under labels that no two of them share.

    Args:
      runs: (name, rows, samples) of each; the name is that of its folder.
    """
    runs = list(runs)
    devices = [device_label(rows[0]) for _, rows, _ in runs]
    count = collections.Counter(devices)
    labels = [
        f"{device}, {name}" if count[device] > 1 else device for device, (name, _, _) in zip(devices, runs, strict=True)
    ]
    repeated = collections.Counter(labels)
    labels = [
        f"{label}, {rows[0].run_id}" if repeated[label] > 1 else label
        for label, (_, rows, _) in zip(labels, runs, strict=True)
    ]
    return [
        ReportRun(label=label, rows=rows, samples=samples)
        for label, (_, rows, samples) in zip(labels, runs, strict=True)
    ]


def device_label(row: Row) -> str:
    """Returns the device of a row, as in "TPU v5e, 4 devices"."""
    count = row.device["count"]
    return f"{row.device['kind']}{f', {count} devices' if count > 1 else ''}"


def row_key(run: int, row: Row) -> str:
    """Returns by which name the page's script knows a row of the run of that number."""
    return f"{run}/{samples_key(row)}"


def row_facts(row: Row, label: str) -> dict[str, Any]:
    """Returns what the page's filters ask of a row."""
    return {
        "model": row.case.partition("/")[0].strip(),
        "variant": row.variant,
        "scenario": row.scenario,
        "device": label,
        "batch": row.batch_size,
        "valid": row.valid,
    }
