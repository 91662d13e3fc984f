"""The text of `docs/transforms.md` from rows: what each transform buys, what it costs, and where it does not pay."""

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks import markdown
from benchmarks.crossover_timing import CrossoverRow
from benchmarks.results import Row
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
from benchmarks.transforms_page_text import (
    CROSSOVER,
    EXAMPLE,
    HOW_TO_READ,
    INT8_PRODUCTS,
    INTRODUCTION,
    LIMITS,
    NO_WORDS,
    OTHER_MACHINES,
    PICTURE,
    TOPICS,
    WIDE_MLP,
    WIDE_MLP_WORDS,
    Topic,
)

Verdict = Literal["faster", "no clear difference", "slower"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
BYTES = ("dense_layer_bytes", "table_bytes")
Experiments = Mapping[str, Sequence[Variant]]  # the variants of each, fp32 first


def render(
    rows: Sequence[Row],
    crossovers: Sequence[Sequence[CrossoverRow]],
    wide_mlp: Sequence[Row],
    folder: Path,
    *,
    with_words: bool = True,
) -> str:
    """Returns the whole page.

    Args:
      rows: of the suite `transforms`.
      crossovers: rows of `benchmarks.sparse_crossover`, a processor a sequence.
      wide_mlp: of the suite `wide_mlp`.
      folder: that the first rows come from.
      with_words: whether the page says what the rows show; if not, it has the tables alone.
    """
    by_experiment = group_experiments(rows)
    topics = [_topic(topic, by_experiment, with_words) for topic in TOPICS]
    parts = [
        _introduction(rows, folder, with_words),
        PICTURE if with_words else "",
        EXAMPLE,
        "## When each pays",
        HOW_TO_READ,
        *topics,
        "## Where int8 and sparse products begin to pay",
        CROSSOVER,
        *itertools.chain.from_iterable(map(_crossover, crossovers)),
        "## A wide MLP",
        WIDE_MLP.format(device=wide_mlp[0].device["kind"]),
        WIDE_MLP_WORDS if with_words else "",
        *map(_variants, group_experiments(wide_mlp).values()),
        LIMITS if with_words else "",
        "## Every variant",
        *(f"### {name}\n\n{_variants(variants)}" for name, variants in by_experiment.items()),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def verdict(ratio: Mapping[str, Any] | None) -> Verdict | None:
    """Returns whether every round says faster, or slower, than fp32; None without a ratio."""
    if ratio is None:
        return None
    low, high = ratio["range"]
    return "faster" if low > 1 else "slower" if high < 1 else "no clear difference"


def _introduction(rows: Sequence[Row], folder: Path, with_words: bool) -> str:
    jax = rows[0].environment.get("versions", {}).get("jax", "of unknown version")
    support = next((row.support for row in rows if row.variant == "int8"), None)
    int8_products = INT8_PRODUCTS.get(support or "", "whose int8 products were not measured")
    text = INTRODUCTION.format(folder=folder, device=rows[0].device["kind"], jax=jax, int8_products=int8_products)
    return f"{text}\n\n{OTHER_MACHINES if with_words else NO_WORDS}"


def _topic(topic: Topic, by_experiment: Experiments, with_words: bool) -> str:
    """Returns the topic's section: its words, then a line of each of its variants over all models that have it."""
    lines = [line for label in topic.labels if (line := _line(label, by_experiment))]
    if not lines:
        return ""
    header = ["variant", "faster in large batches", "no clear difference", "slower", "one request"]
    header += ["quality kept %", "layers %", "tables %", "training steps"]
    parts = (f"### {topic.title}", topic.words if with_words else "", markdown.table(header, lines, n_left=4))
    return "\n\n".join(filter(None, parts))


def _line(label: str, by_experiment: Experiments) -> list[str]:
    """Returns the cells of one variant; none where no model has it."""
    found = {
        name: (variant, variants[0])
        for name, variants in by_experiment.items()
        for variant in variants
        if variant.name == label
    }
    if not found:
        return []
    largest = {name: variant.of("offline")[-1].speedup for name, (variant, _) in found.items()}
    single = [variant.of("single_stream")[0].speedup for variant, _ in found.values()]
    return [
        label,
        *(
            ", ".join(f"{name} {_gain(ratio)}" for name, ratio in largest.items() if verdict(ratio) == word)
            for word in VERDICTS
        ),
        _single_stream(single),
        _span([variant.first("quality_retained") for variant, _ in found.values()], format_percent),
        *(_span([_share(field, *pair) for pair in found.values()], format_percent) for field in BYTES),
        _span([_median(variant.first("train_speedup")) for variant, _ in found.values()], format_gain),
    ]


def _share(field: str, variant: Variant, fp32: Variant) -> float | None:
    """Returns the variant's bytes over fp32's; None where fp32 has none."""
    return variant.first(field) / fp32.first(field) if fp32.first(field) else None


def _single_stream(ratios: Sequence[Mapping[str, Any] | None]) -> str:
    """Returns the range of the ratios, and on how many models all rounds say faster and slower."""
    counts = collections.Counter(verdict(ratio) for ratio in ratios)
    words = [f"{word} on {counts[word]}" for word in ("faster", "slower") if counts[word]]
    return "; ".join([_span([_median(ratio) for ratio in ratios], format_gain), *words])


def _span(values: Iterable[float | None], form: Callable[[float | None], str]) -> str:
    """Returns the least and the largest of the values; one where they look alike, a dash without any."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    low, high = form(min(known)), form(max(known))
    return low if low == high else f"{low} to {high}"


def _variants(variants: Sequence[Variant]) -> str:
    """Returns the table of one model's variants."""
    fp32 = variants[0]
    sizes = [row.batch_size for row in fp32.of("offline")]
    header = ["variant", metric_name(fp32.first("quality_metric")), "kept %", "layers kB", "tables kB"]
    header += ["p50 ms, batch 1", "p99 ms, batch 1", "speed at 1", *(f"samples/s at {size}" for size in sizes)]
    header += [f"speed at {size}" for size in sizes]
    header += [f"masked at {sizes[-1]}", f"realised at {sizes[-1]}", "zeros %", "removed %", "training", "support"]
    return markdown.table(header, [_cells(variant) for variant in variants])


def _cells(variant: Variant) -> list[str]:
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
        _gain(variant.first("train_speedup")),
        variant.first("support") or MISSING,
    ]


def _kept(variant: Variant) -> str:
    share, interval = variant.first("quality_retained"), variant.first("quality_retained_ci95")
    if not interval or interval[0] == interval[1]:
        return format_percent(share)
    return f"{format_percent(share)} ({format_percent(interval[0])} to {format_percent(interval[1])})"


def _gain(ratio: Mapping[str, Any] | None) -> str:
    return format_gain(_median(ratio))


def _median(ratio: Mapping[str, Any] | None) -> float | None:
    return None if ratio is None else ratio["median"]


def _crossover(rows: Sequence[CrossoverRow]) -> list[str]:
    """Returns one processor's speed of int8 products, and from which share of zeros on sparse ones are faster."""
    ratios = {(row.method, row.density, row.width, row.batch): row.speedup for row in rows}
    widths, batches = sorted({row.width for row in rows}), sorted({row.batch for row in rows})
    densities = sorted({row.density for row in rows if row.density is not None}, reverse=True)
    header = ["width", *(f"batch {batch}" for batch in batches)]
    int8 = [[str(width), *(format_gain(ratios["int8", None, width, batch]) for batch in batches)] for width in widths]
    sparse = [
        [
            str(width),
            *(
                first_faster({f"{1 - density:.0%}": ratios["sparse", density, width, batch] for density in densities})
                for batch in batches
            ),
        ]
        for width in widths
    ]
    return [
        f"### {rows[0].environment['device']}",
        "Speed of int8 products over float32's:",
        markdown.table(header, int8),
        "The share of zeros from which on the sparse form is faster than the dense product:",
        markdown.table(header, sparse),
    ]


def first_faster(ratios: Mapping[str, float]) -> str:
    """Returns the first name from which on the ratio stays above 1."""
    names = list(ratios)
    last_slower = max((index for index, ratio in enumerate(ratios.values()) if ratio <= 1), default=-1)
    return names[last_slower + 1] if last_slower + 1 < len(names) else "none measured"
