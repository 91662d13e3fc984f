"""Which trials are worth a second look, which one is chosen, and how all of it is printed and stored.

Two objectives: samples a second within the latency limit, and quality. A serving engineer pays for the first and is
asked about the second. Memory and price are limits instead: below them nothing is gained by less, and the price is the
rate's reciprocal anyway.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from recjax.evaluation import is_better
from recjax.tuning.remeasure import Remeasured
from recjax.tuning.trial import Trial
from recjax.whole_files import write_whole

MOST_FINALISTS = 6
RUNNERS_UP = 2  # behind the frontier, because the probes that selected it were short


def frontier_of(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Returns the complete trials that no other one beats in rate and in validation quality, fastest first."""
    complete = [trial for trial in trials if trial.state == "complete"]
    found: list[Trial] = []
    for trial in sorted(complete, key=lambda one: (-_rate(one), one.number)):
        assert trial.validation is not None
        best = found[-1].validation if found else None
        if best is None or is_better(metric, trial.validation, best):
            found.append(trial)
    return found


def finalists(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Returns what is measured anew beside the baseline, fastest first: the frontier, and the fastest behind it."""
    frontier = frontier_of(trials, metric)
    behind = [trial for trial in trials if trial.state == "complete" and trial not in frontier]
    behind = sorted(behind, key=_rate, reverse=True)[:RUNNERS_UP]
    kept = frontier[: MOST_FINALISTS - len(behind)]
    return sorted([*kept, *behind], key=_rate, reverse=True)


def last_ones(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Returns what the last measurement measures: the finalists, and the baseline if there is one."""
    chosen, baseline = finalists(trials, metric), baseline_of(trials)
    return chosen if baseline is None or baseline in chosen else [*chosen, baseline]


def baseline_of(trials: Sequence[Trial]) -> Trial | None:
    """Returns the first trial without transforms that holds the limits: the config as it stands, unless it does not."""
    return next((trial for trial in trials if trial.state == "complete" and not trial.transforms), None)


def choose(remeasured: Mapping[int, Remeasured]) -> int | None:
    """Returns the number of the trial with the highest confirmed rate within all limits, None if there is none."""
    able = {number: one for number, one in remeasured.items() if one.fault is None and one.confirmed}
    return max(able, key=lambda number: able[number].samples_per_s) if able else None


def write_frontier(
    file: Path, trials: Sequence[Trial], remeasured: Mapping[int, Remeasured], chosen: int | None, metric: str
) -> None:
    """Writes every trial as one line of JSON: what was measured of it, and anew of the finalists."""
    on_frontier = {trial.number for trial in frontier_of(trials, metric)}
    lines = []
    for trial in trials:
        again = remeasured.get(trial.number)
        line = trial.to_json() | {
            "on_frontier": trial.number in on_frontier,
            "chosen": trial.number == chosen,
            "remeasured": None if again is None else again.to_json(),
        }
        if again is None:
            line["reasons"] = trial.reasons | {"remeasured": trial.reason or "it was not among the finalists"}
        lines.append(json.dumps(line, allow_nan=False) + "\n")
    write_whole(file, lambda output: output.write("".join(lines).encode()))


def frontier_table(
    trials: Sequence[Trial], remeasured: Mapping[int, Remeasured], chosen: int | None, metric: str
) -> Table:
    """Returns the finalists and the baseline, fastest first; every figure is of windows that selected nothing."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "trial", "samples/s", "of fp32", "p99 ms", "MB", f"test {metric}", "of fp32 [95%]"):
        table.add_column(title, justify="right")
    table.add_column("transforms, buckets", overflow="fold")
    by_number = {trial.number: trial for trial in trials}
    for number in sorted(remeasured, key=lambda one: -remeasured[one].samples_per_s):
        one, trial = remeasured[number], by_number[number]
        rate = f"{one.samples_per_s:,.0f}" if one.confirmed else f"< {one.samples_per_s:,.0f}"
        table.add_row(
            "*" if number == chosen else "",
            str(number),
            rate,
            "–" if one.over_baseline is None else f"{one.over_baseline:.2f}",
            "–" if one.p99_ms is None else f"{one.p99_ms[0]:.2f}",
            "–" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e6:.1f}",
            f"{one.test:.4f}",
            "–" if one.test_share is None else f"{one.test_share:.4f} {_brackets(one.test_share_ci95)}",
            f"{trial.candidate.label}{'' if one.fault is None else f': {one.fault}'}",
        )
    return table


def pruned_in_words(trials: Sequence[Trial]) -> str:
    """Returns how many trials there were, and how many of them each stage pruned."""
    counts: dict[str, int] = {}
    for trial in trials:
        if trial.stage:
            counts[trial.stage] = counts.get(trial.stage, 0) + 1
    pruned = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{len(trials)} trial{'s' if len(trials) != 1 else ''}" + (f"; pruned by {pruned}" if pruned else "")


def _rate(trial: Trial) -> float:
    return trial.rate_samples_per_s or 0.0


def _brackets(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]"
