"""One row an experiment and seed: a real run of a tiny config, then what a second run does."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from config_files import write_config

from benchmarks import quality_rows
from benchmarks.hyperparameter_search import reseeded
from benchmarks.quality_rows import QualityRow, measure_quality, read_rows
from recjax.config import Experiment
from recjax.config_files import load_config
from recjax.data.rating import RatingData
from recjax.errors import UserError
from recjax.evaluation import make_evaluator
from recjax.training.fit import FitResult
from recjax.training.pipeline import load_data

CPU = jax.devices("cpu")[0]
EPOCHS = 12


@dataclasses.dataclass
class Run:
    """A run of two seeds, what it trained and which parts it read while it trained and after."""

    config: Path
    folder: Path
    rows: list[QualityRow]
    results: list[FitResult]
    read: list[tuple[str, str]]  # (while, part)


@pytest.fixture(scope="module")
def run(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("quality")
    # With so high a learning rate the last epoch is not the best.
    config = write_config(tmp_path_factory.mktemp("config"), ratings_file, epochs=EPOCHS, learning_rate=1.0)
    results: list[FitResult] = []
    read: list[tuple[str, str]] = []
    phase = ["after"]
    real_train, real_batches = quality_rows.train, RatingData.eval_batches

    def train(experiment: Experiment, data: Any) -> FitResult:
        phase[0] = "training"
        results.append(real_train(experiment, data))
        phase[0] = "after"
        return results[-1]

    def eval_batches(self: RatingData, part: str, batch_size: int) -> Iterator[Any]:
        read.append((phase[0], part))
        return real_batches(self, part, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_rows, "train", train)
        patch.setattr(RatingData, "eval_batches", eval_batches)
        rows = measure_quality(config, ["training.batch_size=32"], range(2), CPU, folder)
    return Run(config=config, folder=folder, rows=rows, results=results, read=read)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Returns the experiments that are trained from here on, each for an epoch."""
    real, seen = quality_rows.train, []

    def counted(experiment: Experiment, data: Any) -> Any:
        seen.append(experiment)
        brief = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, epochs=1))
        return real(brief, data)

    monkeypatch.setattr(quality_rows, "train", counted)
    return seen


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]


def test_one_row_a_seed_is_returned_and_stored(run: Run) -> None:
    assert [row.seed for row in run.rows] == [0, 1]
    assert stored(run.folder) == [json.loads(json.dumps(dataclasses.asdict(row))) for row in run.rows]
    assert read_rows([run.folder / "tiny.jsonl"]) == run.rows


def test_a_row_says_everything(run: Run) -> None:
    for row, result in zip(run.rows, run.results, strict=True):
        assert row.experiment == "tiny"
        assert (row.config, row.overrides) == (str(run.config), ["training.batch_size=32"])
        assert row.protocol.endswith(f"/1-core/random_6:2:2/seed={row.seed}/clipped_to_the_scale/test")
        assert set(row.quality) == {"rmse", "mae"}
        assert set(row.sanity) == {"random", "biases"}
        assert all(set(values) == {"rmse", "mae"} for values in row.sanity.values())
        data = load_data(reseeded(load_config(run.config), row.seed))
        assert row.n == len(data.split.test)
        assert row.parameter_bytes == sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(result.params))
        assert row.train_s > 0
        assert row.environment["device"]
        assert {"versions", "git"} <= set(row.environment)
        assert row.environment["versions"]["jax"] == jax.__version__


def test_validation_chose_the_epoch_and_the_test_part_was_read_after_training(run: Run) -> None:
    for row, result in zip(run.rows, run.results, strict=True):
        validations = [record.validation["rmse"] for record in result.history]
        assert len(validations) == row.epochs == EPOCHS
        assert row.metric == "rmse"
        assert row.validation == min(validations)
        assert row.epoch == 1 + validations.index(min(validations)) < EPOCHS
        experiment = reseeded(load_config(run.config), row.seed)
        data = load_data(experiment)
        module = experiment.model.build(data.schema)
        tested = make_evaluator(lambda params, batch, m=module: m.apply({"params": params}, batch), data, "test")
        assert row.quality["rmse"] == pytest.approx(tested(result.params).metrics["rmse"], rel=1e-6)
    assert {part for phase, part in run.read if phase == "training"} == {"valid"}
    assert ("after", "test") in run.read


def test_a_seed_draws_another_split(run: Run) -> None:
    first, second = run.rows
    assert first.identity != second.identity
    assert first.sanity["biases"] != second.sanity["biases"]
    parts = [load_data(reseeded(load_config(run.config), seed)).split for seed in (0, 1)]
    assert not np.array_equal(parts[0].test.item, parts[1].test.item)


def test_a_seed_draws_another_initialisation_where_the_split_is_fixed(
    ratings_file: Path, tmp_path: Path, trained: list[Experiment]
) -> None:
    config = write_config(tmp_path, ratings_file, split="temporal")
    first, second = measure_quality(config, [], range(2), CPU, tmp_path)
    assert first.protocol == second.protocol
    assert first.sanity["biases"] == second.sanity["biases"]
    assert first.quality != second.quality
    assert [(e.training.seed, e.dataset.seed) for e in trained] == [(0, 0), (1, 1)]


def test_a_second_run_trains_nothing(run: Run, trained: list[Experiment]) -> None:
    before = (run.folder / "tiny.jsonl").read_bytes()
    assert measure_quality(run.config, ["training.batch_size=32"], range(2), CPU, run.folder) == run.rows
    assert trained == []
    assert (run.folder / "tiny.jsonl").read_bytes() == before


def test_more_seeds_add_what_is_missing(run: Run, tmp_path: Path, trained: list[Experiment]) -> None:
    (tmp_path / "tiny.jsonl").write_bytes((run.folder / "tiny.jsonl").read_bytes())
    rows = measure_quality(run.config, ["training.batch_size=32"], range(3), CPU, tmp_path)
    assert rows[:2] == run.rows
    assert [experiment.training.seed for experiment in trained] == [2]
    assert len(stored(tmp_path)) == 3


def test_rows_of_another_config_are_set_aside_not_mixed(
    run: Run, tmp_path: Path, trained: list[Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.jsonl"
    before = (run.folder / "tiny.jsonl").read_bytes()
    file.write_bytes(before)
    (row,) = measure_quality(run.config, ["training.batch_size=16"], range(1), CPU, tmp_path)
    assert len(trained) == 1
    assert [line["identity"] for line in stored(tmp_path)] == [row.identity]
    assert (tmp_path / "previous-1" / "tiny.jsonl").read_bytes() == before
    assert str(tmp_path / "previous-1") in capsys.readouterr().err


def test_of_mixed_rows_those_of_the_config_stay(run: Run, tmp_path: Path, trained: list[Experiment]) -> None:
    stale = dataclasses.replace(run.rows[0], identity="another", seed=5)
    lines = [json.dumps(dataclasses.asdict(row)) for row in (stale, *run.rows)]
    (tmp_path / "tiny.jsonl").write_text("\n".join(lines) + "\n")
    assert measure_quality(run.config, ["training.batch_size=32"], range(2), CPU, tmp_path) == run.rows
    assert trained == []
    assert read_rows([tmp_path / "tiny.jsonl"]) == run.rows


def test_another_name_is_another_file(run: Run, tmp_path: Path, trained: list[Experiment]) -> None:
    (row,) = measure_quality(run.config, ["name=tiny_other"], range(1), CPU, tmp_path)
    assert row.experiment == "tiny_other"
    assert [file.name for file in tmp_path.iterdir()] == ["tiny_other.jsonl"]


def test_an_interruption_keeps_finished_seeds(
    run: Run, tmp_path: Path, trained: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quality_rows.train

    def second_is_interrupted(experiment: Experiment, data: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        return real(experiment, data)

    monkeypatch.setattr(quality_rows, "train", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_quality(run.config, [], range(2), CPU, tmp_path)
    assert [line["seed"] for line in stored(tmp_path)] == [0]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"quality": None}, "quality is None"),
        ({"quality": {"rmse": "low"}}, "quality.rmse is 'low'"),
        ({"seed": "first"}, "seed is 'first'"),
        ({"extra": 1}, "missing or unknown fields: extra"),
    ],
)
def test_a_malformed_row_is_told_by_its_line(change: dict[str, Any], part: str, run: Run, tmp_path: Path) -> None:
    whole = dataclasses.asdict(run.rows[0])
    file = tmp_path / "tiny.jsonl"
    file.write_text(f"{json.dumps(whole)}\n{json.dumps(whole | change)}\n")
    with pytest.raises(UserError) as raised:
        read_rows([file])
    assert str(raised.value).startswith(f"{file}:2: not a row of python -m benchmarks.quality: {part}")
    assert "\n" not in str(raised.value)


def test_a_truncated_row_is_told_by_its_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "tiny.jsonl"
    text = (run.folder / "tiny.jsonl").read_text()
    file.write_text(text[:-40])
    with pytest.raises(UserError, match=r"tiny\.jsonl:2: .*not JSON"):
        read_rows([file])
