"""A run whose steps have processes of their own: from the beginning, from where it stopped, and one row again."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.manifest import describe_command, experiment_digest, write_manifest
from benchmarks.reproduce import reproduce
from benchmarks.results import Row, check_row, read_row_samples, read_rows
from benchmarks.runner import run_apart
from benchmarks.suite import Source
from recjax.command_line import INTERRUPTED

CONFIG = """
from recjax.config import Dataset, Experiment, Serving, Training
from recjax.models.sasrec import SASRecConfig


def get_config() -> Experiment:
    training = Training(epochs=1, batch_size=16)
    return Experiment(
        name="tiny",
        dataset=Dataset(source={source!r}, min_interactions=1, max_history=6),
        model=SASRecConfig(embedding_dim=8, heads=2, mlp_dims=(16,)),
        training=training,
        finetuning=training,
        serving=Serving(buckets=(1, 16), slo_ms=500.0, top_k=5),
    )
"""


@pytest.fixture(scope="module")
def source(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG.format(source=str(ratings_file)))
    return Source("suite_of_config", str(path), (), scenarios=("single_stream", "offline"))


@pytest.fixture(scope="module")
def folder(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run that had stopped after its training, and then went on."""
    folder = tmp_path_factory.mktemp("run")
    write_manifest(folder, "20250102T030405-abcdef", describe_command(source, "cpu"), source.load())
    (folder / "results.jsonl").touch()
    request = {"source": describe_command(source, "cpu"), "device": "cpu", "folder": str(folder)}
    step.run_apart(request | {"step": "prepare", "name": "tiny"})
    trained = (folder / "models" / "tiny" / "prepared.json").read_text()
    assert run_apart(source.load(), source, "cpu", folder, resume=True) == 0
    assert (folder / "models" / "tiny" / "prepared.json").read_text() == trained  # the training is that of before
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return read_rows(folder / "results.jsonl")


@pytest.mark.slow
def test_every_row_is_complete_and_says_how_to_get_it_again(rows: list[Row], source: Source) -> None:
    assert [(row.scenario, row.batch_size, row.variant) for row in rows] == [
        (scenario, size, variant)
        for scenario, size in (("single_stream", 1), ("offline", 16))
        for variant in ("fp32", "null")
    ]
    for row in rows:
        check_row(row)
        digest = experiment_digest(source.load().cases[0], row.variant)
        command = describe_command(source, "cpu") | {"experiment_digest": digest}
        assert row.environment["command"] == json.loads(json.dumps(command))
        assert row.peak_host_bytes is not None
        assert row.run_id == "20250102T030405-abcdef"  # a run that goes on is the same run


@pytest.mark.slow
def test_nothing_is_left_of_the_steps_and_every_sample_is_kept(folder: Path, rows: list[Row]) -> None:
    assert not (folder / "parts").exists()
    samples = read_row_samples(folder / "samples.npz")
    assert {len(samples[f"{r.case}/{r.scenario}/{r.batch_size}"].latency_ms) for r in rows} == {
        row.latency_ms["n"] for row in rows
    }
    assert len(list((folder / "histograms").glob("*.hlog"))) == len(rows)


@pytest.mark.slow
def test_a_finished_run_that_goes_on_measures_nothing(
    folder: Path, rows: list[Row], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: object) -> None:
        raise AssertionError(f"a step was run: {request}")

    monkeypatch.setattr(step, "run_apart", refuse)
    assert run_apart(source.load(), source, "cpu", folder, resume=True) == 0
    assert read_rows(folder / "results.jsonl") == rows


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False])
def test_what_an_earlier_run_left_is_not_taken_for_this_ones(
    folder: Path, rows: list[Row], source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    # As of a run that ended before its first row.
    write_manifest(other, "another-run", describe_command(source, "cpu"), source.load())
    asked: list[str] = []

    def interrupted(request: Mapping[str, str]) -> None:
        asked.append(request["step"])
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "run_apart", interrupted)
    assert run_apart(source.load(), source, "cpu", other, resume=resume) == INTERRUPTED
    assert asked == ["measure" if resume else "prepare"]  # a fresh run trains anew, whatever models are there
    assert read_rows(other / "results.jsonl") == rows  # until there is a first row to take their place


@pytest.mark.slow
def test_one_row_is_measured_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(f"{folder}:tiny/fp32/offline/16", tmp_path) == 0
    captured = capsys.readouterr()
    printed = captured.out
    assert "other than then: experiment" not in captured.err + printed
    assert "tiny/fp32/offline/16" in printed
    assert "now / then" in printed
    again = read_rows(tmp_path / "results.jsonl")
    assert {row.scenario for row in again} == {"offline"}
    assert {row.variant for row in again} == {"fp32", "null"}


@pytest.mark.slow
def test_loadgen_asks_the_same_model(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    asked_by_loadgen = dataclasses.replace(source, scenarios=("single_stream", "server"), loadgen="mlperf")
    assert run_apart(asked_by_loadgen.load(), asked_by_loadgen, "cpu", tmp_path) == 0
    rows = {(row.scenario, row.variant): row for row in read_rows(tmp_path / "results.jsonl")}
    for scenario in ("single_stream", "server"):
        row = rows[scenario, "fp32"]
        assert row.valid, row.invalid_reason
        assert row.load is not None
        assert row.load["verdict"]["result"] in ("VALID", "INVALID")
        assert row.latency_ms["n"] >= 20
    assert rows["server", "fp32"].target_qps is not None


@pytest.mark.slow
def test_a_step_that_dies_is_one_line_and_keeps_what_there_is(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recjax.errors import UserError

    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag_of_xla")  # XLA ends the process
    request = {"source": describe_command(source, "cpu"), "device": "cpu", "folder": str(tmp_path)}
    with pytest.raises(UserError, match=r"the process that was to prepare tiny ended with code -?\d+"):
        step.run_apart(request | {"step": "prepare", "name": "tiny"})
    assert "XLA_FLAGS" in os.environ
