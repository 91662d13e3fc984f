import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compared_runs import draw_samples, make_run, write_run

from benchmarks.compare import load_run, main

CASES = [f"model_{number}/fp32" for number in range(5)]


def written(folder: Path, slowdown: float = 1.0, seed: int = 0, **changes: object) -> str:
    rng = np.random.default_rng([seed, round(100 * slowdown)])
    samples = {case: draw_samples(rng, slowdown) for case in CASES}
    return str(write_run(make_run(folder.name, samples, **changes), folder))


def test_nothing_is_slower_something_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, same, slower = (written(tmp_path / name, factor) for name, factor in (("a", 1.0), ("b", 1.001), ("c", 1.2)))
    assert main([a, same]) == 0
    assert "5 rows: 0 slower, 0 faster, 5 the same; " in capsys.readouterr().out
    assert main([a, f"{slower}/results.jsonl"]) == 1
    assert "5 rows: 5 slower, 0 faster, 0 the same; " in capsys.readouterr().out
    assert main([slower, a, "--paired"]) == 0
    assert "5 rows: 0 slower, 5 faster, 0 the same; " in capsys.readouterr().out
    assert main([a, slower, "--threshold=0.5"]) == 0


def test_lost_quality_is_told_by_the_exit_code(tmp_path: Path) -> None:
    a, worse = written(tmp_path / "a"), written(tmp_path / "b", 1.001, quality={"ndcg@10": 0.1})
    assert main([a, worse]) == 1


def test_markdown_is_written(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a"), written(tmp_path / "b", 1.2)
    assert main([a, b, f"--markdown={tmp_path / 'page.md'}"]) == 1
    assert (tmp_path / "page.md").read_text().startswith("**5 rows: 5 slower, ")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_unusable_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a")
    assert main([a, "no-such-thing"]) == 2
    assert "give two paths that are there, or two git revisions" in one_line(capsys)
    assert main(["no-such-thing", "HEAD"]) == 2
    assert "'no-such-thing' is neither a results file or folder nor a revision that git knows" in one_line(capsys)
    assert main([a, str(tmp_path)]) == 2
    assert f"there are no rows at {tmp_path}/results.jsonl" in one_line(capsys)
    assert main([a, a, "--suite=quick"]) == 2
    assert "--suite is for git revisions" in one_line(capsys)
    assert main([a, a, "--set", "training.epochs=1"]) == 2
    assert "--set is for git revisions" in one_line(capsys)
    assert main([a, a, "--markdown=nowhere/page.md"]) == 2
    assert "--markdown: there is no folder nowhere" in one_line(capsys)
    (tmp_path / "empty.jsonl").touch()
    assert main([a, str(tmp_path / "empty.jsonl")]) == 2
    assert "is empty" in one_line(capsys)
    twice = tmp_path / "twice.jsonl"
    twice.write_text(2 * (tmp_path / "a" / "results.jsonl").read_text())
    assert main([a, str(twice)]) == 2
    assert "has 10 rows of 5 names" in one_line(capsys)


def test_an_estimate_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a")
    line = (tmp_path / "a" / "results.jsonl").read_text().splitlines()[0]
    (tmp_path / "estimate.jsonl").write_text(line.replace('"estimated": false', '"estimated": true'))
    assert main([a, str(tmp_path / "estimate.jsonl")]) == 2
    assert "an estimated row" in one_line(capsys)


def test_nothing_comparable_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, one_process = written(tmp_path / "a"), written(tmp_path / "b", processes=1)
    assert main([a, one_process]) == 2
    output = capsys.readouterr()
    assert output.err == "error: no row can be compared: the reasons stand above\n"
    assert "measured in 1 process" in output.out


def test_rows_without_samples_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a")
    (tmp_path / "a" / "results.jsonl").rename(tmp_path / "a" / "first.jsonl")
    assert main([str(tmp_path / "a" / "first.jsonl"), written(tmp_path / "b")]) == 2
    assert "A has no samples of it" in " ".join(capsys.readouterr().out.split())
    assert Path(a).is_dir()


@pytest.mark.parametrize("arguments", [["a"], ["a", "b", "--threshold=1"], ["a", "b", "--suite=s", "--config=c"]])
def test_arguments_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    one_line(capsys)


def test_a_threshold_of_zero_is_allowed(tmp_path: Path) -> None:
    a = written(tmp_path / "a")
    assert main([a, a, "--threshold=0"]) == 0


def test_help_answers_at_once() -> None:
    imports = "import sys; import benchmarks.compare; sys.exit('jax' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], check=False).returncode == 0


def test_a_run_is_what_was_written(tmp_path: Path) -> None:
    run = load_run(Path(written(tmp_path / "a")))
    assert list(run.rows) == list(run.samples) == [f"{case}/offline/16" for case in CASES]
    assert run.samples["model_0/fp32/offline/16"].processes == [k for k in range(8) for _ in range(3)]
