"""What `benchmarks.compare` says of the three runs of `benchmarks.compare_check`."""

import dataclasses
from pathlib import Path

from benchmarks.compare import load_run
from benchmarks.comparison import Comparison, compare_runs
from benchmarks.comparison_report import print_comparison, render_comparison, summary_line
from benchmarks.report import wide_console

MAX_DIFFERENT = 0.05  # of the rows of two runs of one revision


def judge_runs(folder: Path) -> int:
    """Prints and writes both comparisons, and returns 0 if they say what is known, else 1.

    Args:
      folder: with the runs `first`, `second` and `slowed`, measured in turns.
    """
    names = ("first", "second", "slowed")
    runs = {name: dataclasses.replace(load_run(folder / name), name=name) for name in names}
    console = wide_console()
    found: dict[tuple[str, bool], Comparison] = {}
    for after in ("second", "slowed"):
        for paired in (True, False):
            found[after, paired] = compare_runs(runs["first"], runs[after], paired=paired)
        print_comparison(found[after, True], console)
        text = render_comparison(found[after, True])
        (folder / f"first-{after}.md").write_text(text, encoding="utf-8")
    for (after, paired), comparison in found.items():
        how = "processes in pairs" if paired else "as two runs made apart"
        console.print(f"first and {after}, {how}: {summary_line(comparison)}", markup=False)
    repeated, slowed = found["second", True], found["slowed", True]
    same = len(repeated.of("same")) >= (1 - MAX_DIFFERENT) * len(repeated.rows)
    return 0 if same and len(slowed.of("slower")) == len(slowed.rows) else 1
