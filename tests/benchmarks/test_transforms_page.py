"""The page of the stored rows, and its figures by hand."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from assertions import REPOSITORY, assert_help_is_light

from benchmarks.crossover_timing import CrossoverRow
from benchmarks.results import Row, read_rows
from benchmarks.seed_quality import SeedRow
from benchmarks.stored import read_stored
from benchmarks.summary import group_experiments
from benchmarks.table_forms_timing import FormRow
from benchmarks.transforms_page import CROSSOVERS, PAGE, ROWS, WIDE_MLP, main
from benchmarks.transforms_page_contents import first_faster, render, verdict
from benchmarks.transforms_page_plot import make_plot
from benchmarks.transforms_page_text import EXAMPLE, LIMITS, NO_WORDS, TOPICS, WIDE_MLP_WORDS
from configs.suites import transforms
from recjax.config_files import load_config

STATIC = "int8 (static, after training)"


@functools.cache
def stored_rows() -> tuple[Row, ...]:
    return tuple(read_rows(REPOSITORY / ROWS / "results.jsonl"))


@functools.cache
def wide_mlp_rows() -> tuple[Row, ...]:
    return tuple(read_rows(REPOSITORY / WIDE_MLP / "results.jsonl"))


@functools.cache
def crossovers() -> list[list[CrossoverRow]]:
    return [read_stored(REPOSITORY / file, CrossoverRow, "benchmarks.sparse_crossover") for file in CROSSOVERS]


def test_the_page_in_the_repository_is_of_the_rows_in_it():
    assert (REPOSITORY / PAGE).read_text() == render(stored_rows(), crossovers(), wide_mlp_rows(), ROWS)


def test_the_rows_are_of_every_variant_of_the_suite():
    experiments = group_experiments(stored_rows())
    measured = {name: [variant.name for variant in variants] for name, variants in experiments.items()}
    cases = transforms.get_suite().cases
    assert measured == {case.experiment.name: [chain.label for chain in case.variants] for case in cases}
    assert min(map(len, measured.values())) >= 24


def test_models_trained_in_integers_from_the_start_are_as_good_as_the_page_says():
    rows = read_stored(REPOSITORY / "benchmarks/results/quantized-training/seeds.jsonl", SeedRow, "benchmarks.seeds")

    def kept(variant: str) -> dict[str, list[float]]:
        by_model: dict[str, list[float]] = {}
        for row in rows:
            if row.variant == variant and row.quality_retained is not None:
                by_model.setdefault(row.experiment, []).append(row.quality_retained)
        return by_model

    words = " ".join(next(topic.words for topic in TOPICS if "int8 (int8 backward)" in topic.labels).split())
    for library, variant in (("AQT", "int8 (int8 backward)"), ("Qwix", "int8 (int8 backward, qwix)")):
        assert [len(shares) for shares in kept(variant).values()] == [3] * 4
        means = [sum(shares) / 3 for shares in kept(variant).values()]
        assert min(means) > 0.995
        assert re.search(rf"{library} (keeps )?{100 * min(means):.1f} to {max(means):.1%}", words)
    sasrec = kept("int8 (int8 backward, qwix)")["sasrec"]
    assert f"Qwix kept {min(sasrec):.1%} of SASRec's under one, {max(sasrec):.1%} under another" in words


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


def test_the_wide_mlp_is_served_as_fast_as_the_page_says():
    rows = [row for row in wide_mlp_rows() if row.variant != "null"]
    at_1024 = {row.variant: row.speedup["median"] for row in rows if row.batch_size == 1024 and row.speedup}
    halved = [ratio for variant, ratio in at_1024.items() if "shrink" in variant and "int8" in variant]
    single = next(row for row in rows if row.variant == STATIC and row.scenario == "single_stream")
    training = {row.variant: row.train_speedup for row in rows if row.train_speedup}
    words = " ".join(WIDE_MLP_WORDS.split())
    assert f"int8 alone serves {at_1024['int8']:.2f} times" in words
    assert f"half the units with it {min(halved):.2f} to {max(halved):.2f} times" in words
    assert min(row.quality_retained for row in rows if row.quality_retained) >= 0.9965
    assert "at 99.7% of the quality or more" in words
    assert single.speedup is not None
    assert f"lose here too ({single.speedup['median']:.2f} times)" in words
    assert f"in batches of 1024 serve {at_1024[STATIC]:.2f} times" in words
    assert f"forward products takes {training['int8']['median']:.2f} times as many steps" in words
    assert verdict(training["int8"]) == "no clear difference"
    assert {row.support for row in rows} == {"native"}
    wide = next(row for row in crossovers()[1] if (row.method, row.width, row.batch) == ("int8", 1024, 1024))
    assert f"{wide.speedup:.1f} times float32 in the second crossover" in " ".join(TOPICS[0].words.split())
    assert f"{at_1024['int8']:.1f} times in *A wide MLP*" in " ".join(TOPICS[0].words.split())


def test_int8_without_instructions_gains_as_little_as_the_page_says():
    at_largest = {
        (name, variant.name): verdict(variant.of("offline")[-1].speedup)
        for name, variants in group_experiments(stored_rows()).items()
        for variant in variants
        if variant.name in ("int8", "int8 (after training)", STATIC, "int8 (weights only, after training)")
    }
    assert {key for key, word in at_largest.items() if word == "faster"} == {("sasrec", STATIC)}
    dlrm = next(row for row in stored_rows() if (row.model, row.variant, row.batch_size) == ("DLRMDCNv2", "int8", 64))
    assert verdict(dlrm.speedup) == "faster"
    assert "batches of 64 gains a third" in " ".join(TOPICS[0].words.split())
    assert dlrm.speedup is not None
    assert 1.3 < dlrm.speedup["median"] < 1.4


def test_a_tenth_of_the_weights_keeps_the_quality_that_the_page_says():
    kept, interval = {}, {}
    for row in stored_rows():
        kept[row.model, row.variant] = row.quality_retained
        interval[row.model, row.variant] = row.quality_retained_ci95
    largest, random = "prune(0.9, element)", "prune(0.9, element, random)"
    percent = {model: round(100 * (1 - kept[model, largest])) for model in ("LSTMTwoBranch", "MultVAE")}
    words = " ".join(next(topic.words for topic in TOPICS if largest in topic.labels).split())
    assert f"the LSTM {percent['LSTMTwoBranch']}% of its quality, MultVAE {percent['MultVAE']}%" in words
    assert kept["DLRMDCNv2", largest] > 1  # which loses nothing
    for model in ("MultVAE", "SASRec"):
        low, high = interval[model, largest]
        assert low < 1 < high
    worth = {model: kept[model, largest] - kept[model, random] for model in ("LSTMTwoBranch", "DLRMDCNv2", "MultVAE")}
    assert f"to the LSTM {worth['LSTMTwoBranch']:.0%}, to DLRM-DCNv2 nothing" in words
    assert abs(worth["DLRMDCNv2"]) < 0.001
    assert worth["MultVAE"] < 0


def test_integer_tables_are_as_fast_and_as_small_as_the_limits_say():
    measured = [
        read_stored(file, FormRow, "benchmarks.table_forms")
        for file in sorted((REPOSITORY / "benchmarks/results/table-forms").glob("*/table_forms.jsonl"))
    ]
    assert len(measured) == 2
    lookups = [row for rows in measured for row in rows if row.work == "lookup"]

    def times(ids: str, bag: int) -> str:
        found = [row.over_float32 for row in lookups if (row.form, row.ids, row.bag) == ("int8", ids, bag)]
        return f"{min(found):.2f} to {max(found):.2f}"

    size = {row.form: row.bytes_over_float32 for row in lookups}
    words = " ".join(LIMITS.split())
    assert f"bags of 26 uniform ids take {times('uniform', 26)} times" in words
    assert f"caches hold most of them, {times('zipf', 26)} times" in words
    assert f"bags of one id {times('uniform', 1)} and {times('zipf', 1)} times" in words
    assert f"{size['int8']:.1%} (8 bits) and {size['int4']:.1%} (4 bits)" in words


def test_of_other_rows_the_page_has_the_tables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    page, copy = tmp_path / "page.md", tmp_path / "rows"
    copy.mkdir()
    (copy / "results.jsonl").write_bytes((REPOSITORY / ROWS / "results.jsonl").read_bytes())
    assert main([f"--rows={copy}", f"--page={page}"]) == 0
    text = page.read_text()
    assert NO_WORDS in text
    for words in (LIMITS, WIDE_MLP_WORDS, *(topic.words for topic in TOPICS)):
        assert words not in text
    tables = [line for line in (REPOSITORY / PAGE).read_text().splitlines() if line.startswith("|")]
    assert [line for line in text.splitlines() if line.startswith("|")] == tables


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
