"""The table of a peers run, on the terminal and in `peers.md`."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import markdown
from benchmarks.peers.rows import PeerRow, verdict
from recjax.measurement.host_noise import BUSY

HEADER = ("workload", "batch", "peer", "median ms", "CPU ms", "over recjax", "95% interval", "is", "difference")
N_LEFT, NOTHING, WIDTH = 3, "–", 120


def print_rows(rows: Sequence[PeerRow]) -> None:
    """Prints the table and the notes."""
    console = Console(highlight=False, width=max(WIDTH, Console().width))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="left" if index < N_LEFT and index != 1 else "right", no_wrap=True)
    for last, row in zip([*rows[1:], None], rows, strict=True):
        ends = last is None or (last.workload, last.batch_size) != (row.workload, row.batch_size)
        table.add_row(*map(Text, table_line(row)), end_section=ends)
    console.print(table)
    for note in notes(rows):
        console.print(Text(note))


def table_line(row: PeerRow) -> tuple[str, ...]:
    """Returns the cells of a row, under HEADER."""
    compared = (NOTHING, NOTHING, NOTHING)
    if row.ratio:
        ends = NOTHING if row.ratio["ci95"] is None else "{:.2f} to {:.2f}".format(*row.ratio["ci95"])
        compared = (f"{row.ratio['median']:.2f}", ends, verdict(row))
    return (
        row.workload,
        f"{row.batch_size:,}",
        row.peer,
        NOTHING if row.median_ms is None else f"{row.median_ms:.3g}",
        NOTHING if row.cpu_ms is None else f"{sum(row.cpu_ms) / len(row.cpu_ms):.3g}",
        *compared,
        NOTHING if row.largest_difference is None else f"{row.largest_difference:.1e}",
    )


def render(rows: Sequence[PeerRow]) -> str:
    """Returns the whole of `peers.md`."""
    facts = markdown.bullets(markdown.environment_facts(rows[0].environment))
    body = markdown.table(HEADER, map(table_line, rows), N_LEFT)
    return "\n\n".join(["# Peers", facts, body, markdown.bullets(map(markdown.escape, notes(rows)))]) + "\n"


def notes(rows: Sequence[PeerRow]) -> list[str]:
    """Returns what the figures are, the sizes, the versions, and each reason for a missing figure once."""
    first, loads, shares = rows[0], list[float](), list[float]()
    for row in rows:
        loads += row.environment["noise"]["load_1m"] or []
        shares += [row.environment["others_share"]] if row.environment["others_share"] is not None else []
    lines = [
        f"Inputs are {first.inputs}",
        *(dict.fromkeys(f"{row.workload}: {_sizes(row)}" for row in rows)),
        f"Each peer has {first.threads} threads and a process of its own; one computes at a time",
        "Over recjax: the peer's time by recjax's, above 1 where recjax is faster; medians of a round's calls, the "
        "median over rounds, and its interval by bootstrap over rounds",
        f"Difference: largest |answer - recjax's| / max(1, |recjax's|); no row above {first.tolerance:g} has times",
    ]
    if loads:
        lines.append(f"Load of the machine during the turns: {min(loads):.1f} to {max(loads):.1f}")
    if shares:
        busy = (
            f"; above {BUSY:.0%} times are not to be trusted, and OpenMP's peers suffer most"
            if max(shares) > BUSY
            else ""
        )
        lines.append(f"Other programs took {min(shares):.0%} to {max(shares):.0%} of its processor time{busy}")
    return [*lines, *dict.fromkeys(_versions(rows)), *_reasons(rows)]


def _sizes(row: PeerRow) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.sizes.items())


def _versions(rows: Sequence[PeerRow]) -> Iterator[str]:
    for row in rows:
        if row.versions:
            yield f"{row.peer}: {', '.join(f'{name} {version}' for name, version in row.versions.items())}; {row.mode}"


def _reasons(rows: Sequence[PeerRow]) -> Iterator[str]:
    """Yields why rows have no times, with the rows of one reason together."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.median_ms is None:
            where.setdefault((row.peer, row.reasons["median_ms"]), []).append(f"{row.workload} {row.batch_size}")
    for (peer, reason), places in where.items():
        yield f"No times of {peer} at {', '.join(places)}: {reason}"
