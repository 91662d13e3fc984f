"""The table and the notes, from rows made by hand."""

import dataclasses

import pytest
from test_peer_rows import ROW

from benchmarks.peers.page import print_rows, render, table_line

ENVIRONMENT = {
    "device": "a CPU",
    "versions": {"jax": "1"},
    "git": {"commit": "abc", "modified": False},
    "noise": {"load_1m": [0.5, 1.2]},
    "others_share": 0.01,
}
TIMED = dataclasses.replace(ROW, environment=ENVIRONMENT)
RECJAX = dataclasses.replace(
    TIMED,
    peer="recjax",
    ratio=None,
    largest_difference=0.0,
    reasons={"ratio": "it is what the others are compared with"},
)
NOT_TIMED = dataclasses.replace(
    TIMED,
    peer="keras-rs",
    versions={},
    reasons=dict.fromkeys(("latency_ms", "median_ms", "cpu_ms", "ratio", "largest_difference"), "it is not installed"),
    **dict.fromkeys(("latency_ms", "median_ms", "cpu_ms", "ratio", "largest_difference")),
)
ROWS = [RECJAX, TIMED, NOT_TIMED, dataclasses.replace(NOT_TIMED, batch_size=128)]


def test_a_line_has_a_dash_for_what_is_not_there() -> None:
    assert table_line(RECJAX) == ("sasrec", "1", "recjax", "2", "1.5", "–", "–", "–", "0.0e+00")
    assert table_line(TIMED) == ("sasrec", "1", "torch-eager", "2", "1.5", "2.00", "1.50 to 2.50", "slower", "1.0e-07")
    assert table_line(NOT_TIMED) == ("sasrec", "1", "keras-rs", *"––––––")


def test_the_page_says_what_was_run_and_why_figures_are_missing() -> None:
    page = render(ROWS)
    assert "- Device: a CPU" in page
    assert "| sasrec | 1 | torch-eager | 2 | 1.5 | 2.00 | 1.50 to 2.50 | slower | 1.0e-07 |" in page
    assert "- Inputs are synthetic" in page
    assert "- Each peer has 2 threads" in page
    assert "- Load of the machine during the turns: 0.5 to 1.2" in page
    assert "- Other programs took 1% to 1% of its processor time\n" in page
    assert "- torch-eager: torch 2; eval()" in page
    assert page.count("it is not installed") == 1
    assert "- No times of keras-rs at sasrec 1, sasrec 128: it is not installed" in page


def test_a_busy_machine_is_told() -> None:
    busy = dataclasses.replace(TIMED, environment=ENVIRONMENT | {"others_share": 0.4})
    assert "Other programs took 1% to 40% of its processor time; above 5% times are not to be trusted" in render(
        [RECJAX, busy]
    )


def test_a_system_that_tells_nothing_has_no_such_notes() -> None:
    silent = dataclasses.replace(TIMED, environment=ENVIRONMENT | {"noise": {"load_1m": None}, "others_share": None})
    page = render([silent])
    assert "Load of the machine" not in page
    assert "Other programs" not in page


def test_the_terminal_gets_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["sasrec", "1", "recjax", "2", "1.5", "–", "–", "–", "0.0e+00"] for line in lines)
    assert any("No times of keras-rs" in line for line in lines)
