from pathlib import Path

import numpy as np
import pytest
from assertions import assert_help_is_light, assert_one_line
from compared_runs import draw_samples, make_row, run_of, write_run

from benchmarks.repeat_check import main
from benchmarks.repeats import judge_repeats, source_of_row
from recjax.errors import UserError

ROOT = Path(__file__).parent.parent.parent
STORED = ROOT / "benchmarks/results"


def write_repeats(folder: Path, slowdowns: list[float], half: float = 0.03) -> None:
    """Writes repeats whose interval of the median is the median -+ that share of it."""
    rng = np.random.default_rng(0)
    for number, slowdown in enumerate(slowdowns, start=1):
        samples = draw_samples(rng, slowdown, effect=0.0, n=2_000)
        row = make_row(samples.latency_ms, "sasrec/fp32")
        for name in ("p50", "p99"):
            row.latency_ms[f"ci95_{name}"] = [row.latency_ms[name] * (1 + sign * half) for sign in (-1, 1)]
        row.environment["git"] = {"commit": "abc", "modified": False}
        write_run(run_of(str(number), [row], [samples]), folder / f"{number:02d}")


@pytest.mark.parametrize(("outside", "code"), [(0, 0), (1, 0), (2, 1)])
def test_one_of_ten_may_lie_outside(
    outside: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_repeats(tmp_path, [1.0] * (10 - outside) + [1.1] * outside)
    assert judge_repeats(tmp_path) == code
    covered = f"in {10 - outside} of 10 repeats"
    assert "sasrec/fp32/offline/16: the interval covers the pooled p50, 2.0" in capsys.readouterr().err
    page = (tmp_path / "repeats.md").read_text()
    assert covered in page
    assert page.count("| no |") >= outside
    assert sum(line.startswith("| sasrec/fp32/offline/16 |") for line in page.splitlines()) == 10


def test_an_interval_that_is_too_narrow_is_told(tmp_path: Path) -> None:
    write_repeats(tmp_path, [0.98, 1.0, 1.02, 1.04], half=0.001)
    assert judge_repeats(tmp_path) == 1


def test_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 0 repeats; run python -m benchmarks.repeat_check"):
        judge_repeats(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite=smok"], "unknown suite 'smok'"),
        (["--case=sas"], "unknown case 'sas'"),
        (["--scenario=offlin"], "unknown scenario 'offlin'"),
    ],
)
def test_unknown_names(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize("option", ["--repeats=1", "--processes=2"])
def test_arguments_that_make_no_sense(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([option])
    assert raised.value.code == 2
    assert_one_line(capsys.readouterr().err, option, "allowed")


def test_the_source_is_one_variant_in_one_scenario() -> None:
    suite = source_of_row("smoke", "dlrm_dcnv2", "multi_stream").load()
    assert [[variant.label for variant in case.variants] for case in suite.cases] == [["fp32"]]
    assert suite.cases[0].experiment.name == "dlrm_dcnv2"
    assert suite.measurement.scenarios == ("multi_stream",)


def test_help_answers_at_once() -> None:
    assert_help_is_light("benchmarks.repeat_check", "--repeats")


@pytest.mark.parametrize("name", ["repeat-check", "repeat-check-disturbed"])
def test_the_stored_repeats_cover_their_median(name: str, tmp_path: Path) -> None:
    for file in (STORED / name).glob("*/*"):
        target = tmp_path / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert judge_repeats(tmp_path) == 0
    assert (tmp_path / "repeats.md").read_text() == (STORED / name / "repeats.md").read_text()
