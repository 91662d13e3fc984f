"""What configs say that they scored is what the committed rows say."""

import dataclasses
import json
from pathlib import Path

import pytest
from assertions import assert_one_line

from benchmarks.quality_rows import QualityRow, read_rows
from tools import measured_scores
from tools.measured_scores import main, measured_line

ROOT = Path(__file__).parents[2]
ROWS = sorted((ROOT / measured_scores.ROWS).glob("*.jsonl"))


def row(config: Path, seed: int, value: float, overrides: tuple[str, ...] = ()) -> QualityRow:
    return QualityRow(
        experiment="mine",
        config=str(config),
        overrides=list(overrides),
        identity=f"i{seed}",
        seed=seed,
        protocol="p",
        metric="ndcg@10",
        validation=0.5,
        epoch=1,
        epochs=2,
        n=3,
        quality={"ndcg@10": value, "hr@10": 0.9},
        sanity={},
        parameter_bytes=4,
        train_s=5.0 + seed,
        environment={"device": "a CPU"},
    )


def store(file: Path, rows: list[QualityRow]) -> str:
    file.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))
    return str(file)


def test_the_line_is_mean_and_deviation_of_the_metric_that_chose(tmp_path: Path) -> None:
    rows = [row(tmp_path, seed, value) for seed, value in enumerate((0.1, 0.2, 0.3))]
    assert measured_line(rows) == "Measured: NDCG@10 0.2000 ±0.1000 over 3 seeds, 6 s each on a CPU (docs/quality.md)."
    assert measured_line(rows[:1]) == "Measured: NDCG@10 0.1000 over 1 seed, 5 s each on a CPU (docs/quality.md)."


def test_only_the_line_of_the_config_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text('"""Mine.\n\nMeasured: soon\n"""\n\nX = "Measured: twice"\n')
    assert main([store(tmp_path / "mine.jsonl", [row(config, 0, 0.25)])]) == 0
    line = "Measured: NDCG@10 0.2500 over 1 seed, 5 s each on a CPU (docs/quality.md)."
    assert config.read_text() == f'"""Mine.\n\n{line}\n"""\n\nX = "Measured: twice"\n'


def test_rows_of_an_override_are_of_no_config(tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text('"""Measured: soon\n"""\n')
    assert main([store(tmp_path / "mine.jsonl", [row(config, 0, 0.25, ("name=other",))])]) == 0
    assert config.read_text() == '"""Measured: soon\n"""\n'


def test_unusable_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.py"
    config.write_text('"""Nothing."""\n')
    assert main([store(tmp_path / "mine.jsonl", [row(config, 0, 0.25)])]) == 2
    assert_one_line(capsys.readouterr().err, f"{config} has no line that begins with 'Measured: '")
    assert main([store(tmp_path / "mine.jsonl", [row(tmp_path / "gone.py", 0, 0.25)])]) == 2
    assert_one_line(
        capsys.readouterr().err, f"{tmp_path / 'mine.jsonl'} is of {tmp_path / 'gone.py'}, which is not here"
    )
    assert main([store(tmp_path / "none.jsonl", [])]) == 2
    assert_one_line(capsys.readouterr().err, f"{tmp_path / 'none.jsonl'} has no rows")


@pytest.mark.parametrize("file", ROWS, ids=lambda file: file.stem)
def test_configs_say_what_the_committed_rows_say(file: Path) -> None:
    rows = read_rows([file])
    if not rows[0].overrides:
        assert measured_line(rows) in (ROOT / rows[0].config).read_text().splitlines()
