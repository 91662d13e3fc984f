import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from recjax import progress
from recjax.progress import stage


def capture(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, highlight=False, soft_wrap=not terminal, width=120)
    monkeypatch.setattr(progress, "console", console)
    return written


def test_a_log_gets_one_line_with_the_time_and_the_last_note(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with stage("sasrec: training", 3) as advance:
        for epoch in (1, 2, 3):
            advance(f"epoch {epoch}")
    (line,) = written.getvalue().splitlines()
    assert re.fullmatch(r"sasrec: training +\d+\.\d s  epoch 3", line)


def test_nothing_is_printed_before_a_short_stage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with stage("sasrec: training", 2) as advance:
        advance("epoch 1")
        assert written.getvalue() == ""


def test_a_log_hears_of_a_long_stage_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    seconds = iter([0.0, 20.0, 40.0, 60.0, 80.0, 80.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    with stage("sasrec: training", 4) as advance:
        for epoch in (1, 2, 3, 4):
            advance(f"epoch {epoch}")
    halfway, final = written.getvalue().splitlines()
    assert re.fullmatch(r"sasrec: training +2 of 4, about 40 s left  epoch 2", halfway)
    assert re.fullmatch(r"sasrec: training +80\.0 s  epoch 4", final)


def test_a_stage_that_goes_on_from_an_earlier_one_counts_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    seconds = iter([0.0, 20.0, 40.0, 40.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    with stage("sasrec: training", 40) as advance:  # the first 30 epochs are in a checkpoint
        advance("epoch 31", remaining=9)
        advance("epoch 32", remaining=8)
    halfway, _ = written.getvalue().splitlines()
    assert re.fullmatch(r"sasrec: training +2 of 10, about 160 s left  epoch 32", halfway)


def test_a_stage_without_notes_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with stage("data", 1) as advance:
        advance("")
    assert re.fullmatch(r"data +\d+\.\d s\n", written.getvalue())


def test_brackets_in_descriptions_and_notes_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with stage("layer [red]", 1) as advance:
        advance("top_mlp[0] -> [8, 16]")
    assert written.getvalue().startswith("layer [red] ")
    assert written.getvalue().endswith("top_mlp[0] -> [8, 16]\n")


def test_a_long_line_of_a_log_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with stage("d" * 100, 1) as advance:
        advance("n" * 100)
    assert written.getvalue().count("\n") == 1


def test_a_terminal_shows_a_bar_and_keeps_the_final_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=True)
    with stage("sasrec: training", 2) as advance:
        advance("epoch 1")
        advance("epoch 2")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert "2/2" in plain
    assert re.search(r"sasrec: training +\d+\.\d s  epoch 2\n$", plain)


def test_an_error_inside_leaves_no_line_that_says_it_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    written = capture(monkeypatch, terminal=False)
    with pytest.raises(ZeroDivisionError), stage("training", 1):
        raise ZeroDivisionError
    assert written.getvalue() == ""
