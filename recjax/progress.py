"""Progress of anything that takes more than two seconds: a bar with time left, then one line that stays."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

Advance = Callable[[str], None]


@contextlib.contextmanager
def stage(description: str, total: int) -> Iterator[Advance]:
    """Yields `advance(note)`, to be called after each of `total` steps; the last note stays on the final line.

    On a terminal a bar with elapsed and remaining time shows while the stage runs; elsewhere (a log) only
    the final line is printed.
    """
    started = time.perf_counter()
    last_note = ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(note: str = "") -> None:
            nonlocal last_note
            last_note = note
            progress.update(task, advance=1, note=note)

        yield advance
    console.print(f"{description:<58} {time.perf_counter() - started:6.1f} s  {last_note}".rstrip(), markup=False)
