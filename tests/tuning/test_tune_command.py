"""`recjax tune` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from assertions import assert_one_line

from recjax.cli import main
from recjax.evaluation import make_evaluator
from recjax.serving.deployment import load_deployed, read_deployment
from recjax.training.final_model import load_final_model
from recjax.training.pipeline import load_data

CONFIG = """from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.logistic_regression import LogisticRegressionConfig


def get_config():
    training = Training(epochs=2, batch_size=32, learning_rate=0.1)
    return Experiment(
        name="tiny",
        dataset=Dataset(source={source!r}, min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2)),
        model=LogisticRegressionConfig(),
        training=training,
        finetuning=training,
        serving=Serving(buckets=(1, 16), slo_ms=500.0),  # a limit that holds on a machine busy with other tests
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, ratings_file: Path) -> str:
    path = tmp_path_factory.mktemp("tuned") / "tiny.py"
    path.write_text(CONFIG.format(source=str(ratings_file)))
    return str(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget=soon"], ["--budget is 'soon'", "15m"]),
        (["--memory=2XB"], ["--memory is '2XB'", "512MB"]),
        (["--p99-ms=0"], ["--p99-ms is 0"]),
        (["--p99-ms=fast"], ["--p99-ms", "'fast'"]),
        (["--quality-floor=0"], ["--quality-floor is 0"]),
        (["--price=0.1"], ["--usd-per-hour"]),
        (["--queries=none"], ["--queries is 'none'", "dlrm_v2"]),
        (["--set", "serving.slo=5"], ["serving.slo"]),
        (["--out=/dev/null/x"], ["/dev/null/x", "--out"]),
        (["--device=abacus"], ["abacus"]),
        (["--seed=-1"], ["--seed is -1"]),
    ],
)
def test_an_unusable_option_is_one_line(
    options: list[str], words: list[str], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", config, f"--out={tmp_path / 'study'}", *options]
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "study").exists()


def test_help_answers_without_heavy_imports() -> None:
    command = "import sys, recjax.cli\ntry: recjax.cli.main(['tune', '--help'])\nexcept SystemExit: pass\n"
    check = "assert not {'jax', 'optuna', 'numpy'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", command + check], capture_output=True, text=True, check=True)
    assert "recjax tune configs/" in done.stdout
    assert "--quality-floor SHARE" in done.stdout


@pytest.mark.slow
def test_a_study_ends_with_a_deployment_that_answers_as_the_tuned_model(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    options = ["--queries=4", "--quality-floor=0.9", "--usd-per-hour=0.36", "--memory=1GB"]
    arguments = ["tune", config, f"--out={folder}", *options]
    assert main([*arguments, "--budget=25s"]) == 0
    captured = capsys.readouterr()
    assert "trial 0   fp32, buckets 1 16" in captured.err
    assert "* is the chosen one" in captured.out
    lines = [json.loads(line) for line in (folder / "frontier.jsonl").read_text().splitlines()]
    (chosen,) = [line for line in lines if line["chosen"]]
    assert chosen["remeasured"]["confirmed"]
    for line in lines:
        empty = {k for k, v in line.items() if v is None and k not in ("stage", "reason")}
        assert empty <= line["reasons"].keys()
        assert line["memory_bytes"] is None or line["memory_bytes"] <= 10**9

    deployment = read_deployment(folder / "deployment.toml")
    assert list(deployment.serving.buckets) == chosen["buckets"]
    assert deployment.measured["samples_per_s"] == chosen["remeasured"]["samples_per_s"]
    took_s = deployment.measured["took_s"]
    assert deployment.measured["budget_s"] == 25.0
    assert json.loads((folder / "study.json").read_text())["spent_s"] == pytest.approx(took_s, abs=5.0)
    assert f"{took_s:.0f} s of a budget of 25 s" in captured.out
    million_s = 1e6 / deployment.measured["samples_per_s"]  # at a tenth of a cent for ten seconds of a device
    assert deployment.measured["usd_per_million"] == pytest.approx(1e-4 * deployment.serving.devices * million_s)
    assert deployment.limits.queries == "4 a query, uniform rows"
    compiled, columns = load_deployed(deployment)
    experiment = deployment.experiment()
    data = load_data(experiment)
    model = load_final_model(folder / deployment.model, experiment, data)
    assert make_evaluator(model.score, data, "test")(model.variables).metrics["auc"] == deployment.measured["test"]
    rows = np.arange(5, dtype=np.int32)
    logits = model.score(model.variables, {name: jnp.asarray(column[rows]) for name, column in columns.items()})
    np.testing.assert_allclose(compiled(columns, rows)["probability"], 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-5)

    # The same command goes on: its budget is spent, so that it only measures the frontier anew.
    assert main([*arguments, "--budget=25s"]) == 0
    again = [json.loads(line) for line in (folder / "frontier.jsonl").read_text().splitlines()]
    assert [line["number"] for line in again] == [line["number"] for line in lines]
    capsys.readouterr()
    assert main([*arguments, "--budget=25s", "--p99-ms=40"]) == 2
    assert_one_line(capsys.readouterr().err, "another study", "goal.p99_ms")


@pytest.mark.slow
def test_limits_that_nothing_holds_are_one_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", config, f"--out={tmp_path / 'study'}", "--memory=10B", "--budget=15s"]
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: nothing holds the limits: ")
    assert "memory" in last
    assert json.loads((tmp_path / "study" / "frontier.jsonl").read_text().splitlines()[0])["stage"] == "memory"
