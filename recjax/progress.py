"""Progress of anything that takes more than two seconds: a bar with time left, then one line that stays."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

LOG_EVERY_S = 30.0  # a log hears of a long stage this often


class Advance(Protocol):
    """Counts one step of a stage as done."""

    def __call__(self, note: str = "", remaining: int | None = None) -> None:
        """Shows the note; `remaining` steps are left, if that is not what `stage` was told."""


@contextlib.contextmanager
def stage(description: str, total: int) -> Iterator[Advance]:
    """Yields `advance(note)`, to be called after each of `total` steps; the last note stays on the final line.

    On a terminal a bar with elapsed and remaining time shows while the stage runs; elsewhere (a log) there is the
    final line, and before it one every LOG_EVERY_S.
    """
    started = logged = time.perf_counter()
    last_note, done = "", 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(note: str = "", remaining: int | None = None) -> None:
            nonlocal last_note, done, logged, total
            last_note, done, now = note, done + 1, time.perf_counter()
            if remaining is not None:
                total = done + remaining
            progress.update(task, advance=1, total=total, note=note)
            if not console.is_terminal and now - logged > LOG_EVERY_S and done < total:
                left_s = (now - started) / done * (total - done)
                console.print(f"{description:<58} {done} of {total}, about {left_s:.0f} s left  {note}", markup=False)
                logged = now

        yield advance
    console.print(f"{description:<58} {time.perf_counter() - started:6.1f} s  {last_note}".rstrip(), markup=False)
