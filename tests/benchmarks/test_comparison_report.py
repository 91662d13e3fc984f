import dataclasses
import io

import numpy as np
from compared_runs import draw_samples, make_run
from rich.console import Console

from benchmarks.comparison import Comparison, compare_runs
from benchmarks.comparison_report import print_comparison, render_comparison, summary_line


def example() -> Comparison:
    rng = np.random.default_rng(0)
    factors = {"slow/fp32": 1.3, "fast/fp32": 0.7, "same/fp32": 1.0}
    a = make_run("runs/before", {case: draw_samples(rng) for case in [*factors, "late/fp32", "late/int8"]})
    b = make_run("runs/a_b", {case: draw_samples(rng, factors.get(case, 1.5)) for case in [*factors, "late/fp32"]})
    rows = {
        key: dataclasses.replace(row, valid=False, invalid_reason="late") if "late" in key else row
        for key, row in b.rows.items()
    }
    key = next(key for key in rows if "fast" in key)
    rows[key] = dataclasses.replace(rows[key], quality={"ndcg@10": 0.125, "mrr": 0.125})
    rows[key].environment["versions"] = {"jax": "0.13.0"}
    return compare_runs(a, dataclasses.replace(b, rows=rows))


def printed(comparison: Comparison) -> str:
    output = io.StringIO()
    print_comparison(comparison, Console(file=output, width=160))
    return output.getvalue()


SUMMARY = (
    "5 rows: 1 became invalid, 1 slower, 1 faster, 1 the same, 1 not comparable; 1 row of A missing in B; "
    "quality changed in 1 of 4 variants, lost in 1"
)


def test_the_terminal_has_the_table_worst_first_and_the_summary_last() -> None:
    text = printed(example())
    lines = text.splitlines()
    assert lines[:3] == ["A runs/before", "B runs/a_b", "differs: versions.jax (A 0.12.0, B 0.13.0)"]
    order = [text.index(f"{name} / fp32, offline, batch 16") for name in ("late", "slow", "same", "fast")]
    assert order == sorted(order)
    slow = next(line for line in lines if line.startswith("slow"))
    assert slow.split()[6] == "slower"
    assert slow.count("*") == 3
    assert "*1.3" in slow
    assert "invalid, late: late / fp32, offline, batch 16" in text
    assert "not comparable, only in A: late / int8, offline, batch 16" in text
    assert "quality lost: fast/fp32: ndcg@10 0.2500 to 0.1250; x0.500; a loss of 5.0% is allowed" in text
    assert lines[-1] == SUMMARY == summary_line(example())


def test_markdown_begins_with_the_summary_and_escapes_names() -> None:
    lines = render_comparison(example()).splitlines()
    assert lines[0] == f"**{SUMMARY}**"
    assert lines[2] == "A: runs/before; B: runs/a\\_b"
    assert lines[4] == "| row | verdict | p50, B/A | samples/s, B/A | p99, B/A |"
    assert lines[6].startswith("| late / fp32, offline, batch 16 | invalid |")
    assert lines[7].startswith("| slow / fp32, offline, batch 16 | slower | \\*1.")
    assert sum(line.startswith("| ") for line in lines) == 7
    for title in ("Quality:", "Invalid:", "Not comparable:", "Other differences between the runs:", "How to read it:"):
        assert title in lines


def test_an_unsure_row_says_so() -> None:
    rng = np.random.default_rng(1)
    noisy = (make_run(name, {"m/fp32": draw_samples(rng, effect=0.2)}) for name in "AB")
    text = printed(compare_runs(*noisy, paired=True))
    assert "same ?" in text
    assert "the interval leaves room for a median slower by more than 0.05" in text
    assert "processes in pairs" in text


def test_many_rows_of_one_reason_are_counted() -> None:
    rng = np.random.default_rng(2)
    samples = {f"m{number}/fp32": draw_samples(rng) for number in range(7)}
    text = printed(compare_runs(make_run("A", samples, processes=1), make_run("B", samples, processes=1)))
    assert "m3 / fp32, offline, batch 16 and 3 more" in " ".join(text.split())
    assert "–" not in text


def test_rows_that_b_lacks_are_counted_and_rows_that_it_adds_are_not() -> None:
    rng = np.random.default_rng(3)
    samples = {f"m{number}/fp32": draw_samples(rng) for number in range(3)}
    more, fewer = make_run("more", samples), make_run("fewer", {"m0/fp32": samples["m0/fp32"]})
    assert "2 not comparable; 2 rows of A missing in B; quality" in summary_line(compare_runs(more, fewer))
    assert "missing" not in summary_line(compare_runs(fewer, more))
