"""`docs/quality.md` from stored rows: recjax, the reference, the protocol and the difference."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.quality_rows import QualityRow, read_rows
from benchmarks.references import (
    OF_SASREC,
    OF_SASREC_RATIO,
    REFERENCES,
    SIMPLE_MODEL_RATIO,
    TRIED,
    Reference,
)
from recjax.errors import UserError
from recjax.evaluation import LOWER_IS_BETTER, is_better

Groups = Mapping[str, Sequence[QualityRow]]  # experiment -> its seeds

INTRODUCTION = """# Quality

Does each model of recjax score what the field reports for it, under the same protocol? This page is written by

    {command}

from the rows in `{folder}`, one a model and seed, which `python -m benchmarks.quality CONFIG --out={folder}` makes.

- Every figure is of the test part, at the epoch that the validation part chose. Mean ± deviation over {seeds} seeds;
  a seed draws the split (where it is random), the initial parameters, the order of the batches and the dropout.
- Hyper-parameters were tuned on the validation part of split seed 100, which none of the seeds here uses, with the
  budget of trials in `benchmarks/results/tuning/` (`python -m benchmarks.tune CONFIG`).
- *Reaches* means: the mean is no worse than the reference by more than the tolerance (2% of a ranking metric, 0.005 of
  AUC or logloss). References were had with default hyper-parameters.
- A figure counts only under its own protocol. Do not compare across tables.
"""


def write_page(folder: Path, page: Path) -> None:
    """Writes the page from all rows in `folder`.

    Raises:
      UserError: there are none.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError(f"no rows in {folder}; make them with python -m benchmarks.quality CONFIG --out={folder}")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(read_rows(files), folder, page))


def render(rows: Sequence[QualityRow], folder: Path, page: Path) -> str:
    """Returns the whole page."""
    groups: dict[str, list[QualityRow]] = {}
    for row in rows:
        groups.setdefault(row.experiment, []).append(row)
    command = f"python -m benchmarks.quality --out={folder} --page={page}"
    seeds = sorted({len(group) for group in groups.values()})
    parts = [
        INTRODUCTION.format(command=command, folder=folder, seeds=" or ".join(map(str, seeds))),
        "## Against references",
        markdown.table(
            ("model", "metric", "recjax", "reference", "difference", "verdict", "source"),
            _reference_lines(groups),
            2,
        ),
        "## Against simple models",
        f"A model that nobody reports under these protocols must have {SIMPLE_MODEL_RATIO:g} times the NDCG@10 of "
        "popularity, or a lower RMSE than user and item biases; GRU4Rec, BERT4Rec and HSTU must have "
        f"{OF_SASREC_RATIO:g} times SASRec's figures.",
        markdown.table(("model", "metric", "recjax", "bar", "ratio", "verdict"), _bar_lines(groups), 2),
        "## What falls short, and what was tried",
        markdown.bullets(_shortfalls(groups)) or "Nothing.",
        "## Everything",
        *_protocol_tables(groups),
        "## Where",
        _where(rows),
    ]
    return "\n\n".join(parts) + "\n"


def mean(rows: Sequence[QualityRow], metric: str) -> float:
    """Returns the mean of the metric over the seeds."""
    return float(np.mean([row.quality[metric] for row in rows]))


def _value(rows: Sequence[QualityRow], metric: str) -> str:
    values = [row.quality[metric] for row in rows]
    return f"{np.mean(values):.4f}" + (f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def _reaches(reference: Reference, metric: str, value: float) -> bool:
    return not is_better(metric, reference.floor(metric), value)


def _reference_lines(groups: Groups) -> Iterable[list[str]]:
    for name, references in REFERENCES.items():
        for reference in references if name in groups else ():
            for metric, expected in reference.metrics.items():
                value = mean(groups[name], metric)
                difference = (
                    f"{value - expected:+.4f}"
                    if metric in ("auc", "logloss")
                    else f"{100 * (value / expected - 1):+.1f}%"
                )
                better = is_better(metric, value, expected)
                verdict = "better" if better else "reaches" if _reaches(reference, metric, value) else "**short**"
                if not reference.gates:
                    verdict = f"{verdict} (cross-check)"
                yield [
                    name,
                    metric,
                    _value(groups[name], metric),
                    f"{expected:.4f}",
                    difference,
                    verdict,
                    reference.source,
                ]


def _bars(groups: Groups) -> Iterable[tuple[str, str, str, float, float]]:
    """Yields model, metric, the bar in words, its value, and the factor of it that must be reached."""
    for name, rows in groups.items():
        if name in OF_SASREC and "sasrec" in groups:
            for metric in ("hr@10", "ndcg@10"):
                yield name, metric, "sasrec", mean(groups["sasrec"], metric), OF_SASREC_RATIO
        for simple, metric, factor in (("biases", "rmse", 1.0), ("popularity", "ndcg@10", SIMPLE_MODEL_RATIO)):
            if simple in rows[0].sanity and metric in rows[0].quality and not name.startswith("popularity"):
                yield name, metric, simple, float(np.mean([row.sanity[simple][metric] for row in rows])), factor


def _bar_lines(groups: Groups) -> Iterable[list[str]]:
    for name, metric, bar, value, factor in _bars(groups):
        verdict = "clears" if _clears(metric, mean(groups[name], metric), value, factor) else "**short**"
        ratio = mean(groups[name], metric) / value
        yield [name, metric, _value(groups[name], metric), f"{bar} {value:.4f}", f"{ratio:.2f}", verdict]


def _clears(metric: str, value: float, bar: float, factor: float) -> bool:
    return value < factor * bar if metric in LOWER_IS_BETTER else value >= factor * bar


def _shortfalls(groups: Groups) -> Iterable[str]:
    for name, rows in groups.items():
        missed = [
            f"{metric} {mean(rows, metric):.4f} for {expected:.4f} ({reference.source})"
            for reference in REFERENCES.get(name, ())
            for metric, expected in reference.metrics.items()
            if not _reaches(reference, metric, mean(rows, metric))
        ]
        missed += [
            f"{metric} {mean(rows, metric):.4f} where {factor:g} x {bar} is {factor * value:.4f}"
            for model, metric, bar, value, factor in _bars(groups)
            if model == name and not _clears(metric, mean(rows, metric), value, factor)
        ]
        if missed:
            tried = TRIED.get(name, "Nothing is written down of what was tried.")
            yield f"**{markdown.escape(name)}**: {markdown.escape('; '.join(missed))}. {tried}"


def _protocol_tables(groups: Groups) -> Iterable[str]:
    """Yields a heading and a table for each protocol: its models, and the sanity models of the first of them."""
    by_protocol: dict[str, list[str]] = {}
    for name, rows in groups.items():
        by_protocol.setdefault(_without_seed(rows[0].protocol), []).append(name)
    for protocol, names in by_protocol.items():
        first = groups[names[0]]
        metrics = _shown(first[0].quality)
        yield f"### {markdown.escape(protocol)}"
        sanity = [
            [
                f"({simple})",
                *(f"{np.mean([row.sanity[simple][metric] for row in first]):.4f}" for metric in metrics),
                "",
            ]
            for simple in first[0].sanity
        ]
        lines = [
            [
                name,
                *(_value(groups[name], metric) for metric in metrics),
                f"{np.median([r.train_s for r in groups[name]]):.0f}",
            ]
            for name in names
        ]
        yield markdown.table(("model", *metrics, "train s"), [*sanity, *lines], 1)


def _shown(quality: Mapping[str, float]) -> list[str]:
    """Returns the metrics of the tables: those at 10, or all where there is no cut-off; gaps stay in the rows."""
    names = [name for name in quality if "/gap(" not in name]
    at_ten = [name for name in names if "@10" in name and "@100" not in name]
    return at_ten or names


def _without_seed(protocol: str) -> str:
    return "/".join(part for part in protocol.split("/") if not part.startswith("seed="))


def _where(rows: Sequence[QualityRow]) -> str:
    def distinct(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    commits = distinct((row.environment["git"]["commit"] or "unknown")[:10] for row in rows)
    return markdown.bullets(
        [
            f"Devices: {markdown.escape(distinct(row.environment['device'] for row in rows))}",
            f"JAX: {distinct(row.environment['versions']['jax'] for row in rows)}",
            f"Commits: {commits}",
        ]
    )
