"""The simulation by which the rule of benchmarks.figure_tests was chosen: what is called different, and what is found?

Figures of processes are lognormal, with deviations as in runs on two shared cores: 3% for a median, 5% for samples/s
and 25% for p99, each row's own by a factor of about 1.5 either way; rows that one process measured share part of its
luck, and a median and a rate most of theirs. `pytest -m slow tests/benchmarks/test_comparison_rule.py -s` has a table.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from benchmarks.figure_tests import FALSE_DISCOVERIES, Figure, judge

RUNS, ROWS = 400, 20
SHARED = 0.4  # of the variance of a process
THRESHOLD = 0.05
FIGURES = ("p50", "samples/s", "p99")

pytestmark = pytest.mark.slow


def draw(rng: np.random.Generator, n: int, slow: int, *, turns: bool) -> list[Figure]:
    """Returns the figures of two runs of n processes, in which the first rows of B are a tenth slower.

    Runs in turns are compared in pairs of processes; half of the variance is of the moment, which both share.
    """
    luck = math.sqrt(SHARED) * rng.normal(size=(2, n, 1)) + math.sqrt(1 - SHARED) * rng.normal(size=(2, n, ROWS))
    if turns:
        luck = (luck + (luck[:1] + rng.normal(size=(1, n, ROWS))) / math.sqrt(2)) / math.sqrt(2)
    own = 0.03 * np.exp(rng.normal(0, 0.4, ROWS))
    log_p50 = own * luck
    log_rate = -1.2 * log_p50 + 1.2 * own * rng.normal(size=luck.shape)
    log_p99 = rng.normal(0, 0.25, luck.shape)
    figures = []
    for name, logs, sign in zip(FIGURES, (log_p50, log_rate, log_p99), (1, -1, 1), strict=True):
        logs[1, :, :slow] += sign * math.log(1.1)
        figures += [figure(name, logs[0, :, row], logs[1, :, row], paired=turns) for row in range(ROWS)]
    return figures


def figure(name: str, before: NDArray, after: NDArray, *, paired: bool) -> Figure:
    ratio = math.exp(after.mean() - before.mean())
    test: Callable = scipy.stats.ttest_rel if paired else scipy.stats.ttest_ind
    found = test(after, before, **({} if paired else {"equal_var": False}))
    return Figure(name=name, ratio=ratio, p_value=float(found.pvalue))


def uncorrected(figures: list[Figure], threshold: float) -> list[str]:
    return [judge([one], threshold)[0].verdict for one in figures]


def holm(figures: list[Figure], threshold: float) -> list[str]:
    verdicts = ["same"] * len(figures)
    for rank, index in enumerate(np.argsort([one.p_value for one in figures])):
        if figures[index].p_value * (len(figures) - rank) > FALSE_DISCOVERIES:
            break
        verdicts[index] = judge([figures[index]], threshold)[0].verdict
    return verdicts


def chosen(figures: list[Figure], threshold: float) -> list[str]:
    return [one.verdict for one in judge(figures, threshold)]


def slower_rows(verdicts: list[str]) -> int:
    """Returns how many rows have a figure that is slower or faster."""
    return sum(any(verdicts[row + ROWS * index] != "same" for index in range(3)) for row in range(ROWS))


def outcome(rule: Callable, n: int, *, turns: bool, figures: int = 3) -> tuple[float, float, float]:
    """Returns how often at most one of 20 equal rows differs, the share found of 20 slow rows, and of a single one."""
    rng = np.random.default_rng([n, turns])
    equal, found, single = 0, 0, 0
    for _ in range(RUNS):
        equal += slower_rows(rule(draw(rng, n, 0, turns=turns), THRESHOLD)) <= 1
        found += slower_rows(rule(draw(rng, n, ROWS, turns=turns), THRESHOLD))
        one = rule(draw(rng, n, 1, turns=turns), THRESHOLD)
        single += any(one[ROWS * index] != "same" for index in range(3))
    return equal / RUNS, found / RUNS / ROWS, single / RUNS


def test_the_rule_among_others() -> None:
    table = {
        (rule.__name__, n, turns): outcome(rule, n, turns=turns)
        for n in (3, 5, 8, 10)
        for turns in (False, True)
        for rule in (uncorrected, holm, chosen)
    }
    print(
        "\nrule          processes  how    at most 1 of 20 equal rows differs  of 20 slow rows found  of a single one"
    )
    for (rule, n, turns), (equal, found, single) in table.items():
        how = "turns" if turns else "apart"
        print(f"{rule:12}  {n:9}  {how}  {equal:34.3f}  {found:21.3f}  {single:15.3f}")
    assert all(table["chosen", n, turns][0] >= 0.98 for n in (3, 5, 8, 10) for turns in (False, True))
    assert all(table["uncorrected", n, turns][0] < 0.9 for n in (3, 5, 8, 10) for turns in (False, True))
    assert table["chosen", 8, True][1] >= 0.98
    assert table["chosen", 10, True][1:] >= (0.99, 0.9)
    assert table["chosen", 5, True][1] > table["holm", 5, True][1]
