"""`docs/quality.md` from stored rows: recjax, the reference, the protocol and the difference."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import markdown
from benchmarks.hyperparameter_search import (
    Trial,
    apply,
    best_first,
    digest,
    in_figures,
    in_words,
    read_trials,
    reseeded,
)
from benchmarks.quality_rows import QualityRow, read_rows
from benchmarks.references import (
    OF_SASREC,
    OF_SASREC_RATIO,
    REFERENCES,
    SIMPLE_MODEL_RATIO,
    TRIED,
    Reference,
    without_seed,
)
from recjax.config_files import load_config
from recjax.errors import UserError
from recjax.evaluation import LOWER_IS_BETTER, is_better

LINEAR = "logistic_regression"  # the experiment that a deep model of the labelled task must clear
Groups = Mapping[str, Sequence[QualityRow]]  # experiment -> its seeds

INTRODUCTION = """# Quality

Does each model of recjax score what the field reports for it, under the same protocol? This page is written by

    {command}

from the rows in `{folder}`, one a model and seed, which `python -m benchmarks.quality CONFIG --out={folder}` makes.

- Every figure is of the test part, at the epoch that the validation part chose: the mean over the seeds, ± their
  deviation where there are several. The last tables count them: {seeds} of each model. A seed draws the split (where
  it is random), the initial parameters, the order of the batches and the dropout.
- *Better* than a reference means: by any margin. *Reaches*: no worse than its floor, which is the reference less its
  tolerance (0.005 of AUC and logloss, 2% of any other metric, nothing for SASRec). **Short**: below the floor.
- References are what their sources report. RecBole 1.2.1 was run on 2 CPU cores with its default hyper-parameters, seed
  2020 and an early stop after 10 evaluations without gain; recjax's were tuned, as the section on tuning tells. A
  cross-check is a figure whose split or metric differs in detail: none is promised to be reached.
- A figure counts only under its own protocol. Do not compare across tables."""

SIMPLE_MODELS = f"""A model that no reference gates must have {SIMPLE_MODEL_RATIO:g} times the NDCG@10 of popularity,
a lower RMSE than user and item biases, or at least the AUC of recjax's own logistic regression;
{", ".join(OF_SASREC)} must have {OF_SASREC_RATIO:g} times the HR@10 and NDCG@10 of recjax's own sasrec. Each under the
same protocol; popularity and biases over the same seeds too. hstu knows when the request comes, which sasrec and the
others do not (docs/models.md)."""

TUNING = """`python -m benchmarks.hyperparameters CONFIG` trains the config as it stands and points drawn from the grid
of its SEARCH, and judges each by the validation part. No trial reads the test part of its own split; under a random
split, whose seed is given, its validation part shares ratings with the test parts of other seeds. The last column says
whether the config has the settings that won; a dash: that cannot be told."""

SHORT = markdown.Markup("**short**")


def write_page(folder: Path, page: Path, tuning: Path) -> None:
    """Writes the page from all rows in `folder`, and from the trials in `tuning` if there are any.

    Raises:
      UserError: there are no rows, a stored line cannot be used, or the page cannot be written.
    """
    rows = read_rows(sorted(folder.glob("*.jsonl")))
    if not rows:
        raise UserError(f"no rows in {folder}; make them with python -m benchmarks.quality CONFIG --out={folder}")
    trials = [trial for file in sorted(tuning.glob("*.jsonl")) for trial in read_trials(file)]
    text = render(rows, trials, f"python -m benchmarks.quality --out={folder} --tuning={tuning} --page={page}", folder)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}; give another file with --page") from error


def render(rows: Sequence[QualityRow], trials: Sequence[Trial], command: str, folder: Path) -> str:
    """Returns the whole page; `command` is what makes it, `folder` has its rows."""
    groups = _grouped(rows)
    seeds = " or ".join(map(str, sorted({len(group) for group in groups.values()})))
    parts = [
        INTRODUCTION.format(command=command, folder=folder, seeds=seeds),
        "## Against references",
        _table_if_any(
            ("model", "metric", "recjax", "reference", "difference", "floor", "verdict", "source"),
            _reference_lines(groups),
        ),
        "## Against simple models",
        SIMPLE_MODELS,
        _table_if_any(("model", "metric", "recjax", "bar", "ratio", "verdict"), _bar_lines(groups)),
        *_unjudged(groups),
        "## What falls short, and what was tried",
        markdown.bullets(_shortfalls(groups)) or "Nothing.",
        "## Tuning",
        TUNING,
        *_tuning(groups, trials),
        "## Everything",
        "Train s: median wall time of a training with its validations, on a machine that had other work.",
        *_protocol_tables(groups),
        "## Where",
        _where(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _table_if_any(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    lines = list(lines)
    return markdown.table(header, lines, 2) if lines else "None of these rows is of such a model."


def _grouped(rows: Sequence[QualityRow]) -> Groups:
    """Returns the rows by experiment, one a seed.

    Raises:
      UserError: two rows of one experiment and seed are not of the same training, so that no mean can be had.
    """
    groups: dict[str, dict[int, QualityRow]] = {}
    for row in rows:
        earlier = groups.setdefault(row.experiment, {}).setdefault(row.seed, row)
        if earlier.identity != row.identity:
            raise UserError(
                f"seed {row.seed} of {row.experiment} has two rows of different settings; "
                "remove one, or give one of them another name with --set name=..."
            )
    return {name: list(by_seed.values()) for name, by_seed in groups.items()}


def mean(rows: Sequence[QualityRow], metric: str) -> float:
    """Returns the mean of the metric over the seeds."""
    return float(np.mean([row.quality[metric] for row in rows]))


def _value(rows: Sequence[QualityRow], metric: str) -> str:
    values = [row.quality[metric] for row in rows]
    return f"{np.mean(values):.4f}" + (f" ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def _reaches(reference: Reference, metric: str, value: float) -> bool:
    return not is_better(metric, reference.floor(metric), value)


def _references(name: str, rows: Sequence[QualityRow]) -> list[Reference]:
    """Returns the references of the model that are of the rows' protocol."""
    return [reference for reference in REFERENCES.get(name, ()) if reference.is_for(rows[0].protocol)]


def _reference_lines(groups: Groups) -> Iterable[list[str]]:
    for name in [name for name in REFERENCES if name in groups]:
        for reference in _references(name, groups[name]):
            for metric, expected in reference.metrics.items():
                value = mean(groups[name], metric)
                difference = (
                    f"{value - expected:+.4f}"
                    if metric in ("auc", "logloss")
                    else f"{100 * (value / expected - 1):+.1f}%"
                )
                better = is_better(metric, value, expected)
                verdict = "better" if better else "reaches" if _reaches(reference, metric, value) else SHORT
                yield [
                    name,
                    metric,
                    _value(groups[name], metric),
                    f"{expected:.4f}",
                    difference,
                    f"{reference.floor(metric):.4f}",
                    verdict if reference.gates else markdown.Markup(f"{verdict} (cross-check)"),
                    reference.source,
                ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bar:
    """What a model must clear: `factor` times `value` of the metric, which `of` has."""

    name: str
    metric: str
    of: str
    value: float
    factor: float
    reached: float  # by the model

    @property
    def cleared(self) -> bool:
        """Returns whether an error is lower than the bar, or another metric at least as high."""
        limit = self.factor * self.value
        return self.reached < limit if self.metric in LOWER_IS_BETTER else self.reached >= limit


def _bars(groups: Groups) -> Iterable[_Bar]:
    for name, rows in groups.items():
        sasrec = groups.get("sasrec", ())
        if name in OF_SASREC and sasrec and without_seed(sasrec[0].protocol) == without_seed(rows[0].protocol):
            for metric in ("hr@10", "ndcg@10"):
                yield _bar(name, metric, "sasrec", mean(sasrec, metric), OF_SASREC_RATIO, rows)
        if name.startswith("popularity") or any(reference.gates for reference in _references(name, rows)):
            continue
        linear = groups.get(LINEAR, ())
        if linear and without_seed(linear[0].protocol) == without_seed(rows[0].protocol):
            yield _bar(name, "auc", LINEAR, mean(linear, "auc"), 1.0, rows)
        for simple, metric, factor in (("biases", "rmse", 1.0), ("popularity", "ndcg@10", SIMPLE_MODEL_RATIO)):
            if simple in rows[0].sanity and metric in rows[0].quality:
                value = float(np.mean([row.sanity[simple][metric] for row in rows]))
                yield _bar(name, metric, simple, value, factor, rows)


def _bar(name: str, metric: str, of: str, value: float, factor: float, rows: Sequence[QualityRow]) -> _Bar:
    return _Bar(name=name, metric=metric, of=of, value=value, factor=factor, reached=mean(rows, metric))


def _bar_lines(groups: Groups) -> Iterable[list[str]]:
    for bar in _bars(groups):
        ratio = f"{bar.reached / bar.value:.2f}" if bar.value else "–"
        verdict = "clears" if bar.cleared else SHORT
        recjax = _value(groups[bar.name], bar.metric)
        yield [bar.name, bar.metric, recjax, f"{bar.of} {bar.value:.4f}", ratio, verdict]


def _unjudged(groups: Groups) -> Iterable[str]:
    """Yields one sentence that names the models that nothing above is about, if there are any."""
    barred = {bar.name for bar in _bars(groups)}
    names = [name for name, rows in groups.items() if name not in barred and not _references(name, rows)]
    if names:
        yield f"Without a reference and without a bar under their protocol: {markdown.escape(', '.join(names))}."


def _shortfalls(groups: Groups) -> Iterable[str]:
    bars = list(_bars(groups))
    for name, rows in groups.items():
        missed = [
            f"{metric} {mean(rows, metric):.4f} for {expected:.4f} "
            f"({'' if reference.gates else 'cross-check: '}{reference.source})"
            for reference in _references(name, rows)
            for metric, expected in reference.metrics.items()
            if not _reaches(reference, metric, mean(rows, metric))
        ]
        missed += [
            f"{bar.metric} {bar.reached:.4f} where {bar.factor:g} x {bar.of} is {bar.factor * bar.value:.4f}"
            for bar in bars
            if bar.name == name and not bar.cleared
        ]
        if missed:
            tried = TRIED.get(name, "Nothing is written down of what was tried.")
            yield f"**{markdown.escape(name)}**: {markdown.escape('; '.join(missed))}. {tried}"


def _tuning(groups: Groups, trials: Sequence[Trial]) -> Iterable[str]:
    """Yields a table of the models' stored trials, one line a seed, then who has none, and who was tuned where."""
    stored: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        if trial.experiment in groups:
            stored.setdefault((trial.experiment, trial.seed), []).append(trial)
    lines = []
    for (name, seed), tried in sorted(stored.items()):
        best, diverged = best_first(tried)[0], sum(trial.validation is None for trial in tried)
        start = next((trial for trial in tried if not trial.overrides), None)
        lines.append(
            [
                name,
                f"{len(tried)}" + (f" ({diverged} diverged)" if diverged else ""),
                str(seed),
                best.metric,
                in_figures(start) if start else "–",
                in_figures(best),
                in_words(best.overrides),
                _config_has(best, groups[name][-1]),
            ]
        )
    if lines:
        header = ("model", "trials", "split seed", "metric", "as it stood", "best", "settings of the best", "taken")
        yield markdown.table(header, lines, 1)
    if untuned := [name for name in groups if name not in {name for name, _ in stored}]:
        yield f"No trials are stored of: {markdown.escape(', '.join(untuned))}."
    if shared := [name for name, seed in stored if seed in {row.seed for row in groups[name]}]:
        yield f"Tuned under a seed that is measured here too: {markdown.escape(', '.join(shared))}."


def _config_has(best: Trial, row: QualityRow) -> str:
    """Returns whether the row's config file has the trial's settings; a dash where it cannot be told."""
    if not Path(row.config).is_file():
        return "–"
    experiment = load_config(row.config, row.overrides)
    if best.overrides:
        return "yes" if apply(experiment, best.overrides) == experiment else "no"
    # As it stood then: a file that was changed since, or a default of the code, cannot be told from another choice.
    return "yes" if digest(reseeded(experiment, best.seed)) == best.identity else "–"


def _protocol_tables(groups: Groups) -> Iterable[str]:
    """Yields a heading and a table for each protocol: its models, and the sanity models of the one of most seeds."""
    by_protocol: dict[str, list[str]] = {}
    for name, rows in groups.items():
        by_protocol.setdefault(without_seed(rows[0].protocol), []).append(name)
    for protocol, names in by_protocol.items():
        first = max((groups[name] for name in names), key=len)
        metrics = _shown(first[0])
        yield f"### {markdown.escape(protocol)}"
        sanity = [
            [
                f"({simple})",
                str(len(first)),
                *(f"{np.mean([row.sanity[simple][metric] for row in first]):.4f}" for metric in metrics),
                "",
            ]
            for simple in first[0].sanity
        ]
        lines = [
            [
                name,
                str(len(groups[name])),
                *(_value(groups[name], metric) for metric in metrics),
                f"{np.median([row.train_s for row in groups[name]]):.0f}",
            ]
            for name in names
        ]
        yield markdown.table(("model", "seeds", *metrics, "train s"), [*sanity, *lines], 1)


def _shown(row: QualityRow) -> list[str]:
    """Returns the metrics of the tables: those at 10 if one of them chose the epoch, else all; gaps stay in rows."""
    names = [name for name in row.quality if "/gap(" not in name]
    at_ten = [name for name in names if name.partition("/")[0].endswith("@10")]
    return at_ten if row.metric in at_ten else names


def _where(rows: Sequence[QualityRow]) -> str:
    def distinct(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    def commit(git: Mapping[str, Any]) -> str:
        return (git["commit"] or "unknown")[:10] + (" with uncommitted changes" if git["modified"] else "")

    commits = distinct(commit(row.environment["git"]) for row in rows)
    return markdown.bullets(
        [
            f"Devices: {markdown.escape(distinct(row.environment['device'] for row in rows))}",
            f"JAX: {distinct(row.environment['versions']['jax'] for row in rows)}",
            f"Commits: {commits}",
        ]
    )
