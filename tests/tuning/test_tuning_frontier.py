import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recjax.transforms import chain, quantize
from recjax.tuning.finish import expected_finish_s
from recjax.tuning.frontier import (
    MOST_FINALISTS,
    choose,
    finalists,
    frontier_of,
    frontier_table,
    last_ones,
    pruned_in_words,
    write_frontier,
)
from recjax.tuning.remeasure import Remeasured
from recjax.tuning.space import Candidate
from recjax.tuning.trial import Trial, trial_of

HIGHER, LOWER = "auc", "rmse"


def trial(number: int, rate: float | None, validation: float | None, **more: Any) -> Trial:
    known = {"rate_samples_per_s": rate, "validation": validation, "validation_share": validation}
    made = trial_of(number, Candidate(transform=chain(quantize()), buckets=(1, 2**number)), **known)
    return dataclasses.replace(made, **more)


def numbers(trials: list[Trial]) -> list[int]:
    return [one.number for one in trials]


TRIALS = [
    trial(0, 100.0, 0.80),
    trial(1, 400.0, 0.70),
    trial(2, 300.0, 0.75),
    trial(3, 250.0, 0.75),  # as good as 2 and slower
    trial(4, 350.0, 0.60),  # worse than 1 in both
    trial(5, 90.0, 0.79),
    trial(6, 500.0, None, state="pruned", stage="quality", reason="keeps too little"),
]


def test_the_frontier_by_hand() -> None:
    assert numbers(frontier_of(TRIALS, HIGHER)) == [1, 2, 0]
    assert frontier_of([], HIGHER) == []
    assert numbers(frontier_of(TRIALS, LOWER)) == [1, 4]  # of an error


def test_finalists_are_the_frontier_and_the_fastest_behind_it() -> None:
    assert numbers(finalists(TRIALS, HIGHER)) == [1, 4, 2, 3, 0]
    many = [trial(n, 100.0 * n, 1.0 - 0.01 * n) for n in range(1, 12)]
    assert numbers(finalists(many, HIGHER)) == [11, 10, 9, 8, 7, 6]
    assert len(finalists(many, HIGHER)) == MOST_FINALISTS


def test_the_config_as_it_stands_is_measured_too_if_it_holds_the_limits() -> None:
    many = [trial(0, 1.0, 0.1, transforms=()), *(trial(n, 100.0 * n, 1.0 - 0.01 * n) for n in range(1, 12))]
    assert numbers(last_ones(many, HIGHER))[-1] == 0
    assert numbers(last_ones([trial(0, None, 0.8, state="pruned"), *TRIALS[1:3]], HIGHER)) == [1, 2]


def test_the_last_measurement_takes_three_windows_each_and_more() -> None:
    slow = trial(0, 10.0, 0.8)
    seconds = expected_finish_s([slow], mean_samples=1.0)
    assert seconds > 3 * 1307 / 10
    assert expected_finish_s([slow, slow], 1.0) == 2 * seconds
    assert expected_finish_s([], 1.0) == 0.0


def remeasured(samples_per_s: float, **more: Any) -> Remeasured:
    known: dict[str, Any] = {
        "samples_per_s": samples_per_s,
        "confirmed": True,
        "failed_at_samples_per_s": None,
        "over_baseline": 2.0,
        "p99_ms": (9.5, 9.0, 10.0),
        "padding_waste": 0.1,
        "closed_loop": (120.0, 110.0, 130.0),
        "closed_loop_over_baseline": (2.0, 1.9, 2.1),
        "usd_per_million": None,
        "test": 0.7,
        "test_share": 0.99,
        "test_share_ci95": (0.98, 1.0),
        "fault": None,
        "reasons": {"usd_per_million": "nobody says", "failed_at_samples_per_s": "no window failed"},
    }
    return Remeasured(**{**known, **more})


def test_the_fastest_confirmed_one_without_a_fault_is_chosen() -> None:
    found = {
        1: remeasured(400.0, fault="answers differ"),
        4: remeasured(390.0, confirmed=False),
        2: remeasured(310.0),
        3: remeasured(320.0),  # the probes had said otherwise
        0: remeasured(100.0),
    }
    assert choose(found) == 3
    assert choose({1: found[1], 4: found[4]}) is None


def test_every_trial_is_a_line_and_what_it_lacks_has_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "frontier.jsonl"
    write_frontier(file, TRIALS, {2: remeasured(310.0)}, 2, HIGHER)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(7))
    assert [line["number"] for line in lines if line["on_frontier"]] == [0, 1, 2]
    assert [line["number"] for line in lines if line["chosen"]] == [2]
    assert lines[2]["remeasured"]["p99_ms"] == [9.5, 9.0, 10.0]
    assert lines[6]["remeasured"] is None
    assert lines[6]["reasons"]["remeasured"] == "keeps too little"
    assert lines[4]["reasons"]["remeasured"] == "it was not among the finalists"
    assert not list(tmp_path.glob("*.new"))


def test_the_table_marks_the_chosen_one_and_shows_what_was_measured_anew(capsys: pytest.CaptureFixture[str]) -> None:
    found = {2: remeasured(310.0), 0: remeasured(100.0, confirmed=False, p99_ms=None, over_baseline=None)}
    Console(width=160).print(frontier_table(TRIALS, found, 2, "auc"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "int8" in line]
    assert lines[0][:5] == ["*", "2", "310", "2.00", "9.50"]
    assert lines[1][:4] == ["0", "<", "100", "–"]


def test_what_was_pruned_in_words() -> None:
    assert pruned_in_words(TRIALS) == "7 trials; pruned by quality 1"
    assert pruned_in_words(TRIALS[:2]) == "2 trials"
