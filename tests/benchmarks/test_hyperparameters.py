"""The tuning command line."""

from pathlib import Path

import pytest
from assertions import assert_help_is_light, assert_one_line
from config_files import write_config

from benchmarks import hyperparameter_search
from benchmarks.hyperparameters import main


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a training started")

    monkeypatch.setattr(hyperparameter_search, "train", refuse)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("search", "parts"),
    [
        ("", ["it does not define SEARCH"]),
        ("SEARCH = ['model.l2']", ["SEARCH of ", "['model.l2']", "allowed: a dict"]),
        ("SEARCH = {'model.l3': (0.1,)}", ["'model.l3'", "did you mean 'l2'?"]),
        ("SEARCH = {'modl.l2': (0.1,)}", ["'modl.l2'", "did you mean 'model'?"]),
        ("SEARCH = {'model': (0.1,)}", ["'model' is a group"]),
        ("SEARCH = {'model.l2': 0.1}", ["SEARCH['model.l2']", "is 0.1; allowed: a tuple of values"]),
        ("SEARCH = {'model.l2': [0.1, 0.2]}", ["is [0.1, 0.2]; allowed: a tuple of values"]),
        ("SEARCH = {'model.l2': ()}", ["is (); allowed: a tuple of values"]),
        ("SEARCH = {'model.l2': (0.1, 'high')}", ["model.l2='high'"]),
        ("SEARCH = {'model.l2': (0.1, -0.1)}", ["MatrixFactorizationConfig.l2 is -0.1", "allowed: >= 0"]),
        ("SEARCH = {'model.l2': (", ["SyntaxError"]),
    ],
)
def test_an_unusable_search_is_one_line_and_exit_code_2(
    search: str, parts: list[str], ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, ratings_file, search=search)
    assert main([str(path), f"--out={tmp_path / 'out'}"]) == 2
    assert_one_line(capsys.readouterr().err, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_training")
def test_other_unusable_input_is_one_line_and_exit_code_2(
    ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, ratings_file))
    elsewhere = str(write_config(tmp_path, "no/such.csv", name="elsewhere"))
    a_file = tmp_path / "file"
    a_file.write_text("precious")
    for arguments, part in (
        (["no/such/config.py"], "no config file 'no/such/config.py'"),
        ([config, "--device=cpus"], "did you mean 'cpu'?"),
        ([elsewhere], "'no/such.csv'"),
        ([config, f"--out={a_file}"], str(a_file)),
    ):
        assert main([f"--out={tmp_path / 'out'}", *arguments]) == 2
        assert_one_line(capsys.readouterr().err, part)
    assert not (tmp_path / "out").exists()
    assert a_file.read_text() == "precious"


@pytest.mark.parametrize("arguments", [[], ["a.py", "--trials=0"], ["a.py", "--trials=few"], ["a.py", "--seeds=3"]])
def test_unusable_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, "--help")


@pytest.mark.usefixtures("no_training")
def test_a_broken_line_is_one_line_and_exit_code_2(
    ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.jsonl").write_text("{\n")
    assert main([str(write_config(tmp_path, ratings_file)), f"--out={tmp_path}"]) == 2
    assert_one_line(capsys.readouterr().err, f"{tmp_path / 'tiny.jsonl'}:1: ")


def test_it_tunes_every_config_and_prints_the_best_first(
    ratings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("first", "second")
    configs = [str(write_config(tmp_path, ratings_file, name=name, epochs=1)) for name in names]
    assert main([*configs, "--trials=1", f"--out={tmp_path / 'out'}"]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["first.jsonl", "second.jsonl"]
    shown = capsys.readouterr().err
    for part in ("validation rmse", *names, "the config as it stands"):
        assert part in shown


def test_help_imports_nothing_heavy() -> None:
    assert_help_is_light("benchmarks.hyperparameters", "--trials")
