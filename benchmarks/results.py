"""A result row, and the file of rows that a run writes as it goes.

`results.jsonl` holds one JSON object a line. Rows are appended and flushed one by one, so a run that is
interrupted keeps every finished one. `docs/rows.md` explains each field.
"""

import dataclasses
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.command_line import make_output_folder
from recjax.errors import UserError
from recjax.progress import console
from recjax.whole_files import write_whole

SCHEMA_VERSION = 5
READ_VERSIONS = (1, 2, 3, 4, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One model x transforms x scenario x batch size on one device.

    A field that could not be had is None and `reasons` says why under the field's name (of a nested
    value: "latency_ms.p99_9"); `check_row` holds that.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str  # of the whole run: start time and a random suffix
    started_at: str  # ISO 8601, UTC, of the row's first window
    suite: str
    case: str  # experiment name / variant
    model: str  # class name, or "null" for the harness's floor
    model_config: dict[str, Any]  # of the final model: smaller after a shrink
    dataset: str | None
    protocol: str | None  # under which `quality` was had
    transforms: list[dict[str, Any]]  # in order, with every setting
    variant: str  # the transforms as a short label
    transform_report: dict[str, Any]  # what each transform did
    support: str | None  # native, emulated or none on this platform
    device: dict[str, Any]  # platform, kind, count, mesh
    scenario: str  # offline, single_stream, multi_stream, server
    processes: int | None  # fresh ones that measured the row
    batch_size: int  # samples a query (server: the largest batch that may form)
    quality: dict[str, float] | None  # of the served program on the test part
    quality_metric: str | None  # the one that chose the epoch and that `quality_retained` is of
    quality_reference: dict[str, dict[str, float]] | None  # sanity models under the same protocol
    quality_retained: float | None  # quality / quality of fp32
    quality_retained_ci95: list[float] | None  # of that ratio, resampled over the same test queries
    validation_quality: float | None  # of the final model
    latency_ms: dict[str, Any]  # p50 p90 p95 p99 p99_9 max mean n ci95_p50 ci95_p99
    time_split_ms: dict[str, float] | None  # mean of each part of a latency; their sum is the mean latency
    tail_split_ms: dict[str, float] | None  # the same of the slowest 1% of the queries
    outliers: dict[str, Any] | None  # how many latencies lie beyond Tukey's fences; none is dropped
    early_stopping: dict[str, Any] | None  # a latency that a percentile does not exceed, with 99% confidence
    steady: bool | None  # whether the last windows of each process agree within 10%
    throughput_queries_per_s: float
    throughput_samples_per_s: float
    throughput_ci95: list[float] | None  # of samples/s, over processes or windows
    speedup: (
        dict[str, Any] | None
    )  # samples/s over fp32 at this batch size, round by round: median, ci95, range, rounds
    target_qps: float | None  # server: the rate that held the limit
    search: dict[str, Any] | None  # server: how that rate was found
    slo_ms: float | None  # server: limit of p99
    load: dict[str, Any] | None  # what was asked, in words; server: how late it was sent, and by what
    valid: bool
    invalid_reason: str | None
    compile_s: float  # of all programs of this model, outside every window and without a cache
    compile_cached_s: float | None  # of the same in a later process, from JAX's compilation cache
    recompiles_in_window: int
    padding_waste: float  # share of computed samples that nobody asked for
    parameter_bytes: int  # stored variables
    dense_layer_bytes: int | None  # of which dense layers
    table_bytes: int | None  # of which embedding tables
    masked_share: float | None  # of fp32's kernel values: zeros that are stored, and multiplied
    realised_share: float | None  # of fp32's kernel values: those that are stored no more
    masked_speedup: dict[str, Any] | None  # `speedup` while the masked zeros are multiplied
    realised_speedup: dict[str, Any] | None  # `speedup` once they are removed or skipped
    products: dict[str, int] | None  # the optimised program's matrix products by XLA's types
    checkpoint_bytes: int | None  # final model on disk
    program_memory_bytes: int | None  # arguments + outputs + temporaries of this batch size, by the compiler
    peak_memory_bytes: int | None  # held at most by the device, by the process that measures all variants
    peak_host_bytes: int | None  # and in host memory
    memory_growth: dict[str, Any] | None  # does memory grow with the queries?
    answer_caching: dict[str, Any] | None  # first scenario: how much faster a repeated query is than fresh ones
    host: dict[str, Any] | None  # what else happened on the host during the row's windows
    energy_j_per_1k_samples: float | None
    train_samples_per_s: float | None  # of training steps alone, with the transforms in force
    train_speedup: dict[str, Any] | None  # of those steps over fp32's, in the same rounds
    train_s: float | None  # wall time of fine-tuning and finishing, or of the training if fp32 is the only variant
    flops_per_sample: float | None
    bytes_per_sample: float | None
    achieved_fraction_of_roofline: float | None  # against ceilings measured in this run
    bound_by: str | None  # compute or memory, by those ceilings
    mfu: float | None  # model flops utilization: share of the devices' published peak
    estimated: bool = False  # always: what no device ran is a benchmarks.estimates.EstimatedRow
    environment: dict[str, Any]
    reasons: dict[str, str]


WINDOWS = "#windows"  # ends the key of a row's windows in samples.npz
SINCE_VERSION_2 = (
    "table_bytes",
    "masked_share",
    "realised_share",
    "masked_speedup",
    "realised_speedup",
    "products",
    "train_samples_per_s",
    "train_speedup",
)
SINCE_VERSION_3 = ("mfu",)
SINCE_VERSION_4 = (
    "processes",
    "time_split_ms",
    "outliers",
    "early_stopping",
    "steady",
    "throughput_ci95",
    "load",
    "compile_cached_s",
    "peak_host_bytes",
    "memory_growth",
    "answer_caching",
    "host",
)
SINCE_VERSION_5 = ("tail_split_ms",)
SINCE = {2: SINCE_VERSION_2, 3: SINCE_VERSION_3, 4: SINCE_VERSION_4, 5: SINCE_VERSION_5}
FREE_FORM = ("model_config", "transforms", "transform_report", "search", "environment", "reasons", "load", "host")


def check_row(row: Row) -> None:
    """Raises ValueError if a field is, or holds, None or NaN without a reason; FREE_FORM fields may hold anything."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                check(f"{name}.{key}", part)
        elif isinstance(value, list):
            for part in value:
                check(name, part)
        elif (value is None or (isinstance(value, float) and math.isnan(value))) and name not in row.reasons:
            raise ValueError(f"row {row.case}/{row.scenario}: {name} is {value} and reasons does not say why")

    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if field.name not in FREE_FORM or value is None:
            check(field.name, value)


class ResultWriter:
    """Appends rows to `results.jsonl`; a row is on disk when `write` returns.

    An earlier run's files stay where they are until there is a first row to take their place.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the folder and sees that it can be written to; raises UserError if it cannot be made."""
        make_output_folder(folder)
        self.path = folder / "results.jsonl"
        self.path.open("a").close()
        self.rows: list[Row] = []

    def keep(self, rows: Sequence[Row]) -> None:
        """Makes the rows those of the file, in place of what it holds: the finished ones of a run that goes on."""
        text = "".join(_line(row) for row in rows)
        write_whole(self.path, lambda file: file.write(text.encode()))
        self.rows = list(rows)

    def write(self, rows: Iterable[Row]) -> None:
        """Checks and appends the rows."""
        if not self.rows:
            others = ("report.md", "report.html", "results.csv", "samples.npz", "histograms")
            keep_earlier_run(self.path.parent, self.path.name, *others)
        with self.path.open("a") as file:
            for row in rows:
                check_row(row)
                file.write(_line(row))
                self.rows.append(row)
            file.flush()
            os.fsync(file.fileno())


def _line(row: Row) -> str:
    return json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n"


def keep_earlier_run(folder: Path, rows: str, *others: str) -> None:
    """Moves an earlier run's rows and reports to a new folder of its own in `folder`: `previous-1`, `previous-2` ...

    A run that left no rows is not worth that: what it left is removed.
    """
    if not (folder / rows).exists() or not (folder / rows).stat().st_size:
        for name in (rows, *others):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        return
    taken = [path.name.removeprefix("previous-") for path in folder.glob("previous-*")]
    newest = max((int(number) for number in taken if number.isdecimal()), default=0)
    previous = folder / f"previous-{newest + 1}"
    make_output_folder(previous)
    for name in (rows, *others):
        if (folder / name).exists():
            (folder / name).rename(previous / name)
    console.print(f"the earlier run's rows and reports are kept in {previous}", markup=False)


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a `results.jsonl`.

    Raises:
      UserError: not JSON, an unknown schema version, an estimated row, or unknown fields; with file and line.
    """
    fields = {field.name for field in dataclasses.fields(Row)}
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg}); expected one result row a line") from error
        if not isinstance(values, dict) or values.get("schema_version") not in READ_VERSIONS:
            raise UserError(f"{path}:{number}: not a result row of schema version 1 to {SCHEMA_VERSION}")
        if values.get("estimated"):
            raise UserError(
                f"{path}:{number}: an estimated row, and these are measured ones; python -m benchmarks.show prints "
                "estimates under a title of their own"
            )
        values = _brought_up_to_date(values)
        if set(values) != fields:
            wrong = ", ".join(sorted(set(values) ^ fields))
            raise UserError(f"{path}:{number}: missing or unknown fields: {wrong}")
        rows.append(Row(**values))
    return rows


def _brought_up_to_date(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a row; those that its version had not are None, and the reason says so."""
    if values["schema_version"] == SCHEMA_VERSION or not isinstance(values.get("reasons"), dict):
        return values
    newer = [name for version, names in SINCE.items() if version > values["schema_version"] for name in names]
    missing = [name for name in newer if name not in values]
    reasons = values["reasons"] | dict.fromkeys(missing, "measured before rows had it")
    return values | dict.fromkeys(missing) | {"schema_version": SCHEMA_VERSION, "reasons": reasons}


@dataclasses.dataclass(frozen=True)
class RowSamples:
    """Every latency of a row.

    Attributes:
      windows_ms: [W] arrays, float32.
      processes: [W] the process of each window.
    """

    windows_ms: list[NDArray]
    processes: list[int]

    @property
    def latency_ms(self) -> NDArray:
        """Returns [N] all of them, window after window."""
        return np.concatenate(self.windows_ms)


def write_samples(path: Path, samples: Mapping[str, RowSamples]) -> None:
    """Writes the samples of rows by `samples_key`: latencies, and under KEY#windows the [2, W] sizes and processes."""
    arrays: dict[str, Any] = {}
    for key, row in samples.items():
        arrays[key] = row.latency_ms.astype(np.float32)
        arrays[key + WINDOWS] = np.array([[len(window) for window in row.windows_ms], row.processes], np.int32)
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read_row_samples(path: Path) -> dict[str, RowSamples]:
    """Returns what `write_samples` wrote; of rows from before version 4 all samples are one window of process 0.

    Raises:
      UserError: not such a file.
    """
    arrays, rows = _read_arrays(path), {}
    try:
        for key, latency_ms in arrays.items():
            if key.endswith(WINDOWS):
                continue
            sizes, processes = arrays.get(key + WINDOWS, np.array([[len(latency_ms)], [0]]))
            rows[key] = RowSamples(np.split(latency_ms, np.cumsum(sizes)[:-1]), processes.tolist())
    except (ValueError, TypeError, IndexError) as error:
        raise _no_samples(path, error) from error
    return rows


def read_samples(path: Path) -> dict[str, NDArray]:
    """Returns the latencies in ms of a `samples.npz` by `samples_key`; none if there is no such file.

    Raises:
      UserError: not such a file.
    """
    return {key: latencies for key, latencies in _read_arrays(path).items() if not key.endswith(WINDOWS)}


def _read_arrays(path: Path) -> dict[str, NDArray]:
    """Returns the arrays of a file, none if there is no such file.

    Raises:
      UserError: not such a file.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_samples(path, error) from error


def _no_samples(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} holds no latency samples ({error}); remove it to go without them")
