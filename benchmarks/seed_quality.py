"""Quality over seeds: every variant trained again and again, on the same split.

A seed draws the initial parameters, the order of the batches and the dropout, of training and of fine-tuning;
the split of the data keeps its own seed. The quality kept is taken within a seed, because a seed's variants
start from the same trained model.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks import markdown
from benchmarks.prepare import prepare_case
from benchmarks.report import wide_console
from benchmarks.results import keep_earlier_run
from benchmarks.statistics import mean_interval
from benchmarks.suite import Case, Suite
from benchmarks.summary import format_percent, format_quality, metric_name
from recjax.command_line import INTERRUPTED, make_output_folder
from recjax.config import Experiment, Training
from recjax.data.sources import check_source
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
from recjax.progress import console

HEADER = ("model", "variant", "metric", "seeds", "mean", "deviation", "kept % ± 95%", "lowest", "highest")
N_LEFT = 3  # of its columns are text
SEED_STRIDE = 1000  # training and fine-tuning have seeds of their own, close together
NOTES = (
    "mean, deviation: of the metric on the test part, over the seeds.",
    "kept: the mean of each seed's share of its own fp32, with Student's 95% interval over the seeds. It says what the "
    "randomness of training does, on the same test part each time; it does not say how other users would differ.",
    "lowest, highest: of the shares kept. A dash: does not depend on the seed, or is no variant.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRow:
    """One variant, or one reference, under one seed."""

    suite: str
    experiment: str
    variant: str
    seed: int
    protocol: str
    quality_metric: str
    quality: dict[str, float]  # every metric, on the test part
    quality_retained: float | None  # of the same seed's fp32; None for a reference, or where fp32's is 0
    validation_quality: float | None  # of quality_metric; None for a reference
    below_floor: str | None = None  # why `benchmarks.run` would call its rows invalid, if training fell short
    environment: dict[str, Any]


def run_seeds(suite: Suite, seeds: Sequence[int], device: jax.Device, folder: Path) -> int:
    """Trains the suite once a seed, prints the summary and returns the exit code; finished cases survive Ctrl-C.

    Raises:
      UserError: a data set that is not there, or a folder that cannot be made.
    """
    for case in suite.cases:
        check_source(case.experiment.dataset)
    make_output_folder(folder)
    kind = describe_device([device])["kind"]
    console.print(f"suite {suite.name}, {len(seeds)} seeds on {kind}; results go to {folder}", markup=False)
    started, rows, code = time.perf_counter(), list[SeedRow](), 0
    environment = {"device": kind} | describe_software()
    path = folder / "seeds.jsonl"
    try:
        for done, seed in enumerate(seeds):
            left_s = (time.perf_counter() - started) / done * (len(seeds) - done) if done else None
            left = f", about {left_s / 60:.0f} min left" if left_s else ""
            console.print(f"seed {seed}, {done + 1} of {len(seeds)}{left}", markup=False)
            for case in suite.cases:
                with tempfile.TemporaryDirectory() as models:
                    new = _rows_of_seed(suite.name, case, seed, Path(models), environment)
                if not rows:
                    keep_earlier_run(folder, path.name, "seeds.md")
                with path.open("a") as file:
                    file.writelines(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n" for row in new)
                rows += new
    except KeyboardInterrupt:
        code = INTERRUPTED
        kept = f"{len(rows)} finished rows are kept in {path}" if rows else "no row was finished"
        console.print(f"interrupted; {kept}", markup=False)
    finally:
        if rows:
            report = folder / "seeds.md"
            report.write_text(render(rows))
            wide_console().print(_terminal_table(summary_lines(rows)))
            console.print(f"{len(rows)} rows in {time.perf_counter() - started:.0f} s; see {report}", markup=False)
    return code


def summary_lines(rows: Iterable[SeedRow]) -> list[tuple[str, ...]]:
    """Returns one line of cells, under HEADER, for each variant and reference, in the order of the rows."""
    groups: dict[tuple[str, str], list[SeedRow]] = {}
    for row in rows:
        groups.setdefault((row.experiment, row.variant), []).append(row)
    return [_line(group) for group in groups.values()]


def render(rows: Sequence[SeedRow]) -> str:
    """Returns the whole of `seeds.md`."""
    environment = rows[0].environment
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    protocols = {row.experiment: row.protocol for row in rows}
    below = [
        f"! {row.experiment} / {row.variant}, seed {row.seed}: {row.below_floor}" for row in rows if row.below_floor
    ]
    parts = [
        f"# Quality over seeds: suite {markdown.escape(rows[0].suite)}",
        markdown.bullets(
            [
                f"Device: {markdown.escape(environment['device'])}",
                f"Versions: {markdown.escape(versions)}",
                f"Commit: {environment['git']['commit'] or 'unknown'}"
                f"{' and changes' if environment['git']['modified'] else ''}",
                *(f"Protocol of {markdown.escape(name)}: {markdown.escape(text)}" for name, text in protocols.items()),
            ]
        ),
        markdown.table(HEADER, summary_lines(rows), N_LEFT),
        markdown.bullets(markdown.escape(text) for text in below),
        markdown.bullets(NOTES),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows_of_seed(suite: str, case: Case, seed: int, folder: Path, environment: dict[str, Any]) -> list[SeedRow]:
    references = tuple(_reseeded(reference, seed) for reference in case.references)
    case = dataclasses.replace(case, experiment=_reseeded(case.experiment, seed), references=references)
    variants = prepare_case(case, folder).variants
    fp32 = variants[0].row

    def row(variant: str, quality: Mapping[str, float], **known: Any) -> SeedRow:
        values = {"quality_retained": None, "validation_quality": None} | known
        return SeedRow(
            suite=suite,
            experiment=case.experiment.name,
            variant=variant,
            seed=seed,
            protocol=fp32["protocol"],
            quality_metric=fp32["quality_metric"],
            quality=dict(quality),
            environment=environment,
            **values,
        )

    rows = [
        row(
            variant.label,
            variant.row["quality"],
            quality_retained=variant.row["quality_retained"],
            validation_quality=variant.row["validation_quality"],
            below_floor=variant.below_floor,
        )
        for variant in variants
    ]
    return rows + [row(name, metrics) for name, metrics in fp32["quality_reference"].items()]


def _reseeded(experiment: Experiment, seed: int) -> Experiment:
    """Returns the experiment under seed number `seed`; number 0 is the experiment as it stands."""

    def shifted(training: Training) -> Training:
        return dataclasses.replace(training, seed=training.seed + SEED_STRIDE * seed)

    training, finetuning = shifted(experiment.training), shifted(experiment.finetuning)
    return dataclasses.replace(experiment, training=training, finetuning=finetuning)


def _line(rows: Sequence[SeedRow]) -> tuple[str, ...]:
    metric = rows[0].quality_metric
    values = [row.quality[metric] for row in rows]
    kept = [row.quality_retained for row in rows if row.quality_retained is not None]
    deviation = float(np.std(values, ddof=1)) if len(set(values)) > 1 else None
    interval = f" ±{format_percent(mean_interval(kept))}" if len(set(kept)) > 1 else ""
    mean, lowest, highest = (float(np.mean(kept)), min(kept), max(kept)) if kept else (None, None, None)
    return (
        rows[0].experiment,
        rows[0].variant,
        metric_name(metric),
        str(len(rows)),
        format_quality(float(np.mean(values))),
        format_quality(deviation),
        format_percent(mean) + interval,
        format_percent(lowest),
        format_percent(highest),
    )


def _terminal_table(lines: Iterable[Sequence[str]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for index, title in enumerate(HEADER):
        shown.add_column(title, justify="left" if index < N_LEFT else "right")
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown
