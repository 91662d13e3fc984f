"""Random search: what is drawn, what is kept, what is repeated; a real run of a tiny config."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from config_files import write_config

from benchmarks import hyperparameter_search
from benchmarks.hyperparameter_search import (
    Trial,
    best_first,
    digest,
    draw_trials,
    in_words,
    read_trials,
    reseeded,
    tune,
)
from recjax.config import Experiment
from recjax.config_files import load_config
from recjax.data.rating import RatingData
from recjax.errors import UserError

SEED = 7
WIDE = {"model.l2": (0.0, 0.01, 0.1, 1.0), "model.embedding_dim": (2, 4, 8), "training.epochs": (1, 2, 3)}


@pytest.fixture(scope="module")
def config(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"), ratings_file)


@pytest.fixture(scope="module")
def base(config: Path) -> Experiment:
    return load_config(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def trials(config: Path, folder: Path) -> list[Trial]:
    """Returns a run whose test part may not be read, with a budget larger than the grid."""
    real = RatingData.eval_batches

    def without_test(self: RatingData, part: str, batch_size: int) -> Iterator[Any]:
        assert part == "valid", "tuning read the test part"
        return real(self, part, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RatingData, "eval_batches", without_test)
        return tune(config, 10, SEED, folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Returns the experiments that are trained from here on."""
    real, seen = hyperparameter_search.train, []

    def counted(experiment: Experiment, data: Any) -> Any:
        seen.append(experiment)
        return real(experiment, data)

    monkeypatch.setattr(hyperparameter_search, "train", counted)
    return seen


def trial(validation: float | None, **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "experiment": "tiny",
        "identity": "a",
        "overrides": {},
        "seed": SEED,
        "metric": "rmse",
        "validation": validation,
        "epoch": None if validation is None else 1,
        "train_s": 1.0,
    }
    return Trial(**(values | changes))


def stored(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_config_itself_comes_first_and_no_experiment_twice(
    trials: list[Trial], folder: Path, base: Experiment
) -> None:
    lines = stored(folder / "tiny.jsonl")
    assert lines[0]["overrides"] == {}
    assert lines[0]["identity"] == digest(reseeded(base, SEED))
    # The grid has four points, one of which is the config as it stands.
    assert len(lines) == len({line["identity"] for line in lines}) == 4
    assert sorted(in_words(t.overrides) for t in trials) == sorted(in_words(line["overrides"]) for line in lines)


def test_the_same_seed_draws_the_same_points(base: Experiment) -> None:
    drawn = draw_trials(base, WIDE, 12, SEED)
    assert drawn[0] == {}
    assert all(set(overrides) == set(WIDE) for overrides in drawn[1:])
    assert len({digest(hyperparameter_search.apply(base, overrides)) for overrides in drawn}) == len(drawn) == 12
    assert drawn == draw_trials(base, WIDE, 12, SEED)
    assert drawn != draw_trials(base, WIDE, 12, SEED + 1)
    assert draw_trials(base, WIDE, 5, SEED) == drawn[:5]


@pytest.mark.parametrize(("budget", "n_drawn"), [(1, 1), (36, 36), (37, 36)])
def test_the_budget_is_the_number_of_trials_unless_the_grid_is_smaller(
    base: Experiment, budget: int, n_drawn: int
) -> None:
    assert len(draw_trials(base, WIDE, budget, SEED)) == n_drawn  # 4 x 3 x 3, the config among them


def test_an_empty_search_tries_the_config_alone(base: Experiment) -> None:
    assert draw_trials(base, {}, 12, SEED) == [{}]


def test_a_diverged_trial_is_kept_without_a_figure_and_comes_last(trials: list[Trial], folder: Path) -> None:
    diverged = [line for line in stored(folder / "tiny.jsonl") if line["validation"] is None]
    assert [line["overrides"]["training.learning_rate"] for line in diverged] == [1e30, 1e30]
    assert [t.validation is None for t in trials] == [False, False, True, True]


def test_the_lowest_error_is_the_best(trials: list[Trial]) -> None:
    assert {t.metric for t in trials} == {"rmse"}
    assert trials[0].validation < trials[1].validation  # type: ignore[operator]


@pytest.mark.parametrize(
    ("metric", "ordered"),
    [
        ("rmse", [0.1, 0.2, 0.3, None]),
        ("logloss", [0.1, 0.2, 0.3, None]),
        ("auc", [0.3, 0.2, 0.1, None]),
        ("ndcg@10/sampled(99)", [0.3, 0.2, 0.1, None]),
    ],
)
def test_which_way_a_metric_is_better(metric: str, ordered: list[float | None]) -> None:
    found = best_first([trial(value, metric=metric) for value in (None, 0.2, 0.3, 0.1)])
    assert [t.validation for t in found] == ordered


def test_a_second_run_trains_nothing(
    trials: list[Trial], config: Path, folder: Path, trained: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "tiny.jsonl").read_bytes()
    assert tune(config, 10, SEED, folder) == trials
    assert trained == []
    assert (folder / "tiny.jsonl").read_bytes() == before
    shown = capsys.readouterr().err
    assert "the config as it stands" in shown
    assert "diverged" in shown


def test_a_larger_budget_adds_what_is_missing(config: Path, tmp_path: Path, trained: list[Experiment]) -> None:
    tune(config, 1, SEED, tmp_path)
    assert len(tune(config, 2, SEED, tmp_path)) == len(trained) == 2


def test_a_changed_config_or_another_seed_starts_anew(
    config: Path, ratings_file: Path, tmp_path: Path, trained: list[Experiment]
) -> None:
    (first,) = tune(config, 1, SEED, tmp_path)
    (other_seed,) = tune(config, 1, SEED + 1, tmp_path)
    changed = write_config(tmp_path, ratings_file, epochs=1)
    (other_config,) = tune(changed, 1, SEED, tmp_path)
    assert len(trained) == len({t.identity for t in (first, other_seed, other_config)}) == 3
    assert [e.training.epochs for e in trained] == [2, 2, 1]
    assert [(e.training.seed, e.dataset.seed) for e in trained] == [(SEED, SEED), (SEED + 1, SEED + 1), (SEED, SEED)]
    assert len(stored(tmp_path / "tiny.jsonl")) == 3


def test_an_interruption_keeps_finished_trials(
    config: Path, tmp_path: Path, trained: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hyperparameter_search.train

    def second_is_interrupted(experiment: Experiment, data: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        return real(experiment, data)

    monkeypatch.setattr(hyperparameter_search, "train", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(config, 2, SEED, tmp_path)
    assert len(stored(tmp_path / "tiny.jsonl")) == 1


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"experiment": "tiny", "ident', "not JSON"),
        ("", "not JSON"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"experiment": "tiny"}', "missing or unknown fields: epoch, identity"),
        (json.dumps(dataclasses.asdict(trial(1.0)) | {"validation": "low"}), "validation is 'low'"),
        (json.dumps(dataclasses.asdict(trial(1.0)) | {"overrides": None}), "overrides is None"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_broken_line_of_stored_trials_is_told_by_its_number(
    line: str, part: str, config: Path, tmp_path: Path, trained: list[Experiment]
) -> None:
    file = tmp_path / "tiny.jsonl"
    whole = json.dumps(dataclasses.asdict(trial(1.0)))
    file.write_bytes(f"{whole}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(UserError) as raised:
        tune(config, 1, SEED, tmp_path)
    assert str(raised.value).startswith(f"{file}:2: not a row of python -m benchmarks.hyperparameters: ")
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert trained == []


def test_stored_trials_come_back_as_they_were_each_once(tmp_path: Path) -> None:
    first = trial(0.5, overrides={"model.hidden_dims": (200, 100), "model.l2": 0.1})
    second, again = trial(0.4, identity="b"), trial(0.5, overrides={})
    file = tmp_path / "tiny.jsonl"
    file.write_text("".join(json.dumps(dataclasses.asdict(t)) + "\n" for t in (first, second, again)))
    assert read_trials(file) == [first, second]
