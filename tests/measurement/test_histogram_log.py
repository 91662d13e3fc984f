import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.errors import UserError
from recjax.measurement.histogram_log import NS_PER_MS, latency_histogram, write_histogram_log
from recjax.measurement.percentiles import quantile_of_samples

EPOCH = 1_750_000_000.25


@pytest.fixture(autouse=True)
def _needs_hdrhistogram() -> None:
    pytest.importorskip("hdrh.histogram")


def windows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.exp(rng.normal(0, 1, n)) for n in (20_000, 30_000, 1)]


def write(file: Path) -> list[np.ndarray]:
    written = windows()
    write_histogram_log(file, written, [EPOCH, EPOCH + 6, EPOCH + 12.5], [5.5, 6.0, 0.25], "row 7 of a run")
    return written


def read(file: Path) -> list[Any]:
    """Returns the histograms of a log, by the reader of the package that others use."""
    reader = pytest.importorskip("hdrh.log").HistogramLogReader(str(file), None)
    histograms = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        histograms.append(histogram)
    reader.close()
    return histograms


@pytest.mark.parametrize("percentile", [0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_percentiles_of_a_log_are_those_of_the_samples_to_three_digits(tmp_path: Path, percentile: float) -> None:
    written = write(tmp_path / "row.hlog")
    pooled = latency_histogram(np.zeros(0))
    for histogram in read(tmp_path / "row.hlog"):
        pooled.add(histogram)
    found = pooled.get_value_at_percentile(100 * percentile) / NS_PER_MS
    assert found == pytest.approx(quantile_of_samples(np.concatenate(written), percentile), rel=1.1e-3)


def test_every_sample_and_every_time_is_read_back(tmp_path: Path) -> None:
    written = write(tmp_path / "row.hlog")
    found = read(tmp_path / "row.hlog")
    assert [histogram.get_total_count() for histogram in found] == [len(window) for window in written]
    starts_s = np.array([histogram.get_start_time_stamp() / 1e3 for histogram in found])
    ends_s = np.array([histogram.get_end_time_stamp() / 1e3 for histogram in found])
    np.testing.assert_allclose(starts_s - EPOCH, [0, 6, 12.5], atol=1e-3)
    np.testing.assert_allclose(ends_s - starts_s, [5.5, 6.0, 0.25], atol=1e-3)


def test_the_text_is_what_other_readers_expect(tmp_path: Path) -> None:
    written = write(tmp_path / "row.hlog")
    lines = (tmp_path / "row.hlog").read_text().splitlines()
    assert lines[0] == "#[row 7 of a run; values in nanoseconds, Interval_Max in milliseconds, times in seconds]"
    assert lines[1] == "#[Histogram log format version 1.3]"
    assert lines[2].startswith("#[StartTime: 1750000000.250 (seconds since epoch), 2025-06-15 ")
    assert lines[3] == "#[BaseTime: 1750000000.250 (seconds since epoch)]"
    assert lines[4] == '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'
    assert len(lines) == 5 + len(written)
    for line, start, length, window in zip(
        lines[5:], ("0.000", "6.000", "12.500"), (5.5, 6, 0.25), written, strict=True
    ):
        found = re.fullmatch(r"([\d.]+),([\d.]+),([\d.]+),(HISTFAAA[A-Za-z0-9+/=]+)", line)
        assert found
        assert found[1] == start
        assert float(found[2]) == length
        assert float(found[3]) == pytest.approx(window.max(), abs=1e-6)


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=200))
def test_a_histogram_is_that_of_samples_recorded_one_by_one(ns: list[int]) -> None:
    from hdrh.histogram import HdrHistogram

    found = latency_histogram(np.array(ns) / 1e6)
    expected = HdrHistogram(1, max(3_600_000_000_000, 2 * max(ns)), 3)
    for value in np.round(np.array(ns) / 1e6 * 1e6).astype(int):
        assert expected.record_value(int(value))
    assert found.get_total_count() == len(ns)
    assert list(found.counts) == list(expected.counts)


def test_a_latency_beyond_an_hour_is_kept() -> None:
    histogram = latency_histogram(np.array([1.0, 5 * 3_600_000.0]))
    assert histogram.get_total_count() == 2
    assert histogram.get_value_at_percentile(100) / 1e6 == pytest.approx(5 * 3_600_000, rel=1e-3)


def test_a_window_without_an_answer_is_an_empty_interval(tmp_path: Path) -> None:
    write_histogram_log(tmp_path / "empty.hlog", [np.zeros(0)], [EPOCH], [1.0], "empty")
    (histogram,) = read(tmp_path / "empty.hlog")
    assert histogram.get_total_count() == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(UserError, match=r"hdrhistogram: pip install -e '.\[bench\]'"):
        latency_histogram(np.ones(3))
