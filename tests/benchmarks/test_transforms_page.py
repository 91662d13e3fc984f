"""The page of the stored rows, and its figures by hand."""

import functools
from pathlib import Path
from typing import Any

import pytest
from assertions import REPOSITORY, assert_help_is_light

from benchmarks.crossover_timing import CrossoverRow
from benchmarks.results import Row, read_rows
from benchmarks.stored import read_stored
from benchmarks.summary import group_experiments
from benchmarks.table_forms_timing import FormRow
from benchmarks.transforms_page import CROSSOVERS, PAGE, ROWS, main
from benchmarks.transforms_page_contents import first_faster, render, verdict
from benchmarks.transforms_page_plot import make_plot
from benchmarks.transforms_page_text import EXAMPLE, LIMITS, TOPICS
from configs.suites import transforms
from recjax.config import load_config


@functools.cache
def stored_rows() -> tuple[Row, ...]:
    return tuple(read_rows(REPOSITORY / ROWS / "results.jsonl"))


def test_the_page_in_the_repository_is_of_the_rows_in_it():
    crossovers = [read_stored(REPOSITORY / file, CrossoverRow, "benchmarks.sparse_crossover") for file in CROSSOVERS]
    assert (REPOSITORY / PAGE).read_text() == render(stored_rows(), crossovers, ROWS)


def test_the_rows_are_of_every_variant_of_the_suite():
    experiments = group_experiments(stored_rows())
    measured = {name: [variant.name for variant in variants] for name, variants in experiments.items()}
    cases = transforms.get_suite().cases
    assert measured == {case.experiment.name: [chain.label for chain in case.variants] for case in cases}
    assert min(map(len, measured.values())) >= 24


def test_models_trained_in_integers_from_the_start_are_as_good_as_the_page_says():
    kept = {
        (row.model, row.variant): row.quality_retained
        for row in read_rows(REPOSITORY / "benchmarks/results/quantized-training/results.jsonl")
        if row.variant not in ("fp32", "null")
    }
    aqt = [share for (_, variant), share in kept.items() if variant == "int8 (int8 backward)"]
    qwix = [share for (_, variant), share in kept.items() if variant == "int8 (int8 backward, qwix)"]
    assert len(aqt) == len(qwix) == 4
    assert [f"{share:.1%}" for share in (min(aqt), max(aqt))] == ["100.0%", "100.1%"]
    assert [f"{share:.1%}" for share in (min(qwix), max(qwix))] == ["99.2%", "100.1%"]


def test_the_config_on_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    file = tmp_path / "smaller.py"
    file.write_text(EXAMPLE.partition("```python\n")[2].partition("```")[0])
    assert [transform.label for transform in load_config(file).transforms] == ["prune(0.5)", "shrink", "int8"]


def test_dlrm_serves_int8_as_fast_as_the_limits_say():
    ratios = {
        row.variant: row.speedup["median"]
        for row in stored_rows()
        if row.model == "DLRMDCNv2" and row.scenario == "offline" and row.batch_size == 1024 and row.speedup
    }
    said = f"it serves {ratios['int8']:.2f} and {ratios['shrink(0.5) + int8']:.2f} times"
    assert said in " ".join(LIMITS.split())


def test_integer_tables_are_as_fast_and_as_small_as_the_limits_say():
    file = REPOSITORY / "benchmarks/results/table-forms/table_forms.jsonl"
    rows = [row for row in read_stored(file, FormRow, "benchmarks.table_forms") if row.work == "lookup"]
    time = {
        ids: [row.over_float32 for row in rows if row.form == "int8" and row.ids == ids] for ids in ("uniform", "zipf")
    }
    size = {row.form: row.bytes_over_float32 for row in rows}
    words = " ".join(LIMITS.split())
    assert f"{min(time['uniform']):.2f} to {max(time['uniform']):.2f} times float32's where ids are uniform" in words
    assert f"{min(time['zipf']):.2f} to {max(time['zipf']):.2f} times where they follow a power law" in words
    assert f"{size['int8']:.1%} (8 bits) and {size['int4']:.1%} (4 bits)" in words


def test_every_variant_but_fp32_stands_under_a_topic_and_every_label_is_one():
    measured = {row.variant for row in stored_rows() if row.model != "null"}
    shown = [label for topic in TOPICS for label in topic.labels]
    assert set(shown) == measured - {"fp32"}
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (None, None),
        ({"median": 2.0, "range": [1.01, 3.0]}, "faster"),
        ({"median": 0.5, "range": [0.4, 0.99]}, "slower"),
        ({"median": 1.2, "range": [0.99, 1.5]}, "no clear difference"),
        ({"median": 0.9, "range": [0.8, 1.0]}, "no clear difference"),
    ],
)
def test_faster_is_said_where_all_rounds_agree(ratio: dict[str, Any] | None, words: str | None):
    assert verdict(ratio) == words


@pytest.mark.parametrize(
    ("ratios", "first"),
    [
        ({"1": 1.1, "4": 1.2}, "1"),
        ({"1": 0.5, "4": 1.2, "16": 1.3}, "4"),
        ({"1": 1.1, "4": 0.9, "16": 1.3}, "16"),
        ({"1": 1.1, "4": 1.0}, "none measured"),
    ],
)
def test_a_crossover_is_where_it_stays_faster(ratios: dict[str, float], first: str):
    assert first_faster(ratios) == first


def test_the_picture_has_every_variant_and_says_its_speed_and_quality():
    experiments = group_experiments(stored_rows())
    speeds, _, qualities = make_plot(experiments).data
    assert list(speeds.y) == [label for topic in TOPICS for label in topic.labels]
    assert list(speeds.x) == list(experiments)
    variant = next(variant for variant in experiments["sasrec"] if variant.name == "int8")
    cell = list(speeds.y).index("int8"), list(speeds.x).index("sasrec")
    assert speeds.text[cell[0]][cell[1]] == f"{variant.of('offline')[-1].speedup['median']:.2f}"
    assert qualities.text[cell[0]][cell[1]] == f"{variant.first('quality_retained'):.1%}"
    assert speeds.z[cell[0]][cell[1]] > 0  # faster
    absent = list(speeds.y).index("int8 (logits)")
    assert speeds.text[absent][cell[1]] == ""


def test_missing_rows_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"--rows={tmp_path}", f"--page={tmp_path / 'page.md'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "results.jsonl" in error
    assert "python -m benchmarks.run --suite transforms" in error
    assert not (tmp_path / "page.md").exists()


def test_help_is_light():
    assert_help_is_light("benchmarks.transforms_page", "--crossover")
