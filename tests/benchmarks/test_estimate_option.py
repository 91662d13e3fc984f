"""Estimated rows: what is in them, and that nothing takes them for measured ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from assertions import assert_one_line
from config_files import write_config

from benchmarks import estimate_run, show
from benchmarks.estimate_run import Source, platform_of, run_estimate, targets_of
from benchmarks.estimates import TITLE, EstimatedRow, has_estimates, read_estimates, render_estimates, table_line
from benchmarks.results import read_rows
from benchmarks.run import main
from recjax import planning
from recjax.config_files import load_config
from recjax.errors import UserError
from recjax.hardware.compile_absent import Answer, Request
from recjax.hardware.facts import find_chip

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "quick-amd-epyc" / "results.jsonl"
COMPILED = Answer(
    costs={
        "argument_bytes": 1 << 30,
        "output_bytes": 0,
        "alias_bytes": 0,
        "temporary_bytes": 0,
        "code_bytes": 0,
        "flops": {"bfloat16": 918e6},  # a microsecond of a v6e
        "xla_flops": None,
        "traffic_bytes": 1638,
        "collective_bytes": {},
        "loops_counted_once": False,
    },
    samples=100,
    mesh={"data": 1, "model": 1},
    compile_s=1.0,
    compiler="a compiler",
)


def compile_training_alone(request: Request) -> Answer:
    return COMPILED if request.program == "train" else Answer(reason="an example of a reason", needed_bytes=1 << 40)


@pytest.fixture
def folder(ratings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a run on compilers that are not called: their answers are above, and the arithmetic is what is tested."""
    monkeypatch.setattr(planning, "compile_in_child", compile_training_alone)
    source = Source("suite_of_config", str(write_config(tmp_path, ratings_file)), ())
    out = tmp_path / "out"
    assert run_estimate(source, targets_of("tpu"), out) == 0
    return out


def test_rows_hold_the_plan_and_nothing_that_only_a_run_can_give(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(line["case"], line["plan"]["target"], line["plan"]["program"]) for line in lines] == [
        ("tiny/fp32", "v6e:1x1", "train"),
        ("tiny/fp32", "v6e:1x1", "serve"),
    ]
    for line in lines:
        assert line["estimated"] is True
        assert line["plan"]["estimated"] is True
        assert not {"latency_ms", "throughput_samples_per_s", "quality", "valid"} & set(line)
        assert {"versions", "git"} <= set(line["environment"])
    train, serve = read_estimates(folder / "results.jsonl")
    assert train.plan["estimate"]["samples_per_s"] == pytest.approx(100 / 1e-6)
    assert (serve.plan["compiles"], serve.plan["reason"]) == (False, "an example of a reason")
    assert (train.model, train.support) == ("MatrixFactorization", "native")


def test_the_table_is_under_a_title_that_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, serve = rows = read_estimates(folder / "results.jsonl")
    assert table_line(train)[2:9] == ("v6e:1x1", "train", "100", "1.00 of 31.24", "1.00", "compute", "100M")
    assert table_line(serve)[4:] == ("–", "! 1024.00 of 31.24", "–", "–", "–", "–")
    page = render_estimates(rows)
    assert page.startswith(f"# {TITLE}: suite tiny\n")
    assert "! tiny/fp32 on v6e:1x1, serve: does not compile: an example of a reason" in page
    assert (folder / "report.md").read_text() == page
    capsys.readouterr()
    assert show.main([str(folder), f"--out={folder / 'again'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{TITLE}: suite tiny\n")
    assert "which no run beats" in printed
    assert (folder / "again" / "report.md").read_text() == page
    assert not (folder / "again" / "report.html").exists()


def test_a_training_that_does_not_fit_is_said_though_its_step_does(folder: Path) -> None:
    train, _ = read_estimates(folder / "results.jsonl")
    assert train.plan["fits"]
    more = dataclasses.replace(train, plan=train.plan | {"training_bytes": 40 << 30, "fits": False})
    assert table_line(more)[5] == "! 1.00 of 31.24"
    assert "tiny/fp32 on v6e:1x1, train: a whole training does not fit into the memory" in render_estimates([more])


def test_no_table_takes_estimated_and_measured_rows_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r":1: an estimated row, and these are measured ones"):
        read_rows(folder / "results.jsonl")
    mixed = tmp_path / "mixed.jsonl"
    measured = MEASURED.read_text().splitlines()[:3]
    mixed.write_text("\n".join([*measured, *(folder / "results.jsonl").read_text().splitlines()]) + "\n")
    capsys.readouterr()
    assert show.main([str(mixed)]) == 2
    assert_one_line(capsys.readouterr().err, "3 measured and 2 estimated rows, which share no table")
    with pytest.raises(UserError, match=r":4: an estimated row"):
        read_rows(mixed)
    assert not has_estimates(MEASURED)


def test_nothing_that_compiles_is_exit_code_2_and_rows_say_why(
    ratings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "compile_in_child", lambda request: Answer(reason="no compiler"))
    source = Source("suite_of_config", str(write_config(tmp_path, ratings_file)), ())
    assert run_estimate(source, targets_of("gpu"), tmp_path / "out") == 2
    rows = read_estimates(tmp_path / "out" / "results.jsonl")
    assert [row.plan["reason"] for row in rows] == ["no compiler"] * 2


def test_an_interruption_keeps_finished_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def interrupted(*arguments: Any, **named: Any) -> list[planning.PlanRow]:
        if done:
            raise KeyboardInterrupt
        done.append(arguments)
        return planning.plan(*arguments, **named)

    monkeypatch.setattr(planning, "compile_in_child", compile_training_alone)
    monkeypatch.setattr(estimate_run, "plan", interrupted)
    assert run_estimate(Source("load_suite", "smoke", ()), targets_of("tpu"), tmp_path) == 130
    assert len(read_estimates(tmp_path / "results.jsonl")) == 2


def test_a_child_makes_the_same_experiment(tmp_path: Path) -> None:
    source = Source("load_suite", "smoke", ("training.epochs=7",))
    suite = source.load()
    for number, case in enumerate(suite.cases):
        path = tmp_path / f"{number}.py"
        path.write_text(source.config_of(number, 1))
        expected = dataclasses.replace(case.experiment, transforms=case.variants[1].members)
        assert load_config(path) == expected
        assert expected.training.epochs == 7


def test_chips_are_named_as_transforms_name_platforms() -> None:
    assert platform_of(find_chip("v6e")) == "tpu:v6e"
    assert platform_of(find_chip("h200")) == "cuda:9.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimate"], "--estimate is for hardware that is not here; give --device=tpu"),
        (["--estimate", "--device=v6e:3"], "3 is no size of a v6e"),
        (["--estimate", "--device=abacus"], "unknown accelerator 'abacus'"),
        (["--estimate", "--device=tpu", "--suite=quik"], "unknown suite 'quik'"),
        (["--estimate", "--device=tpu", "--parallel=pmap"], "estimates are of programs on a mesh"),
    ],
)
def test_unusable_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"--out={tmp_path / 'out'}"]) == 2
    assert_one_line(capsys.readouterr().err, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.tpu_compiler
def test_a_real_compiler_fills_the_rows(ratings_file: Path, tmp_path: Path) -> None:
    config, out = write_config(tmp_path, ratings_file), tmp_path / "out"
    assert main(["--estimate", "--device=v6e:1x1,v5e:2x2", f"--config={config}", f"--out={out}"]) == 0
    rows = read_estimates(out / "results.jsonl")
    assert [(row.plan["target"], row.plan["program"]) for row in rows] == [
        (target, program) for target in ("v6e:1x1", "v5e:2x2") for program in ("train", "serve")
    ]
    assert all(isinstance(row, EstimatedRow) and row.plan["compiles"] and row.plan["estimate"]["fits"] for row in rows)
    assert all("libtpu" in row.plan["compiler"] for row in rows)
