"""Two runs, row by row: the ratio of each figure with its interval, and a verdict.

What no interval of two runs made apart can know is how the machine changed in between. Runs in turns (benchmarks.turns)
leave it no time, and `paired` compares their processes in pairs.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.comparable import (
    MIN_PROCESSES,
    Difference,
    differences_of,
    no_process_held,
    other_differences,
    rate_held,
    why_not_comparable,
)
from benchmarks.figure_tests import Figure, Verdict, figures_of, judge, ratios_of
from benchmarks.quality_changes import QualityChange, quality_changes
from benchmarks.results import Row, RowSamples
from benchmarks.summary import row_name
from recjax.load.checks import GENERATOR_FELL_BEHIND

THRESHOLD = 0.05  # a smaller change is not called one
WORST_FIRST: Sequence[Verdict] = ("invalid", "slower", "same", "faster", "not comparable")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Rows and samples of a run, both by `samples_key`."""

    name: str
    rows: Mapping[str, Row]
    samples: Mapping[str, RowSamples]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A row of A, of B or of both.

    Attributes:
      name: of the row, in words.
      verdict: slower if one of the figures is, else faster if one is; invalid if B's system has a fault that A's had
        not, or holds no rate where A held one.
      figures: that both rows have; without intervals where the rows are not comparable.
      reason: why they are not, or B's fault.
    """

    name: str
    verdict: Verdict
    figures: tuple[Figure, ...] = ()
    reason: str | None = None

    @property
    def worst(self) -> float:
        """Returns the largest slowdown of the median that its interval leaves possible."""
        return next((figure.worst for figure in self.figures if figure.name == "p50" and figure.worst), math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rows of two runs, worst first, and what else differs between the runs."""

    names: tuple[str, str]
    rows: tuple[Compared, ...]
    qualities: tuple[QualityChange, ...]
    n_lost: int  # rows of A that B has not
    n_models: int  # whose qualities were compared
    differences: tuple[Difference, ...]
    threshold: float
    paired: bool

    def of(self, verdict: Verdict) -> list[Compared]:
        """Returns the rows of one verdict."""
        return [row for row in self.rows if row.verdict == verdict]

    @property
    def unsure(self) -> list[Compared]:
        """Returns the rows called the same whose median may have become slower by more than the threshold."""
        return [row for row in self.of("same") if row.worst > 1 + self.threshold]

    @property
    def is_worse(self) -> bool:
        """Returns whether something is slower, became invalid or lost quality."""
        return bool(self.of("slower") or self.of("invalid")) or any(change.lost for change in self.qualities)


def compare_runs(a: Run, b: Run, *, threshold: float = THRESHOLD, paired: bool = False) -> Comparison:
    """Returns the comparison of two runs.

    Args:
      a: the run before.
      b: the run after.
      threshold: share by which a figure must have changed to be called different.
      paired: whether process k of B is compared with process k of A, beside which it ran.
    """
    pairs = {key: (row, b.rows[key]) for key, row in a.rows.items() if key in b.rows}
    reasons = {key: _why_not(key, a, b, paired=paired) for key in pairs}
    figures = {
        key: figures_of(of_both, (a.samples[key], b.samples[key]), paired=paired)
        for key, of_both in pairs.items()
        if reasons[key] is None
    }
    judged = iter(judge([figure for of_row in figures.values() for figure in of_row], threshold))
    rows = []
    for key, (before, after) in pairs.items():
        if key in figures:
            of_row = tuple(next(judged) for _ in figures[key])
            rows.append(Compared(name=row_name(before), verdict=_verdict(of_row), figures=of_row))
        else:
            plain = tuple(ratios_of(before, after))
            broke = _broke(before, after)
            verdict: Verdict = "invalid" if broke else "not comparable"
            reason = after.invalid_reason if broke else reasons[key]
            rows.append(Compared(name=row_name(before), verdict=verdict, figures=plain, reason=reason))
    qualities, n_models = quality_changes(pairs.values(), threshold)
    return Comparison(
        names=(a.name, b.name),
        rows=tuple(sorted([*rows, *_alone("A", a, b), *_alone("B", b, a)], key=_worst_first)),
        qualities=tuple(qualities),
        n_lost=len(a.rows) - len(pairs),
        n_models=n_models,
        differences=tuple(other_differences(pairs.values())),
        threshold=threshold,
        paired=paired,
    )


def _broke(before: Row, after: Row) -> bool:
    """Returns whether B's system has a fault that A's had not, or held no rate in any process, asked as A's was.

    That only some processes held a rate, or that the load generator fell behind, is often the machine's doing.
    """
    if not before.valid or after.valid or (after.invalid_reason or "").startswith(GENERATOR_FELL_BEHIND):
        return False
    search = after.search or {}
    of_search = search["no_rate"] is not None if "no_rate" in search else not rate_held(after)  # version 4 has none
    return not of_search or (no_process_held(after) and not differences_of(before, after))


def _why_not(key: str, a: Run, b: Run, *, paired: bool) -> str | None:
    reason = why_not_comparable(a.rows[key], b.rows[key])
    if reason is not None:
        return reason
    for name, run in (("A", a), ("B", b)):
        if key not in run.samples:
            return f"{name} has no samples of it: its samples.npz belongs beside its results.jsonl"
        if len(run.samples[key].latency_ms) != run.rows[key].latency_ms["n"]:
            return f"the samples.npz of {name} is of another run"
        few = len(set(run.samples[key].processes))
        if few < MIN_PROCESSES:
            return f"{few} of the processes of {name} held the row's rate; {MIN_PROCESSES} are needed"
    if paired and set(a.samples[key].processes) != set(b.samples[key].processes):
        return "other processes on the two sides: they cannot be compared in pairs"
    return None


def _verdict(figures: Iterable[Figure]) -> Verdict:
    found = {figure.verdict for figure in figures}
    order: Sequence[Verdict] = ("slower", "faster", "same")
    return next(verdict for verdict in order if verdict in found)


def _alone(name: str, run: Run, other: Run) -> list[Compared]:
    rows = []
    for key, row in run.rows.items():
        if key not in other.rows:
            sizes = [o.batch_size for o in other.rows.values() if (o.case, o.scenario) == (row.case, row.scenario)]
            elsewhere = f"; the other run has it at batch {', '.join(map(str, sizes))}" if sizes else ""
            rows.append(Compared(name=row_name(row), verdict="not comparable", reason=f"only in {name}{elsewhere}"))
    return rows


def _worst_first(row: Compared) -> tuple[int, float]:
    return WORST_FIRST.index(row.verdict), -max((figure.slowdown for figure in row.figures[:1]), default=1.0)
