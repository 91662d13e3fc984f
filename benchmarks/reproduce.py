"""Measures one row again: by its own command, on this machine, and beside what it was."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.manifest import experiment_digest
from benchmarks.report import wide_console
from benchmarks.results import Row, read_rows
from benchmarks.runner import run_apart
from benchmarks.suite import Case, Source, source_of
from benchmarks.summary import format_number, format_quality, samples_key
from recjax.errors import UserError, unknown_name
from recjax.hardware.software import describe_software, nvidia_driver
from recjax.progress import console

NOT_OF_THE_MACHINE = (
    "ceilings",
    "training",
    "command",
    "seed",
    "driver",
    "container",
)  # compared elsewhere, or not here


def reproduce(text: str, folder: Path) -> int:
    """Runs what a row needs, prints both rows side by side and returns the exit code.

    Args:
      text: RUN:CASE/VARIANT/SCENARIO/BATCH, RUN being a results folder or file.
      folder: of the new results.

    Raises:
      UserError: no such run or row, or one that does not say by which command it was measured.
    """
    row = find_row(text)
    source, device = source_of_row(row)
    suite = source.load()
    now = describe_software() | ({"nvidia_driver": nvidia_driver()} if device == "gpu" else {})
    for line in other_experiment(row, suite.cases[0], source.name) + differences(row.environment, now):
        console.print(f"other than then: {line}", markup=False)
    if code := run_apart(suite, source, device, folder):
        return code
    again = next((new for new in read_rows(folder / "results.jsonl") if samples_key(new) == samples_key(row)), None)
    if again is None:
        raise UserError(f"{samples_key(row)} was not measured again: {source.name} gives no such row any more")
    wide_console().print(_table(row, again))
    return 0


def find_row(text: str) -> Row:
    """Returns the row that RUN:CASE/VARIANT/SCENARIO/BATCH names; raises UserError if there is none."""
    run, separator, key = text.rpartition(":")
    if not separator or key.count("/") != 3:
        form = "RUN:CASE/VARIANT/SCENARIO/BATCH, as runs/quick-cpu:sasrec/int8/offline/128"
        raise UserError(f"--reproduce is {text!r}; allowed: {form}")
    path = Path(run) / "results.jsonl" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise UserError(f"--reproduce: there are no rows at {path}; give a folder with a results.jsonl, or such a file")
    rows = {samples_key(row): row for row in read_rows(path)}
    if key not in rows:
        raise unknown_name("row", key, rows)
    return rows[key]


def source_of_row(row: Row) -> tuple[Source, str]:
    """Returns the part of the suite that the row needs, and the device; raises UserError if the row does not say."""
    command = row.environment.get("command") or {}
    if "loader" not in command:
        raise UserError(f"{samples_key(row)} cannot be measured again alone: {_why_not(command)}")
    variants = dict.fromkeys(("fp32", row.variant)) if row.model != "null" else {"fp32": None}
    part = {
        "shard": "",
        "case": row.case.partition("/")[0],
        "variants": tuple(variants),
        "scenarios": () if row.scenario == "server" else (row.scenario,),  # its search begins where the others end
    }
    return source_of(command | part), command["device"]


def _why_not(command: Mapping[str, Any]) -> str:
    """Returns why a row whose command names no loader cannot be measured again, and what can be done."""
    if "module" in command:
        return f"python -m {command['module']} measured it in turns with others; run that command again"
    if "suite" in command:
        return (
            f"it is of a run of suite {command['suite']!r} by several processes together, whose options are not in its "
            "rows; run benchmarks.run on those hosts again"
        )
    return "it does not say by which command it was measured, as rows do since version 4; run its suite again"


def other_experiment(row: Row, case: Case, name: str) -> list[str]:
    """Returns in one line that the experiment is another than the row's, nothing if it is the same.

    Nothing either for a row that does not say, as those of before the digest.

    Args:
      row: as it was measured.
      case: as it is now.
      name: of the config's file or the suite.
    """
    then, now = row.environment["command"].get("experiment_digest"), experiment_digest(case, row.variant)
    if then in (None, now):
        return []
    return [f"experiment: {then} -> {now}: {name} was edited, or the code gives it other values"]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what the environment of a row has otherwise than this one, as "name: then -> now"."""
    before, after = dict(_flat(then)), dict(_flat(now))
    names = [name for name in before if name in after and name.partition(".")[0] not in NOT_OF_THE_MACHINE]
    changed = [f"{name}: {before[name]} -> {after[name]}" for name in names if before[name] != after[name]]
    flags = sorted((before.keys() ^ after.keys()) & {name for name in (before | after) if name.startswith("flags.")})
    return changed + [f"{name}: {before.get(name, 'not set')} -> {after.get(name, 'not set')}" for name in flags]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(then: Row, now: Row) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=samples_key(then))
    table.add_column("")
    for title in ("then", "now", "now / then"):
        table.add_column(title, justify="right")
    for name in ("p50", "p99"):
        cells = [_with_interval(row.latency_ms[name], row.latency_ms[f"ci95_{name}"]) for row in (then, now)]
        table.add_row(f"{name} ms", *cells, _ratio(then.latency_ms[name], now.latency_ms[name]))
    rates = (then.throughput_samples_per_s, now.throughput_samples_per_s)
    cells = [_with_interval(rate, row.throughput_ci95) for rate, row in zip(rates, (then, now), strict=True)]
    table.add_row("samples/s", *cells, _ratio(*rates))
    if then.scenario == "server":
        old, new = then.target_qps, now.target_qps
        table.add_row("rate q/s", format_number(old), format_number(new), _ratio(old, new))
    if then.quality and now.quality and then.quality_metric:
        old, new = then.quality.get(then.quality_metric), now.quality.get(then.quality_metric)
        table.add_row(then.quality_metric, format_quality(old), format_quality(new), _ratio(old, new))
    table.add_row("valid", *(str(row.invalid_reason or "yes") for row in (then, now)), "")
    return table


def _with_interval(value: float | None, bounds: list[float] | None) -> str:
    interval = f" ({format_number(bounds[0])} to {format_number(bounds[1])})" if bounds else ""
    return format_number(value) + interval


def _ratio(then: float | None, now: float | None) -> str:
    return f"{now / then:.3f}" if then and now else ""
