"""Latencies as an HdrHistogram log (.hlog), which HdrHistogram's tools plot, merge and compare.

Values are nanoseconds to three significant digits, so a percentile is within 0.1% of the raw samples'; the log's own
`Interval_Max` is in milliseconds. Each interval is one window.

Source: the log format 1.3 of HdrHistogram, HistogramLogReader in org.HdrHistogram; histograms are encoded by the
package `hdrhistogram`. Its log writer is not used: it rounds the maximum down to whole milliseconds, and its start
time fails.
"""

import datetime
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.errors import UserError

SIGNIFICANT_DIGITS = 3
NS_PER_MS = 1_000_000
HOUR_NS = 3_600_000_000_000
LEGEND = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


def write_histogram_log(
    file: Path, windows_ms: Sequence[NDArray], started_at_s: Sequence[float], durations_s: Sequence[float], title: str
) -> None:
    """Writes one interval a window; the file is replaced.

    Args:
      file: usually ends in .hlog.
      windows_ms: [W] latencies of each window, none negative.
      started_at_s: [W] seconds since the epoch, ascending.
      durations_s: [W] of each window.
      title: a comment at the head, without line breaks.

    Raises:
      UserError: the package hdrhistogram is not installed.
    """
    first = started_at_s[0] if len(started_at_s) else 0.0
    date = datetime.datetime.fromtimestamp(first, datetime.UTC).isoformat(sep=" ", timespec="milliseconds")
    lines = [
        f"#[{title}; values in nanoseconds, Interval_Max in milliseconds, times in seconds]",
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {first:.3f} (seconds since epoch), {date}]",
        f"#[BaseTime: {first:.3f} (seconds since epoch)]",
        LEGEND,
    ]
    for latency_ms, start, duration in zip(windows_ms, started_at_s, durations_s, strict=True):
        encoded = latency_histogram(latency_ms).encode().decode()
        lines.append(f"{start - first:.3f},{duration:.3f},{max(latency_ms, default=0.0):.6f},{encoded}")
    file.write_text("\n".join(lines) + "\n")


def latency_histogram(latency_ms: NDArray) -> Any:
    """Returns an `hdrh.histogram.HdrHistogram` of nanoseconds with every sample in it.

    The samples are rounded to the histogram's buckets and counted first: recording hundreds of thousands one by one
    takes a second.
    """
    ns = np.round(np.asarray(latency_ms, float) * NS_PER_MS).astype(np.int64)
    largest = int(ns.max(initial=0))
    histogram = _hdrh("histogram").HdrHistogram(1, max(HOUR_NS, 2 * largest), SIGNIFICANT_DIGITS)
    bits = np.frexp(ns.astype(float))[1]  # a bucket shares its highest bits, as many as tell sub_bucket_count values
    shift = np.maximum(bits - (histogram.sub_bucket_count.bit_length() - 1), 0)
    for value, count in zip(*np.unique(ns >> shift << shift, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    return histogram


def _hdrh(module: str) -> Any:
    """Returns a module of the package hdrhistogram."""
    try:
        return importlib.import_module(f"hdrh.{module}")
    except ImportError as error:
        raise UserError("HdrHistogram logs need the package hdrhistogram: pip install -e '.[bench]'") from error
