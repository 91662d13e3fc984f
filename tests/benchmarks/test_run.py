"""The benchmark's command line."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from assertions import assert_help_is_light, assert_one_line

from benchmarks import measuring, runner
from benchmarks.run import main
from benchmarks.runner import run_suite
from benchmarks.suite import Case, Measurement, Suite
from recjax.config import Experiment, Serving
from recjax.errors import UserError
from recjax.hardware.ceilings import Ceilings
from recjax.load import mlperf
from recjax.load.arrivals import Arrivals
from recjax.parallel import start
from recjax.parallel.start import Processes

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a run that starts all the same fail the test."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("the run started")

    monkeypatch.setattr(runner, "ResultWriter", refuse)


@pytest.mark.parametrize(
    ("option", "named"), [("--set=training.epochs=1", "--set"), ("--shard=1/2", "--shard"), ("--resume", "--resume")]
)
def test_the_peers_suite_takes_no_option_of_the_others(
    option: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--suite=peers", option])
    assert raised.value.code == 2
    assert_one_line(capsys.readouterr().err, f"--suite=peers with {named}; allowed: --device and --out")


def test_the_peers_suite_is_of_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite=peers", "--device=gpu"]) == 2
    assert_one_line(capsys.readouterr().err, "the peers suite runs on a CPU", "allowed: --device=cpu")


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--suite=quik"], ["unknown suite 'quik'", "did you mean 'quick'?"]),
        (["--suite=peer"], ["unknown suite 'peer'", "did you mean 'peers'?"]),
        (["--device=cpus"], ["unknown device 'cpus'", "did you mean 'cpu'?"]),
        (["--device=CPU"], ["unknown device 'CPU'", "valid: cpu, gpu, tpu"]),
        (["--set", "training.epoch=3"], ["'epoch'", "did you mean 'epochs'?"]),
        (["--set", "trainng.epochs=3"], ["'trainng'", "did you mean 'training'?"]),
        (["--set", "training.epochs=few"], ["training.epochs='few'", "integer"]),
        (["--set", "training.epochs"], ["not of the form name=value"]),
        (["--set", "dataset.source=my/log.csv"], ["'my/log.csv'", "no such file exists"]),
        (["--set", "training.weight_decay=-1"], ["Training.weight_decay is -1.0", "allowed: >= 0"]),
        (["--set", "model.heads=0"], ["SASRecConfig.heads is 0", "allowed: >= 1"]),
        (["--set", "model.embedding_dim=0"], ["embedding_dim is 0", "allowed: >= 1"]),
        (["--config=no/such/file.py"], ["no config file 'no/such/file.py'", "defines get_config"]),
        (["--config=."], ["no config file '.'"]),
        (
            ["--set", "measurement.arrivals.kind=trace", "--set", "measurement.arrivals.trace=no/such/trace"],
            ["no trace at no/such/trace", "one arrival time in seconds a line"],
        ),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert_one_line(captured.err, *parts)
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--devise=cpu"], "--devise"),
        (["--rounds=3"], "--rounds"),
        (["quick"], "quick"),
        (["--set"], "--set"),
        (["--suite=smoke", "--config=a.py"], "not allowed with"),
    ],
)
def test_an_unknown_option_is_one_line_and_exit_code_2(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert_one_line(capsys.readouterr().err, part, "--help")


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_an_absent_device_is_never_replaced(device: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([f"--device={device}", "--suite=smoke", f"--out={out}"]) == 2
    told = capfd.readouterr().err
    ours = told[told.index("error: ") :]  # libtpu, where it is installed, writes of its own before
    assert_one_line(ours, f"no {device} device", f"JAX {jax.__version__} found cpu:0")
    assert not out.exists()


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("return Experiment(nam='x')", [":3: unknown Experiment key 'nam'", "did you mean 'name'?"]),
        ("return 3", ["get_config() returned int"]),
        ("return 1 / 0", [":3: ZeroDivisionError"]),
        ("return (", [":3: SyntaxError"]),
    ],
)
def test_a_config_file_that_cannot_be_used(
    tmp_path: Path, body: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from recjax.config import Experiment\ndef get_config():\n    {body}\n")
    assert main([f"--config={path}"]) == 2
    assert_one_line(capsys.readouterr().err, str(path), *parts)


@pytest.mark.parametrize("buckets", [(1,), (1, 4)])
def test_buckets_too_small_for_a_scenario_are_refused_before_training(
    buckets: tuple[int, ...], sasrec_experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A multi_stream query is eight samples, so the largest bucket must hold eight.
    def too_late(*arguments: object) -> None:
        raise AssertionError("training started")

    monkeypatch.setattr(runner, "prepare_case", too_late)
    monkeypatch.setattr(measuring, "measure_ceilings", lambda device: Ceilings({"float32": 1.0}, 1.0))
    experiment = dataclasses.replace(sasrec_experiment, serving=Serving(buckets=buckets))

    def start() -> int:
        suite = Suite(name="s", description="d", cases=(Case(experiment=experiment),))
        return run_suite(suite, jax.devices("cpu")[0], tmp_path)

    with pytest.raises(UserError, match="buckets"):
        start()


@pytest.mark.parametrize("largest", [8, 16])
def test_a_case_without_a_batch_for_offline_is_told(
    largest: int,
    sasrec_experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "prepare_case", stop)
    experiment = dataclasses.replace(sasrec_experiment, serving=Serving(buckets=(1, largest)))
    suite = Suite(name="s", description="d", cases=(Case(experiment=experiment),))
    assert run_suite(suite, jax.devices("cpu")[0], tmp_path) == 130
    told = "tiny_sasrec: no row of offline, which takes batches above 8; the largest of serving.buckets is 8"
    assert (told in " ".join(capsys.readouterr().err.split())) is (largest == 8)


@pytest.mark.usefixtures("no_run")
def test_list_prints_every_suite_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    captured = capsys.readouterr()
    for word in ("quick", "smoke", "zoo", "sasrec", "dlrm_dcnv2", "social_lightgcn_filmtrust"):
        assert word in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("no_run")
def test_the_whole_list_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--list"]) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize(("option", "named"), [("--resume", "--resume"), ("--processes=3", "--processes=3")])
def test_a_run_of_several_processes_refuses_what_is_for_one(
    option: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    several = Processes(index=0, count=2, found_by="a test", coordinator="localhost:1", names=("a", "b"))
    monkeypatch.setattr(start, "start", lambda: several)
    monkeypatch.setattr(start, "quiet_others", lambda: pytest.fail("the run started"))
    assert main(["--suite=smoke", option]) == 2
    assert_one_line(capsys.readouterr().err, f"{named} is for a run of one process; this one has several")


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        ("plotly", {}, r"need plotly: pip install -e '\.\[bench\]'"),
        ("hdrh", {}, r"need hdrhistogram: pip install -e '\.\[bench\]'"),
        (mlperf.PACKAGE, {"loadgen": "mlperf"}, "needs the package mlcommons-loadgen"),
        ("", {"arrivals": Arrivals(kind="trace", trace="no/such/trace")}, "no trace at no/such/trace"),
    ],
)
def test_what_a_run_needs_is_missed_before_anything_is_trained(
    module: str,
    changes: dict[str, Any],
    message: str,
    sasrec_experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "prepare_case", lambda *arguments: pytest.fail("training started"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else "there")
    case, measurement = Case(experiment=sasrec_experiment), Measurement(**changes)
    suite = Suite(name="s", description="d", cases=(case,), measurement=measurement)
    with pytest.raises(UserError, match=message):
        run_suite(suite, jax.devices("cpu")[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert main(["--suite=smoke", f"--out={path}"]) == 2
    assert_one_line(capsys.readouterr().err.splitlines(keepends=True)[-1], str(path))
    assert path.read_text() == "precious"


def test_help_imports_nothing_heavy() -> None:
    assert_help_is_light("benchmarks.run", "--list")


def test_the_module_runs_as_a_command() -> None:
    # Without JAX_PLATFORMS, as a user starts it: no other backend may be tried, nor a traceback shown.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, "-m", "benchmarks.run", "--suite=smok"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "did you mean 'smoke'?")
