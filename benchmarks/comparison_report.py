"""A comparison as a terminal table and as Markdown for a pull request."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import markdown
from benchmarks.comparable import in_words
from benchmarks.comparison import Compared, Comparison
from benchmarks.figure_tests import Figure, Verdict
from benchmarks.quality_changes import QualityChange

FIGURES = ("p50", "samples/s", "p99")
HEADER = ("row", "verdict", *(f"{name}, B/A" for name in FIGURES))
STYLES = {"invalid": "red", "slower": "red", "faster": "green", "same": "", "not comparable": "dim"}
UNSURE = "same ?"
NOTHING = "–"
WITH_REASONS: tuple[Verdict, ...] = ("invalid", "not comparable")
LISTED = 4  # rows that share a reason, on the terminal


def summary_line(comparison: Comparison) -> str:
    """Returns how many rows have which verdict, how many of A's are lost, and the models' quality, in one line."""
    counts = [f"{len(comparison.of('slower'))} slower", f"{len(comparison.of('faster'))} faster"]
    counts.append(f"{len(comparison.of('same'))} the same")
    if comparison.of("invalid"):
        counts.insert(0, f"{len(comparison.of('invalid'))} became invalid")
    if comparison.of("not comparable"):
        counts.append(f"{len(comparison.of('not comparable'))} not comparable")
    lost = sum(change.lost for change in comparison.qualities)
    quality = f"quality changed in {len(comparison.qualities)} of {comparison.n_models} variants, lost in {lost}"
    missing = f"{comparison.n_lost} row{'s' * (comparison.n_lost > 1)} of A missing in B; " if comparison.n_lost else ""
    return f"{len(comparison.rows)} rows: {', '.join(counts)}; {missing}{quality}"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints what differs between the runs, the table, worst first, what is not comparable and why, and the summary."""
    console.print(Text(f"A {comparison.names[0]}\nB {comparison.names[1]}", style="bold"))
    for difference in comparison.differences:
        console.print(Text(f"differs: {in_words(difference)}", style="dim"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="right" if index > 1 else "left", no_wrap=index > 0)
    for row in comparison.rows:
        cells = [Text(cell) for cell in _cells(row, comparison)]
        for cell, name in zip(cells[2:], FIGURES, strict=True):
            figure = _figure(row, name)
            cell.stylize(STYLES[figure.verdict] if figure else "")
        table.add_row(*cells, style=STYLES[row.verdict] if row.reason else "")
    console.print(table)
    for verdict in WITH_REASONS:
        for reason, names in _reasons(comparison, verdict).items():
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            console.print(Text(f"{verdict}, {reason}: {'; '.join(names[:LISTED])}{more}", style=STYLES[verdict]))
    for change in comparison.qualities:
        console.print(Text(_quality(change), style="red" if change.lost else ""))
    for note in _notes(comparison):
        console.print(Text(note, style="dim"))
    console.print(Text(summary_line(comparison), style="bold"))


def render_comparison(comparison: Comparison) -> str:
    """Returns the comparison as Markdown, the summary first."""
    names = (f"{side}: {markdown.escape(name)}" for side, name in zip("AB", comparison.names, strict=True))
    table = markdown.table(HEADER, [_cells(row, comparison) for row in comparison.rows], n_left=2)
    parts = [f"**{summary_line(comparison)}**", "; ".join(names), table]
    lists = {
        "Quality": [_quality(change) for change in comparison.qualities],
        **{
            verdict.capitalize(): [f"{why}: {'; '.join(names)}" for why, names in _reasons(comparison, verdict).items()]
            for verdict in WITH_REASONS
        },
        "Other differences between the runs": [in_words(difference) for difference in comparison.differences],
        "How to read it": _notes(comparison),
    }
    for title, lines in lists.items():
        if lines:
            parts.append(f"{title}:\n\n{markdown.bullets(map(markdown.escape, lines))}")
    return "\n\n".join(parts) + "\n"


def _cells(row: Compared, comparison: Comparison) -> tuple[str, ...]:
    verdict: str = UNSURE if row in comparison.unsure else row.verdict
    return (row.name, verdict, *(_cell(_figure(row, name)) for name in FIGURES))


def _cell(figure: Figure | None) -> str:
    """Returns a ratio with its interval, as in "1.100 [1.07, 1.13]"; a star marks what a verdict is of."""
    if figure is None:
        return NOTHING
    ends = "" if figure.low is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{'*' * (figure.verdict != 'same')}{figure.ratio:.3f}{ends}"


def _figure(row: Compared, name: str) -> Figure | None:
    return next((figure for figure in row.figures if figure.name == name), None)


def _reasons(comparison: Comparison, verdict: Verdict) -> dict[str, list[str]]:
    """Returns the rows of that verdict by the reason."""
    reasons: dict[str, list[str]] = {}
    for row in comparison.of(verdict):
        reasons.setdefault(row.reason or "", []).append(row.name)
    return reasons


def _quality(change: QualityChange) -> str:
    word = "lost" if change.lost else "changed"
    values = f"{change.metric} {change.before:.4f} to {change.after:.4f}"
    return f"quality {word}: {change.case}: {values}; {change.in_words}"


def _notes(comparison: Comparison) -> list[str]:
    share = f"{comparison.threshold:.3g}"
    how = "processes in pairs" if comparison.paired else "as two runs made apart"
    notes = [
        f"B/A with its 95% interval, {how}; * a change by more than {share} that the noise between processes does not "
        "explain (false discovery rate 5% over all figures)"
    ]
    if comparison.unsure:
        notes.append(
            f"{UNSURE}: no change was found, but the interval leaves room for a median slower by more than {share}; "
            "more processes narrow it"
        )
    return notes
