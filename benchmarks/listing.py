"""The table of `--list`: every suite, what it runs, and under which names."""

from rich.console import Console
from rich.table import Table

from benchmarks.suite import load_suite, suite_names

LISTED = 8  # variants of a case


def print_suites() -> None:
    """Prints the suites of configs/suites/ to standard output."""
    table = Table(title="suites (python -m benchmarks.run --suite=NAME)")
    for name in ("suite", "experiment"):
        table.add_column(name, no_wrap=True)
    for name in ("variants", "batch sizes"):
        table.add_column(name, overflow="fold")
    for name in suite_names():
        suite = load_suite(name, [])
        table.add_section()
        for case in suite.cases:
            experiment = case.experiment
            labels = [variant.label for variant in case.variants]
            more = [f"and {len(labels) - LISTED} more"] if len(labels) > LISTED else []
            variants = ", ".join([*labels[:LISTED], *more])
            table.add_row(suite.name, experiment.name, variants, ", ".join(map(str, experiment.serving.buckets)))
    Console().print(table)
    Console().print("and peers: the same models in other libraries, with rows of its own (docs/peers.md)", markup=False)
