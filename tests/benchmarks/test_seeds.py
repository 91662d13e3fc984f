"""Quality over seeds: the command line, and one real run of a tiny suite."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest
from assertions import assert_one_line

from benchmarks import seed_quality
from benchmarks.seed_quality import SeedRow, render, run_seeds, summary_lines
from benchmarks.seeds import main
from benchmarks.suite import Case, Suite
from recjax.config import Experiment, Serving
from recjax.errors import TrainingDivergedError
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain

VARIANTS = ("fp32", "bf16")
REFERENCES = ("random", "popularity")
CPU = jax.devices("cpu")[0]


@pytest.fixture(scope="module")
def tiny_suite(sasrec_experiment: Experiment) -> Suite:
    experiment = dataclasses.replace(
        sasrec_experiment,
        training=dataclasses.replace(sasrec_experiment.training, epochs=2),
        finetuning=dataclasses.replace(sasrec_experiment.finetuning, epochs=1),
        serving=Serving(buckets=(8,), top_k=5),
    )
    return Suite(name="tiny", description="d", cases=(Case(experiment=experiment, variants=(chain(), chain(bf16()))),))


@pytest.fixture(scope="module")
def folder(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    assert run_seeds(tiny_suite, range(2), CPU, folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[SeedRow]:
    return [SeedRow(**json.loads(line)) for line in (folder / "seeds.jsonl").read_text().splitlines()]


def row(seed: int, quality: float, **changes: Any) -> SeedRow:
    values: dict[str, Any] = {
        "suite": "s",
        "experiment": "model_a",
        "variant": "int8",
        "seed": seed,
        "protocol": "p/test",
        "quality_metric": "ndcg@10",
        "quality": {"ndcg@10": quality},
        "quality_retained": quality / 0.05,
        "validation_quality": 0.1,
        "environment": {"device": "d", "versions": {"jax": "1"}, "git": {"commit": "abc", "modified": False}},
    }
    return SeedRow(**(values | changes))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--suite=quik"], ["unknown suite 'quik'", "did you mean 'quick'?"]),
        (["--device=cpus"], ["unknown device 'cpus'"]),
        (["--set", "dataset.source=my.csv"], ["'my.csv'", "no such file exists"]),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*arguments, f"--out={out}"]) == 2
    assert_one_line(capsys.readouterr().err, *parts)
    assert not out.exists()


@pytest.mark.parametrize("seeds", ["1", "0", "-3", "many"])
def test_too_few_seeds_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([f"--seeds={seeds}"])
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, seeds, "--help")


def test_every_variant_and_reference_has_a_row_a_seed(rows: list[SeedRow]) -> None:
    assert [(r.seed, r.variant) for r in rows] == [(seed, name) for seed in (0, 1) for name in VARIANTS + REFERENCES]
    assert {r.protocol.rpartition("/")[2] for r in rows} == {"test"}


def test_seeds_change_what_is_trained_and_not_the_split(rows: list[SeedRow]) -> None:
    first, second = ({r.variant: r for r in rows if r.seed == seed} for seed in (0, 1))
    assert first["fp32"].validation_quality != second["fp32"].validation_quality
    for reference in REFERENCES:
        assert first[reference].quality == second[reference].quality
    assert first["fp32"].protocol == second["fp32"].protocol


def test_the_share_kept_is_of_the_same_seeds_fp32(rows: list[SeedRow]) -> None:
    for seed in (0, 1):
        fp32, rounded, *references = (r for r in rows if r.seed == seed)
        assert fp32.quality_retained == 1
        assert rounded.quality_retained == rounded.quality["ndcg@10"] / fp32.quality["ndcg@10"]
        assert {r.quality_retained for r in references} == {None}


def test_seed_zero_is_the_suite_as_it_stands(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Case] = []

    def stop(case: Case, folder: Path) -> None:
        prepared.append(case)
        raise KeyboardInterrupt

    monkeypatch.setattr(seed_quality, "prepare_case", stop)
    assert run_seeds(tiny_suite, range(2), CPU, tmp_path) == 130
    assert prepared == list(tiny_suite.cases)


def test_an_interruption_keeps_finished_cases_and_writes_the_table(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = seed_quality.prepare_case, []

    def second_is_interrupted(case: Case, folder: Path) -> Any:
        calls.append(case)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(case, folder)

    monkeypatch.setattr(seed_quality, "prepare_case", second_is_interrupted)
    assert run_seeds(tiny_suite, range(2), CPU, tmp_path) == 130
    assert len((tmp_path / "seeds.jsonl").read_text().splitlines()) == len(VARIANTS + REFERENCES)
    assert "bf16" in (tmp_path / "seeds.md").read_text()


def test_a_failing_seed_leaves_the_finished_ones_and_the_table(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = seed_quality.prepare_case, []

    def second_diverges(case: Case, folder: Path) -> Any:
        calls.append(case)
        if len(calls) == 2:
            raise TrainingDivergedError("the training loss is nan")
        return real(case, folder)

    monkeypatch.setattr(seed_quality, "prepare_case", second_diverges)
    with pytest.raises(TrainingDivergedError):
        run_seeds(tiny_suite, range(2), CPU, tmp_path)
    assert len((tmp_path / "seeds.jsonl").read_text().splitlines()) == len(VARIANTS + REFERENCES)
    assert "bf16" in (tmp_path / "seeds.md").read_text()


def test_a_seed_below_the_floor_is_named() -> None:
    text = render([row(0, 0.05), row(1, 0.01, below_floor="validation ndcg@10 0.01 is below 0.04")])
    assert "model\\_a / int8, seed 1: validation ndcg@10 0.01 is below 0.04" in text
    assert "floor" not in render([row(0, 0.05)])
    assert "below" not in render([row(0, 0.05)])


def test_the_table_by_hand() -> None:
    qualities = [0.049, 0.050, 0.054]
    (line,) = summary_lines([row(seed, quality) for seed, quality in enumerate(qualities)])
    # mean .051, deviation .0026; shares .98, 1, 1.08: mean 1.02, standard error .0306, t(2) = 4.303
    assert line == ("model_a", "int8", "NDCG@10", "3", "0.0510", "0.0026", "102.0 ±13.1", "98.0", "108.0")


def test_a_reference_or_a_single_seed_has_dashes_for_what_it_cannot_have() -> None:
    (reference,) = summary_lines([row(0, 0.02, quality_retained=None, validation_quality=None)])
    assert reference[3:] == ("1", "0.0200", "–", "–", "–", "–")
    (single,) = summary_lines([row(0, 0.05)])
    assert single[5:] == ("–", "100.0", "100.0", "100.0")


def test_the_report_says_under_what_its_figures_were_had(rows: list[SeedRow], folder: Path) -> None:
    text = (folder / "seeds.md").read_text()
    assert text == render(rows)
    for part in ("tiny", f"jax {jax.__version__}", "bf16", "popularity", "full\\_catalogue"):
        assert part in text
