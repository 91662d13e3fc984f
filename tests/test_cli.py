import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from assertions import assert_one_line

from recjax import commands
from recjax.cli import main
from recjax.commands import print_quality
from recjax.config import Experiment
from recjax.data.next_item import NextItemData
from recjax.evaluation import make_evaluator
from recjax.hardware import compile_absent
from recjax.training.fit import EpochRecord, FitResult
from recjax.training.pipeline import OnEpoch, finalize

REPOSITORY = Path(__file__).parent.parent


def write_config(folder: Path, ratings_file: Path, extra: str = "") -> str:
    path = folder / "tiny.py"
    path.write_text(
        "from recjax.config import Dataset, Experiment, Training\n"
        "from recjax.models.logistic_regression import LogisticRegressionConfig\n\n\n"
        "def get_config():\n"
        "    training = Training(epochs=2, batch_size=16, learning_rate=1e-2)\n"
        "    return Experiment(\n"
        "        name='tiny',\n"
        f"        dataset=Dataset(source={str(ratings_file)!r}, min_interactions=1, split='random'),\n"
        "        model=LogisticRegressionConfig(),\n"
        "        training=training,\n"
        "        finetuning=training,\n"
        f"        {extra}\n"
        "    )\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, ratings_file: Path) -> str:
    return write_config(tmp_path_factory.mktemp("config"), ratings_file)


@pytest.fixture(scope="module")
def trained(config: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", config, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def figures(output: str, label: str) -> list[str]:
    """Returns the numbers of the table's column of that model."""
    table = [re.split("[┃│]", line)[1:-1] for line in output.splitlines() if line[:1] in ("┃", "│")]
    header = [cell.strip() for cell in table[0]]
    return [cells[header.index(label)].strip() for cells in table[1:]]


def test_train_stores_the_model_the_checkpoints_and_the_curves(trained: Path) -> None:
    assert json.loads((trained / "final" / "metadata.json").read_text())["experiment"]["name"] == "tiny"
    assert (trained / "checkpoints" / "2").is_dir()
    assert list((trained / "tensorboard").glob("events*"))


def test_training_again_trains_no_further_and_reports_the_same(
    config: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((copy / "final" / "metadata.json").read_text())
    assert main(["train", config, "--out", str(copy)]) == 0
    captured = capsys.readouterr()
    assert "epoch 1 loss" not in captured.err
    assert "epoch 2 loss" not in captured.err
    assert "best epoch" in captured.err
    assert json.loads((copy / "final" / "metadata.json").read_text()) == stored
    expected = [f"{value:.4f}" for value in stored["quality"]["metrics"].values()]
    assert figures(captured.out, "tiny (fp32)") == expected


def test_an_interrupted_training_says_how_to_go_on(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = commands.train

    def interrupted_after_an_epoch(*arguments: Any, on_epoch: OnEpoch, **options: Any) -> None:
        def then_interrupt(record: EpochRecord, epochs: int) -> None:
            on_epoch(record, epochs)
            raise KeyboardInterrupt

        real(*arguments, on_epoch=then_interrupt, **options)

    monkeypatch.setattr(commands, "train", interrupted_after_an_epoch)
    assert main(["train", config, "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on from the last validated epoch" in capsys.readouterr().err
    monkeypatch.setattr(commands, "train", real)
    assert main(["train", config, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "epoch 2 loss" in captured.err
    assert "goes on" not in captured.err


def test_evaluate_prints_the_figures_that_train_stored(
    config: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((trained / "final" / "metadata.json").read_text())["quality"]
    assert main(["evaluate", config, "--out", str(trained)]) == 0
    output = capsys.readouterr().out
    assert f"{stored['protocol']}, n={stored['n']}" in output
    assert figures(output, "tiny (fp32)") == [f"{value:.4f}" for value in stored["metrics"].values()]
    assert len(figures(output, "random")) == len(figures(output, "constant")) == len(stored["metrics"])
    assert set(stored["metrics"]) == {"auc", "logloss"} <= set(re.findall(r"\w+", output))


@pytest.mark.parametrize("columns", ["80", "200"])
def test_no_figure_is_cut_off_in_a_terminal_or_a_log(
    columns: str,
    sasrec_experiment: Experiment,
    next_item: NextItemData,
    trained_sasrec: FitResult,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    model = finalize(sasrec_experiment, next_item, trained_sasrec.params)
    quality = make_evaluator(model.score, next_item, "test")(model.variables)
    assert len(quality.metrics) == 15
    print_quality(sasrec_experiment, model, next_item, quality)
    output = capsys.readouterr().out
    assert "…" not in output
    for name, value in quality.metrics.items():
        assert name in output
        assert f"{value:.4f}" in output


def test_more_epochs_are_another_experiment(config: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "--out", str(copy), "--set", "training.epochs=3"]) == 2
    assert_one_line(capsys.readouterr().err, "of another experiment: training.epochs differ")


def test_evaluate_before_train(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", config, "--out", str(tmp_path / "nothing")]) == 2
    assert_one_line(capsys.readouterr().err, str(tmp_path / "nothing"), "train it first")
    assert not (tmp_path / "nothing").exists()


def test_evaluate_of_another_experiment(config: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", config, "--out", str(trained), "--set", "training.seed=5"]) == 2
    assert_one_line(capsys.readouterr().err, "holds another experiment: training.seed differ")


@pytest.mark.parametrize("metadata", ["", "{", "{}", "[]", '{"experiment": {}}'])
def test_evaluate_of_corrupt_metadata(
    config: str, copy: Path, metadata: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "final" / "metadata.json").write_text(metadata)
    assert main(["evaluate", config, "--out", str(copy)]) == 2
    assert_one_line(capsys.readouterr().err, str(copy / "final"))


def test_evaluate_of_metadata_that_lost_a_field(config: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "final" / "metadata.json"
    values = json.loads(path.read_text())
    del values["model_config"]
    path.write_text(json.dumps(values))
    assert main(["evaluate", config, "--out", str(copy)]) == 2
    assert_one_line(capsys.readouterr().err, str(copy / "final"))


@pytest.mark.parametrize("corrupt", ["removed", "unreadable_description"])
def test_evaluate_of_arrays_that_cannot_be_read(
    config: str, copy: Path, corrupt: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    arrays = copy / "final" / "arrays"
    if corrupt == "removed":
        shutil.rmtree(arrays)
    else:
        (arrays / "_METADATA").write_text("{")
    assert main(["evaluate", config, "--out", str(copy)]) == 2
    error = capsys.readouterr().err
    assert_one_line(error, f"cannot read {copy / 'final'}", "train it again")
    assert "NoneType" not in error  # the reason is one that a user can read
    assert caplog.messages == []  # outside of pytest a logged warning is a second line on stderr


def test_evaluate_of_truncated_arrays(config: str, copy: Path) -> None:
    # In a process of its own: what Orbax leaves behind after a failed read complains at some later moment.
    files = [path for path in (copy / "final" / "arrays").rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command = [sys.executable, "-c", "import sys; from recjax.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run(
        [*command, "evaluate", config, "--out", str(copy)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert_one_line(done.stderr, f"cannot read {copy / 'final'}", "train it again")


def test_a_corrupt_checkpoint_says_what_to_delete(config: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "checkpoints" / "2" / "state")
    assert main(["train", config, "--out", str(copy)]) == 2
    assert_one_line(
        capsys.readouterr().err, str(copy / "checkpoints" / "2"), "delete that folder to go on from epoch 1"
    )


def test_what_is_no_transform_is_refused(tmp_path: Path):
    """In a process of its own: here, the test run's own type checks would come first."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\n"
        "from configs.sasrec_movielens_small import get_config as base\n"
        "def get_config():\n"
        "    return dataclasses.replace(base(), transforms=('prune',))\n"
    )
    command = [sys.executable, "-c", "import sys; from recjax.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run([*command, "explain", str(file)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "a chain has 'prune'; allowed: transforms, as in chain(prune(0.5), quantize(8))")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=3", ["'epoch'", "did you mean 'epochs'?"]),
        ("modle.dtype=1", ["'modle'", "did you mean 'model'?"]),
        ("training.epochs=many", ["training.epochs='many'"]),
        ("training.epochs", ["not of the form name=value"]),
    ],
)
def test_an_unusable_override(
    config: str, tmp_path: Path, override: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", config, "--out", str(tmp_path / "out"), "--set", override]) == 2
    assert_one_line(capsys.readouterr().err, *parts)
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_in_the_config_file(
    tmp_path: Path, ratings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, ratings_file, extra="finetunning=training,")
    assert main(["train", config]) == 2
    assert_one_line(capsys.readouterr().err, f"{config}:7: unknown Experiment key", "did you mean 'finetuning'?")


def test_a_config_whose_error_has_several_lines_is_reported_in_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "lines.py"
    config.write_text("def get_config():\n    raise ValueError('first\\nsecond')\n")
    assert main(["train", str(config)]) == 2
    assert_one_line(capsys.readouterr().err, f"{config}:2: ValueError: first")


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_an_absent_device_is_never_replaced(
    config: str, tmp_path: Path, command: str, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, config, "--device", device, "--out", str(tmp_path / "out")]) == 2
    assert_one_line(capsys.readouterr().err, f"no {device} device", "found cpu:0")
    assert not (tmp_path / "out").exists()


def test_an_unknown_device(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "--device", "gpus"]) == 2
    assert_one_line(capsys.readouterr().err, "unknown device 'gpus'", "did you mean 'gpu'?")


def test_an_output_folder_that_is_a_file(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert main(["train", config, "--out", str(path)]) == 2
    assert_one_line(capsys.readouterr().err.splitlines(keepends=True)[-1], str(path))
    assert path.read_text() == "precious"


def test_a_training_without_its_data_makes_no_folder(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, out = tmp_path / "absent.csv", tmp_path / "out"
    assert main(["train", config, "--set", f"dataset.source={absent}", "--out", str(out)]) == 2
    assert str(absent) in capsys.readouterr().err
    assert not out.exists()


def test_a_diverging_training_is_reported_in_one_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "training.learning_rate=1e38", "--out", str(tmp_path / "out")]
    assert main(["train", config, *arguments]) == 2
    assert_one_line(capsys.readouterr().err, "lower learning_rate")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--devices", "v5e:4"], ["device 'v5e:4'", "as v5e:4x4"]),
        (["--devices", "v9:4x4"], ["unknown accelerator 'v9'; valid: a100-40gb"]),
        (["--devices", "v5e:4x4", "--mesh", "data"], ["--mesh is 'data'", "as data=-1,model=2"]),
        (["--devices", "v5e:4x4", "--batch-size", "0"], ["--batch-size is 0; allowed: >= 1"]),
        (["--devices", "v5e:4x4", "--prices", "none.toml"], ["cannot read the price file none.toml"]),
        (["--devices", "v5e:4x4", "--json", "nowhere/plan.json"], ["there is no folder nowhere"]),
        (["--devices", "v5e:4x4", "--json", "."], ["--json is ., and that is a folder"]),
        (["--devices", "v5e:4x4", "--set", "dataset.source=nothing"], ["unknown Dataset.source 'nothing'"]),
        (["--devices", "v5e:4x4", "--set", "model.x=1"], ["unknown config key in 'model.x'"]),
    ],
)
def test_an_unusable_plan_is_one_line(
    config: str, arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", config, *arguments]) == 2
    assert_one_line(capsys.readouterr().err, *parts)


def test_a_plan_prints_a_table_and_writes_rows(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_absent, "missing_compiler", lambda platform: f"no compiler for {platform}")
    path = tmp_path / "plan.json"
    arguments = ["--devices", "v5e:4x4,h200:8", "--program", "serve", "--json", str(path)]
    assert main(["plan", config, *arguments]) == 2
    captured = capsys.readouterr()
    assert "v5e:4x4" in captured.out
    assert "no compiler for cuda" in captured.out
    error = captured.err.splitlines(keepends=True)[-1]
    assert_one_line(error, "nothing compiles for v5e:4x4,h200:8: no compiler for tpu")
    assert [row["reason"] for row in json.loads(path.read_text())] == ["no compiler for tpu", "no compiler for cuda"]


def test_a_plan_of_which_nothing_compiles_for_one_reason_is_that_line_alone(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_absent, "missing_compiler", lambda platform: f"no compiler for {platform}")
    assert main(["plan", config, "--devices", "v5e:4x4,v6e:4x4"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error = captured.err.splitlines(keepends=True)[-1]
    assert_one_line(error, "nothing compiles for v5e:4x4,v6e:4x4: no compiler for tpu")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_plan_that_cannot_be_written_is_printed_all_the_same(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_absent, "missing_compiler", lambda platform: f"no compiler for {platform}")
    assert main(["plan", config, "--devices", "v5e:4x4,h200:8", "--json", "/dev/full"]) == 2
    captured = capsys.readouterr()
    assert "no compiler for cuda" in captured.out
    error = captured.err.splitlines(keepends=True)[-1]
    assert_one_line(error, "cannot write --json=/dev/full: No space left on device")


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recjax", "plan", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: recjax plan ")


@pytest.mark.slow
@pytest.mark.tpu_compiler
def test_a_plan_for_a_tpu_slice_that_is_not_here(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert main(["plan", config, "--devices", "v5e:2x2,v6e:1x1", "--batch-size", "64", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [(row["target"], row["program"], row["samples"]) for row in rows] == [
        ("v5e:2x2", "train", 64),
        ("v5e:2x2", "serve", 64),
        ("v6e:1x1", "train", 64),
        ("v6e:1x1", "serve", 64),
    ]
    assert all(row["estimated"] and row["estimate"]["fits"] for row in rows)
    assert "all-reduce" in rows[0]["costs"]["collective_bytes"]
    assert rows[2]["costs"]["collective_bytes"] == {}
    output = capsys.readouterr().out
    assert output.count("fits") == 4
    assert max(len(line) for line in output.splitlines()) <= 100


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["train|evaluate|explain|plan"]),
        (["plan", "a.py"], ["--devices"]),
        (["plan", "a.py", "--devices", "v5e:4x4", "--out", "x"], ["--out"]),
        (["plan", "a.py", "--devices", "v5e:4x4", "--program", "all"], ["'all'"]),
        (["trian"], ["'trian'"]),
        (["train"], ["CONFIG"]),
        (["train", "a.py", "--epochs", "3"], ["--epochs"]),
    ],
)
def test_a_wrong_command_line_exits_with_one_line(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, *parts, "--help")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--version"], f"recjax {importlib.metadata.version('recjax')}\n"),
        (["--help"], "usage: recjax [-h]"),
        *([[command, "--help"], f"usage: recjax {command} "] for command in ("train", "explain", "plan", "tune")),
    ],
)
def test_help_and_the_version_import_no_jax(arguments: list[str], start: str) -> None:
    code = f"""
import sys
from recjax.cli import main
try:
    main({arguments!r})
except SystemExit as exited:
    heavy = sorted({{"jax", "flax", "numpy", "rich", "orbax"}} & set(sys.modules))
    print("exit", exited.code, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(start)
    assert done.stdout.splitlines()[-1] == "exit 0 []"
    assert done.stderr == ""
