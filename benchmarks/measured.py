"""What one process measured of one variant in one scenario, and how it travels to the process that makes rows.

Shapes: W windows, N queries.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from recjax.load.window import PARTS, Window
from recjax.whole_files import write_json, write_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The windows of one variant in one scenario, in one process.

    Attributes:
      label: of the variant.
      scenario: its name.
      batch_size: samples a query; of the server, the largest batch that may form.
      process: number of the process, from 0.
      started_at: of the first window, UTC.
      windows: what each window gave but for its latencies, as plain values (`window_facts`).
      latency_ms: [W] arrays of one value a query.
      parts_ms: [W] the parts of those latencies by PARTS, in the same order.
      recompiles: compilations that happened inside the windows; anything but 0 makes the row invalid.
      search: of the server scenario, how its rate was found or confirmed; None of the null model.
      host: what the host did during the windows.
      energy_j: of the windows, None with `energy_reason`.
      energy_reason: why there is none.
      held_bytes: in host memory and on the device before the first window; None where no count is kept.
      host_growth_bytes: [W] by which each window changed what is resident in this process; None where it is not told.
      device_growth_bytes: [W] likewise on the device.
      answer_caching: how much faster a repeated query is, where that was looked at.
      fault: why the row must not be used; None if nothing was seen.
    """

    label: str
    scenario: str
    batch_size: int
    process: int
    started_at: str
    windows: Sequence[Mapping[str, Any]]
    latency_ms: Sequence[NDArray]
    parts_ms: Sequence[Mapping[str, NDArray]]
    recompiles: int
    search: Mapping[str, Any] | None
    host: Mapping[str, Any]
    energy_j: float | None
    energy_reason: str | None
    held_bytes: Sequence[int | None]
    host_growth_bytes: Sequence[int] | None
    device_growth_bytes: Sequence[int] | None
    answer_caching: Mapping[str, Any] | None = None
    fault: str | None = None

    @property
    def samples_per_s(self) -> NDArray:
        """Returns [W] samples a second of each window."""
        return np.array([window["samples"] / window["duration_s"] for window in self.windows])


def window_facts(window: Window, started_at_s: float) -> dict[str, Any]:
    """Returns what a row needs of a window beside its latencies, as plain values.

    Args:
      window: that was measured.
      started_at_s: seconds since the epoch.
    """
    lag_ms = window.parts_ms.get("send_lag")
    sizes, counts = np.unique(window.batch_samples, return_counts=True)
    return {
        "started_at_s": started_at_s,
        "samples": window.samples,
        "padded_samples": window.padded_samples,
        "batch_sizes": {str(size): int(count) for size, count in zip(sizes, counts, strict=True)},
        "duration_s": window.duration_s,
        "offered_qps": window.offered_qps,
        "unanswered": window.unanswered,
        "overloaded": window.overloaded,
        "silent": window.silent,
        "failed_early": window.failed_early,
        "generator_cpu_share": window.generator_cpu_share,
        "privileges": window.privileges.in_row() if window.privileges else None,
        "verdict": dict(getattr(window, "verdict", {})) or None,  # LoadGen's
        "parts_ms": {name: float(part.sum()) for name, part in window.parts_ms.items()},  # over the queries
        "send_lag_ms": None
        if lag_ms is None or not len(lag_ms)
        else {"p50": float(np.median(lag_ms)), "p99": float(np.percentile(lag_ms, 99)), "max": float(lag_ms.max())},
    }


def append_measured(folder: Path, records: Iterable[Measured]) -> None:
    """Writes records of one scenario and process; they are on disk when it returns.

    The latencies go first: a record that is listed has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        stem = _stem(record.scenario, record.batch_size, record.label)
        arrays: dict[str, Any] = {str(index): latencies for index, latencies in enumerate(record.latency_ms)}
        for index, parts in enumerate(record.parts_ms):
            arrays |= {f"{index}/{name}": part.astype(np.float32) for name, part in parts.items()}
        write_whole(folder / f"{stem}.npz", functools.partial(_save_arrays, arrays))
        values = {
            field.name: getattr(record, field.name)
            for field in dataclasses.fields(record)
            if field.name not in ("latency_ms", "parts_ms")
        }
        write_json(folder / f"{stem}.json", values)


def read_measured(folder: Path, scenario: str, batch_size: int, labels: Sequence[str]) -> list[Measured] | None:
    """Returns the records of one scenario and process in the order of the labels; None if one is missing."""
    records = []
    for label in labels:
        stem = _stem(scenario, batch_size, label)
        file = folder / f"{stem}.json"
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        with np.load(folder / f"{stem}.npz", allow_pickle=False) as arrays:
            indices = range(len(values["windows"]))
            latency_ms = [arrays[str(index)] for index in indices]
            parts_ms = [
                {name: arrays[f"{index}/{name}"] for name in PARTS if f"{index}/{name}" in arrays} for index in indices
            ]
        records.append(Measured(latency_ms=latency_ms, parts_ms=parts_ms, **values))
    return records


def _save_arrays(arrays: Mapping[str, Any], file: BinaryIO) -> None:
    np.savez(file, **arrays)


def _stem(scenario: str, batch_size: int, label: str) -> str:
    return f"{scenario}-{batch_size}-{label.replace(' ', '')}"
