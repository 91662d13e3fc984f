"""Repeats of one run: how often does the interval that a row states cover the figure that all of them give?"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.results import Row, RowSamples, read_row_samples, read_rows
from benchmarks.runner import run_apart
from benchmarks.suite import SCENARIOS, Source, load_suite
from benchmarks.summary import samples_key
from recjax.command_line import make_output_folder
from recjax.errors import UserError, unknown_name
from recjax.measurement.percentiles import quantile_of_samples
from recjax.progress import console

FIGURES = {"p50": 0.5, "p99": 0.99}
MIN_COVERED = 0.9  # share of the repeats whose interval of the median must cover the pooled one
KEPT = ("results.jsonl", "samples.npz")
PAGE = "repeats.md"
HEADER = ("row", "repeat", "p50 ms", "95% interval", "covers", "p99 ms", "95% interval", "covers")


def source_of_row(suite: str, case: str, scenario: str) -> Source:
    """Returns the source of a case's fp32 in one scenario.

    Raises:
      UserError: there is no such suite, case or scenario.
    """
    names = [one.experiment.name for one in load_suite(suite, []).cases]
    for kind, name, valid in (("case", case, names), ("scenario", scenario, SCENARIOS)):
        if name not in valid:
            raise unknown_name(kind, name, valid)
    return Source("load_suite", suite, (), case=case, variants=("fp32",), scenarios=(scenario,))


def measure_repeats(source: Source, device: str, repeats: int, processes: int, out: Path) -> None:
    """Runs the source again and again, and keeps the rows and samples of every repeat below `out`.

    Args:
      source: what is run.
      device: "cpu", "gpu" or "tpu".
      repeats: how often.
      processes: fresh ones that measure each repeat.
      out: folder of the results.

    Raises:
      UserError: a run of them failed.
    """
    make_output_folder(out)
    source = dataclasses.replace(source, processes=processes)
    suite = source.load()
    for number in range(1, repeats + 1):
        console.print(f"repeat {number} of {repeats}", markup=False)
        with tempfile.TemporaryDirectory(prefix="recjax-") as name:
            if run_apart(suite, source, device, Path(name)):
                raise UserError(f"repeat {number} was not finished: the reason stands above")
            if number == 1:
                for earlier in _repeats_in(out):  # of another row, or of older code
                    shutil.rmtree(earlier)
            folder = out / f"{number:02d}"
            folder.mkdir(exist_ok=True)
            for file in KEPT:
                shutil.copy(Path(name) / file, folder / file)


def judge_repeats(out: Path) -> int:
    """Prints and writes the table of the repeats below `out`; returns 0 if enough of them cover the median, else 1.

    Raises:
      UserError: fewer than two repeats are there, or files of them cannot be read.
    """
    folders = _repeats_in(out)
    if len(folders) < 2:
        raise UserError(f"{out} has {len(folders)} repeats; run python -m benchmarks.repeat_check --out={out}")
    rows = [
        {samples_key(row): row for row in read_rows(folder / KEPT[0]) if row.variant == "fp32"} for folder in folders
    ]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise UserError(f"{out} holds repeats of different rows; delete it, and run python -m benchmarks.repeat_check")
    samples = [read_row_samples(folder / KEPT[1]) for folder in folders]
    lines: list[tuple[str, ...]] = []
    verdicts: list[str] = []
    enough = True
    for key in rows[0]:
        of_key = [row[key] for row in rows]
        pooled = _pooled([of_repeat[key] for of_repeat in samples])
        lines += _lines(key, of_key, pooled)
        covered = {name: sum(_covers(row, name, value) for row in of_key) for name, value in pooled.items()}
        enough &= covered["p50"] >= MIN_COVERED * len(of_key)
        verdicts += [
            f"{key}: the interval covers the pooled {name}, {value:.3f} ms, in {covered[name]} of {len(of_key)} repeats"
            for name, value in pooled.items()
        ]
    first = next(iter(rows[0].values()))
    facts = markdown.environment_facts({"device": first.device["kind"]} | first.environment)
    text = "\n\n".join(["# Repeats", markdown.bullets(facts + verdicts), markdown.table(HEADER, lines, 1)]) + "\n"
    (out / PAGE).write_text(text, encoding="utf-8")
    for verdict in verdicts:
        console.print(verdict, markup=False)
    return 0 if enough else 1


def _repeats_in(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("[0-9][0-9]/results.jsonl"))


def _pooled(samples: Sequence[RowSamples]) -> dict[str, float]:
    together = np.concatenate([one.latency_ms for one in samples])
    return {name: float(quantile_of_samples(together, quantile)) for name, quantile in FIGURES.items()}


def _covers(row: Row, figure: str, value: float) -> bool:
    bounds = row.latency_ms[f"ci95_{figure}"]
    return bounds is not None and bounds[0] <= value <= bounds[1]


def _lines(key: str, rows: Sequence[Row], pooled: dict[str, float]) -> Iterator[tuple[str, ...]]:
    for number, row in enumerate(rows, start=1):
        cells = [key, str(number)]
        for figure, value in pooled.items():
            bounds = row.latency_ms[f"ci95_{figure}"]
            interval = "none" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
            own = row.latency_ms[figure]
            cells += ["none" if own is None else f"{own:.3f}", interval, "yes" if _covers(row, figure, value) else "no"]
        yield tuple(cells)
