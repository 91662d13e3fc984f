"""The rows of a run as one line a variant: what the terminal table, `report.md` and `report.html` all show."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from benchmarks.results import Row
from recjax.load.generator import PRIORITY
from recjax.measurement.host_noise import BUSY

NULL_MODEL = "null"
MISSING = "–"
INVALID_MARK = "!"
EMULATED_MARK = "~"
UNSTEADY_MARK = "*"
METRIC_NAMES = {"ndcg": "NDCG", "hr": "HR", "mrr": "MRR", "auc": "AUC", "recall": "Recall"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """Every row of one (experiment, variant).

    Attributes:
      experiment: name of the experiment, or "null" for the harness's floor.
      name: the transforms as a short label.
      rows: of all scenarios and batch sizes; at least one.
    """

    experiment: str
    name: str
    rows: tuple[Row, ...]

    @property
    def is_null(self) -> bool:
        """Returns whether this is the harness's floor and no model."""
        return self.rows[0].model == NULL_MODEL

    @property
    def is_emulated(self) -> bool:
        """Returns whether the platform computes this variant without its gain."""
        return self.rows[0].support == "emulated"

    def of(self, scenario: str) -> list[Row]:
        """Returns the rows of one scenario by ascending batch size."""
        return sorted((row for row in self.rows if row.scenario == scenario), key=lambda row: row.batch_size)

    def best(self, scenario: str) -> Row | None:
        """Returns the scenario's row with the most samples/s, a valid one where there is one, None without rows."""
        return max(self.of(scenario), key=lambda row: (row.valid, row.throughput_samples_per_s), default=None)

    def first(self, field: str) -> Any:
        """Returns the first value of the field that is not None, None if there is none."""
        return next((value for row in self.rows if (value := getattr(row, field)) is not None), None)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the summary table; `cells` are aligned with `summary_columns` after its first column."""

    kind: Literal["variant", "reference", "null"]
    experiment: str
    label: str
    cells: tuple[str, ...]


def group_variants(rows: Iterable[Row]) -> list[Variant]:
    """Returns the variants in the order in which they were measured, experiment by experiment, the null model last."""
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        grouped.setdefault(_experiment(row), {}).setdefault(row.variant, []).append(row)
    variants = [
        Variant(experiment, name, tuple(members))
        for experiment, by_name in grouped.items()
        for name, members in by_name.items()
    ]
    return sorted(variants, key=lambda variant: variant.is_null)


def group_experiments(rows: Iterable[Row]) -> dict[str, list[Variant]]:
    """Returns the variants of every real model by experiment; the null model is left out."""
    real = [variant for variant in group_variants(rows) if not variant.is_null]
    return {name: list(members) for name, members in itertools.groupby(real, key=lambda variant: variant.experiment)}


def null_variants(rows: Iterable[Row]) -> list[Variant]:
    """Returns the harness's floor for the requests of each experiment."""
    return [variant for variant in group_variants(rows) if variant.is_null]


def summary_columns(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Returns the three header lines of every column; the server's limit is named if all rows share it."""
    limits = server_limits(rows)
    return [
        ("", "", "variant"),
        ("", "quality", "on test"),
        ("", "kept %", "± 95%"),
        ("single", "stream", "p50 ms"),
        ("single", "stream", "p99 ms"),
        ("multi", "stream", "p99 ms"),
        ("offline", "best batch", "samples/s"),
        ("server", f"≤ {min(limits):g} ms" if len(limits) == 1 else "in limit", "queries/s"),
        ("dense", "layers", "kB"),
        ("all", "param.", "MB"),
    ]


def server_limits(rows: Iterable[Row]) -> dict[float, list[str]]:
    """Returns the experiments by their limit of p99 in ms."""
    limits: dict[float, list[str]] = {}
    for variant in group_variants(rows):
        slo_ms = variant.first("slo_ms")
        if slo_ms is not None and not variant.is_null and variant.experiment not in limits.setdefault(slo_ms, []):
            limits[slo_ms].append(variant.experiment)
    return limits


def summary_lines(rows: Sequence[Row]) -> list[Line]:
    """Returns each experiment's variants, then its reference models; the null models stand last."""
    lines = []
    for experiment, variants in group_experiments(rows).items():
        lines += [Line("variant", experiment, _label(variant), _cells(variant, variants[0])) for variant in variants]
        metric = variants[0].first("quality_metric")
        for name, values in (variants[0].first("quality_reference") or {}).items():
            quality = format_quality(values.get(metric))
            lines.append(Line("reference", experiment, name, (quality, *("",) * (len(summary_columns(rows)) - 2))))
    for null in null_variants(rows):
        lines.append(Line("null", NULL_MODEL, f"null, {null.experiment}'s requests", _cells(null)))
    return lines


def invalid_rows(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Returns which rows are invalid and why, as (case, scenario and batch; reason)."""
    return [(row_name(row), row.invalid_reason or "no reason was given") for row in rows if not row.valid]


def floor_in_words(rows: Iterable[Row]) -> list[str]:
    """Returns what a query to the null model takes when it is sent by the load generator, one line an experiment."""
    return [
        f"{'' if row.valid else f'{INVALID_MARK} '}floor of the load generator and the serving loop at "
        f"{row.target_qps:,.0f} queries/s, {null.experiment}'s requests: "
        f"p50 {format_number(row.latency_ms['p50'])} ms, p99 {format_number(row.latency_ms['p99'])} ms"
        f"{_refused_in_words(row.load or {})}"
        for null in null_variants(rows)
        for row in null.of("server")
        if row.processes  # rows from before version 4 had no load generator
    ]


def _refused_in_words(load: Mapping[str, Any]) -> str:
    """Returns what the load generator asked the system for in vain, nothing if it got all, or a row does not say."""
    niceness, refused = load.get("generator_niceness"), list[str]()
    if niceness is not None and niceness > PRIORITY:
        refused.append(f"its priority (niceness {niceness}, not {PRIORITY})")
    if load.get("generator_short_slice") is False:
        refused.append("short slices of a core")
    return f"; the generator did not get {' and '.join(refused)}" if refused else ""


def steadiness_in_words(rows: Iterable[Row]) -> str:
    """Returns how many rows are not steady, nothing where all are or it was not looked at."""
    judged = [row for row in rows if row.steady is not None]
    unsteady = sum(not row.steady for row in judged)
    if not unsteady:
        return ""
    return (
        f"unsteady: in {unsteady} of {len(judged)} rows the last windows of a process differ by more than 10%; the "
        "report marks them"
    )


def disturbance_in_words(rows: Iterable[Row]) -> str:
    """Returns how much of the processors other programs took, nothing where that was little or is not known."""
    shares = [share for row in rows if (share := (row.host or {}).get("others_share")) is not None]
    disturbed = [share for share in shares if share > BUSY]
    if not disturbed:
        return ""
    return (
        f"disturbed: in {len(disturbed)} of {len(shares)} rows other programs took more than {BUSY:.0%} of the "
        f"processors' time, up to {max(disturbed):.0%}; such times are not to be trusted"
    )


def loadgen_in_words(rows: Iterable[Row]) -> str:
    """Returns how LoadGen judged the runs in which it asked, nothing where it did not."""
    results = [verdict["result"] for row in rows if (verdict := (row.load or {}).get("verdict"))]
    if not results:
        return ""
    n_valid = results.count("VALID")
    return f"LoadGen asked, and called {n_valid} of {len(results)} runs VALID by its own rules (load.verdict says why)"


def row_name(row: Row) -> str:
    """Returns the row in words, as in "sasrec / int8, offline, batch 64"."""
    return f"{_experiment(row)} / {row.variant}, {row.scenario}, batch {row.batch_size}"


def samples_key(row: Row) -> str:
    """Returns the key under which a run keeps the row's latency samples."""
    return f"{row.case}/{row.scenario}/{row.batch_size}"


def metric_name(metric: str | None) -> str:
    """Returns a metric as papers write it: "ndcg@10" is "NDCG@10"."""
    if metric is None:
        return "quality"
    name, separator, cutoff = metric.partition("@")
    return METRIC_NAMES.get(name, name) + separator + cutoff


def format_number(value: float | None, digits: int = 3) -> str:
    """Returns three significant digits, thousands separated, millions as "1.20M"; a dash for None."""
    if value is None:
        return MISSING
    magnitude = abs(value)
    if magnitude >= 1e9:
        return f"{format_number(value / 1e9)}G"
    if magnitude >= 1e6:
        return f"{format_number(value / 1e6)}M"
    if magnitude >= 999.5:
        return f"{value:,.0f}"
    if value == 0 or magnitude < 1e-4:
        return f"{value:.3g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(magnitude)))}f}"


def format_bytes(value: float | None, unit: float = 1e6) -> str:
    """Returns bytes in the unit, by default MB."""
    return MISSING if value is None else format_number(value / unit)


def format_quality(value: float | None) -> str:
    """Returns four decimals, which is what a metric over some hundred users carries."""
    return MISSING if value is None else f"{value:.4f}"


def format_percent(value: float | None) -> str:
    """Returns a share as percent with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}"


def offline_gain(variant: Variant, fp32: Variant) -> float | None:
    """Returns the variant's offline samples/s over fp32's, each at the batch size that is best for it."""
    ours, of_fp32 = variant.best("offline"), fp32.best("offline")
    if ours is None or of_fp32 is None or not of_fp32.throughput_samples_per_s:
        return None
    return ours.throughput_samples_per_s / of_fp32.throughput_samples_per_s


def format_gain(ratio: float | None) -> str:
    """Returns a ratio of speed over fp32, as in "x2.31"."""
    return MISSING if ratio is None else f"x{ratio:.2f}"


def _label(variant: Variant) -> str:
    return f"{variant.name} {EMULATED_MARK}" if variant.is_emulated else variant.name


def _cells(variant: Variant, fp32: Variant | None = None) -> tuple[str, ...]:
    """Returns the cells of a line; without `fp32`, of the null model's."""
    single, multi = variant.best("single_stream"), variant.best("multi_stream")
    offline, server = variant.best("offline"), variant.best("server")
    quality = (variant.first("quality") or {}).get(variant.first("quality_metric"))
    rate = format_number(offline.throughput_samples_per_s) if offline else MISSING
    if offline and fp32:
        rate += f" {format_gain(offline_gain(variant, fp32)):>6}"
    return (
        "" if variant.is_null else format_quality(quality),
        "" if variant.is_null else _kept(variant),
        _marked(format_number(single.latency_ms["p50"]) if single else MISSING, single),
        _marked(format_number(single.latency_ms["p99"]) if single else MISSING, single),
        _marked(format_number(multi.latency_ms["p99"]) if multi else MISSING, multi),
        _marked(rate, offline),
        "" if variant.is_null else _marked(format_number(server.target_qps) if server else MISSING, server),
        "" if variant.is_null else format_bytes(variant.first("dense_layer_bytes"), 1e3),
        "" if variant.is_null else format_bytes(variant.first("parameter_bytes"), 1e6),
    )


def _kept(variant: Variant) -> str:
    """Returns the share of fp32's quality in percent, with half of its 95% interval unless that is 0 (fp32 itself)."""
    share, interval = variant.first("quality_retained"), variant.first("quality_retained_ci95")
    if not interval or interval[0] == interval[1]:
        return format_percent(share)
    return f"{format_percent(share)} ±{50 * (interval[1] - interval[0]):.1f}"


def _marked(text: str, row: Row | None) -> str:
    return text if row is None or row.valid else f"{INVALID_MARK} {text}"


def _experiment(row: Row) -> str:
    """A case is "experiment / variant", and an experiment's name has no slash."""
    return row.case.partition("/")[0].strip()
