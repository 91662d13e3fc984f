"""The table of `--list`: every suite, what it runs, and under which names."""

from rich.console import Console
from rich.table import Table

from benchmarks.suite import load_suite, suite_names


def print_suites() -> None:
    """Prints the suites of configs/suites/ to standard output."""
    table = Table(
        "suite", "experiment", "variants", "batch sizes", title="suites (python -m benchmarks.run --suite=NAME)"
    )
    for name in suite_names():
        suite = load_suite(name, [])
        for case in suite.cases:
            experiment = case.experiment
            variants = ", ".join(variant.label for variant in case.variants)
            table.add_row(suite.name, experiment.name, variants, ", ".join(map(str, experiment.serving.buckets)))
    Console().print(table)
