"""`docs/transforms.md` from stored rows: what each transform buys, what it costs, and where it does not pay."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.crossover_timing import CrossoverRow
from benchmarks.results import Row, read_rows
from benchmarks.stored import read_stored
from benchmarks.summary import (
    MISSING,
    Variant,
    format_bytes,
    format_gain,
    format_number,
    format_percent,
    group_experiments,
    metric_name,
)
from benchmarks.transforms_page_text import EXAMPLE, HOW_TO_READ, INTRODUCTION, TOPICS, Topic
from recjax.command_line import OneLineParser, run_command
from recjax.errors import UserError
from recjax.progress import console

ROWS = Path("benchmarks/results/transforms-amd-epyc")
CROSSOVER = Path("benchmarks/results/crossover/crossover.jsonl")
PAGE = Path("docs/transforms.md")
EXAMPLES = """examples:
  python -m benchmarks.transforms_page
  python -m benchmarks.transforms_page --rows=runs/transforms-cpu --page=runs/transforms.md

exit codes: 0 done, 2 unusable input (one line says why)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    description = "Write docs/transforms.md from the rows of the transforms suite and of sparse_crossover."
    parser = OneLineParser(prog="python -m benchmarks.transforms_page", description=description, epilog=EXAMPLES)
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"folder of a run of the transforms suite ({ROWS})")
    parser.add_argument("--crossover", type=Path, default=CROSSOVER, help=f"rows of sparse_crossover ({CROSSOVER})")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"what is written ({PAGE})")
    options = parser.parse_args(arguments)
    return run_command(lambda: write_page(options.rows, options.crossover, options.page))


def write_page(folder: Path, crossover: Path, page: Path) -> int:
    """Writes the page and returns the exit code.

    Raises:
      UserError: there are no rows, a line cannot be used, or the page cannot be written.
    """
    file = folder / "results.jsonl"
    for needed, maker in ((file, "run --suite transforms"), (crossover, "sparse_crossover")):
        if not needed.is_file():
            raise UserError(f"no {needed}; make it with python -m benchmarks.{maker}")
    text = render(read_rows(file), read_stored(crossover, CrossoverRow, "benchmarks.sparse_crossover"), folder)
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}; give another file with --page") from error
    console.print(f"wrote {page}", markup=False)
    return 0


def render(rows: Sequence[Row], crossover: Sequence[CrossoverRow], folder: Path) -> str:
    """Returns the whole page."""
    by_experiment = group_experiments(rows)
    topics = [_topic(topic, by_experiment) for topic in TOPICS]
    parts = [
        INTRODUCTION.format(folder=folder, device=rows[0].device["kind"], jax=_version(rows[0], "jax")),
        EXAMPLE,
        "## When each pays",
        HOW_TO_READ,
        *(part for part in topics if part),
        "## Where int8 and sparse products begin to pay",
        *_crossovers(crossover),
        "## Every variant",
        *itertools.chain.from_iterable(_model(name, variants) for name, variants in by_experiment.items()),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(ratio: Mapping[str, Any] | None) -> str:
    """Returns whether the rounds agree that it is faster or slower than fp32."""
    if ratio is None:
        return MISSING
    low, high = ratio["range"]
    word = "faster" if low > 1 else "slower" if high < 1 else "no clear difference"
    return f"{format_gain(ratio['median'])}, {word}"


def _version(row: Row, package: str) -> str:
    return str(row.environment.get("versions", {}).get(package, "of unknown version"))


def _topic(topic: Topic, by_experiment: Mapping[str, Sequence[Variant]]) -> str:
    """Returns the topic's section: its words, then a table of its variants on every model that has them."""
    lines = []
    for experiment, variants in by_experiment.items():
        for variant in variants:
            if variant.name in topic.labels:
                lines.append([experiment, variant.name, *_short_cells(variant, variants[0])])
    if not lines:
        return ""
    header = ["model", "variant", "batch 1", "largest batch", "quality kept %", "bytes %", "training steps"]
    return f"### {topic.title}\n\n{topic.words}\n\n{markdown.table(header, lines, n_left=2)}"


def _short_cells(variant: Variant, fp32: Variant) -> list[str]:
    """Returns speed at batch 1 and at the largest, quality, bytes and the speed of training steps, over fp32's."""
    single, largest = variant.of("single_stream")[0], variant.of("offline")[-1]
    return [
        verdict(single.speedup),
        f"{verdict(largest.speedup)} ({largest.batch_size})",
        _kept(variant),
        _share(variant, fp32, "parameter_bytes"),
        _training(variant),
    ]


def _model(name: str, variants: Sequence[Variant]) -> list[str]:
    """Returns the heading and the table of one model's variants."""
    fp32 = variants[0]
    sizes = [row.batch_size for row in fp32.of("offline")]
    header = ["variant", metric_name(fp32.first("quality_metric")), "kept %", "layers kB", "tables kB"]
    header += ["p50 ms, batch 1", "p99 ms, batch 1", "speed at 1", *(f"samples/s at {size}" for size in sizes)]
    header += [f"speed at {size}" for size in sizes]
    header += [f"masked at {sizes[-1]}", f"realised at {sizes[-1]}", "zeros %", "removed %", "training", "support"]
    return [f"### {name}", markdown.table(header, [_model_cells(variant) for variant in variants])]


def _model_cells(variant: Variant) -> list[str]:
    single, offline = variant.of("single_stream")[0], variant.of("offline")
    quality = (variant.first("quality") or {}).get(variant.first("quality_metric"))
    last = offline[-1]
    return [
        variant.name if all(row.valid for row in variant.rows) else f"! {variant.name}",
        format_number(quality, 4),
        _kept(variant),
        format_bytes(variant.first("dense_layer_bytes"), 1e3),
        format_bytes(variant.first("table_bytes"), 1e3),
        format_number(single.latency_ms["p50"]),
        format_number(single.latency_ms["p99"]),
        _gain(single.speedup),
        *(format_number(row.throughput_samples_per_s) for row in offline),
        *(_gain(row.speedup) for row in offline),
        _gain(last.masked_speedup),
        _gain(last.realised_speedup),
        format_percent(variant.first("masked_share")),
        format_percent(variant.first("realised_share")),
        _training(variant),
        variant.first("support") or MISSING,
    ]


def _kept(variant: Variant) -> str:
    share, interval = variant.first("quality_retained"), variant.first("quality_retained_ci95")
    if not interval or interval[0] == interval[1]:
        return format_percent(share)
    return f"{format_percent(share)} ({format_percent(interval[0])} to {format_percent(interval[1])})"


def _share(variant: Variant, fp32: Variant, field: str) -> str:
    return format_percent(variant.first(field) / fp32.first(field))


def _gain(ratio: Mapping[str, Any] | None) -> str:
    return MISSING if ratio is None else format_gain(ratio["median"])


def _training(variant: Variant) -> str:
    return _gain(variant.first("train_speedup"))


def _crossovers(rows: Sequence[CrossoverRow]) -> list[str]:
    """Returns where int8 products and sparse ones begin to be faster than float32's, by width and batch."""
    ratios = {(row.method, row.density, row.width, row.batch): row.speedup for row in rows}
    widths, batches = sorted({row.width for row in rows}), sorted({row.batch for row in rows})
    densities = sorted({row.density for row in rows if row.density is not None}, reverse=True)
    words = (
        "One dense layer of as many outputs as inputs, alone, from `python -m benchmarks.sparse_crossover` "
        f"({rows[0].environment['device']}). int8 is weights and activations with a scale a row found at run time; "
        "sparse is the form of `sparse_layout()`, its zeros at random."
    )
    int8_lines = [
        [str(width), _first({str(batch): ratios["int8", None, width, batch] for batch in batches})] for width in widths
    ]
    sparse_lines = [
        [
            str(width),
            *(
                _first({f"{1 - density:.0%}": ratios["sparse", density, width, batch] for density in densities})
                for batch in batches
            ),
        ]
        for width in widths
    ]
    return [
        words,
        markdown.table(["width", "int8 is faster from this batch on"], int8_lines),
        "The share of zeros from which the sparse form is faster than the dense product:",
        markdown.table(["width", *(f"batch {batch}" for batch in batches)], sparse_lines),
    ]


def _first(ratios: Mapping[str, float]) -> str:
    """Returns the first name from which on the ratio stays above 1."""
    names = list(ratios)
    last_slower = max((index for index, ratio in enumerate(ratios.values()) if ratio <= 1), default=-1)
    return names[last_slower + 1] if last_slower + 1 < len(names) else "none measured"


if __name__ == "__main__":
    raise SystemExit(main())
