"""What a candidate goes through, on systems and trials whose figures are given."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recjax.load.window import Window
from recjax.serving.compiled import CompiledModel
from recjax.transforms import chain, quantize
from recjax.tuning import stages
from recjax.tuning.goal import Goal
from recjax.tuning.space import Candidate
from recjax.tuning.stages import (
    ABOVE_CLOSED_LOOP,
    PROBE_STEPS,
    START,
    Bench,
    Pruned,
    examine,
    probed_rate,
    rate_to_beat,
    seeds_from,
)
from recjax.tuning.trial import Trial, trial_from_json, trial_of

P99_MS = 20.0


class Probed:
    """A probe whose p99 is within the limit up to a threshold."""

    def __init__(self, threshold_qps: float) -> None:
        self.threshold_qps = threshold_qps
        self.rates: list[float] = []
        self.stalls: set[int] = set()

    def __call__(self, rate_qps: float) -> Window:
        fails = rate_qps > self.threshold_qps or len(self.rates) in self.stalls
        self.rates.append(rate_qps)
        latency_ms = np.full(1000, 5.0)
        latency_ms[:20] = 30.0 if fails else 6.0
        return Window(
            latency_ms=latency_ms,
            parts_ms={},
            samples=1000,
            padded_samples=1000,
            batch_samples=np.ones(1000, int),
            duration_s=1.0,
        )


@pytest.mark.parametrize("threshold_qps", [710.0, 900.0, 1190.0])
def test_the_rate_is_within_the_brackets_resolution(threshold_qps: float) -> None:
    rate = probed_rate(Probed(threshold_qps), 1000.0, P99_MS, worth_qps=0.0)
    resolution = (ABOVE_CLOSED_LOOP / START) ** (0.5 ** (PROBE_STEPS - 1))
    assert rate <= threshold_qps <= rate * resolution * 1.0001


def test_a_threshold_below_the_first_probe_is_found() -> None:
    assert 300.0 <= probed_rate(Probed(400.0), 1000.0, P99_MS, worth_qps=0.0) <= 400.0


def test_a_probe_that_fails_is_repeated_once() -> None:
    probe = Probed(2000.0)
    probe.stalls = {0, 2}
    rate = probed_rate(probe, 1000.0, P99_MS, worth_qps=0.0)
    assert rate > 0.95 * ABOVE_CLOSED_LOOP * 1000.0
    assert len(probe.rates) == PROBE_STEPS + 2


def test_nothing_is_probed_below_the_rate_that_is_worth_it() -> None:
    probe = Probed(500.0)
    assert probed_rate(probe, 1000.0, P99_MS, worth_qps=650.0) == 0.0
    assert min(probe.rates) == 650.0
    assert len(probe.rates) == 4  # at the first rate and at 650, twice each
    assert 550.0 <= probed_rate(Probed(600.0), 1000.0, P99_MS, worth_qps=550.0) <= 600.0


def trial(number: int, rate: float | None, validation: float | None, **more: Any) -> Trial:
    candidate = Candidate(transform=chain(quantize()), buckets=(1, 8))
    known = {"rate_samples_per_s": rate, "validation": validation, "validation_share": validation}
    return trial_of(number, candidate, **{**known, **more})


def test_what_a_candidate_has_to_beat_is_the_fastest_of_those_that_are_no_worse() -> None:
    trials = [trial(0, 100.0, 0.8), trial(1, 300.0, 0.7), trial(2, 200.0, 0.8), trial(3, None, 0.9, state="pruned")]
    assert rate_to_beat(0.85, trials, "auc") == 0.0
    assert rate_to_beat(0.8, trials, "auc") == 200.0
    assert rate_to_beat(0.5, trials, "auc") == 300.0
    assert rate_to_beat(0.5, [], "auc") == 0.0


@pytest.mark.parametrize(
    ("needed", "largest", "reason"),
    [
        ({1: 10, 8: 90}, 90, None),
        ({1: 10, 8: 101}, 101, "needs 0.1 kB, above the limit"),
        ({1: 10, 8: None}, None, "the compiler does not say what its programs need, and there is a limit"),
    ],
)
def test_a_program_whose_memory_is_not_known_holds_no_limit(
    needed: dict[int, int | None], largest: int | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = object.__new__(CompiledModel)
    model.programs = {size: SimpleNamespace(memory_bytes=n) for size, n in needed.items()}
    variant = SimpleNamespace(validation=0.8, parameter_bytes=5)
    variants: Any = SimpleNamespace(
        expected_s=lambda transform: 0.0, make=lambda transform: variant, share_of_fp32=lambda made: 1.0, metric="auc"
    )
    monkeypatch.setattr(stages, "system_of", lambda *_: SimpleNamespace(model=model))
    monkeypatch.setattr(stages, "warm_up", lambda system: None)
    monkeypatch.setattr(stages, "_measure", lambda *_: None)
    candidate, known = Candidate(transform=chain(), buckets=(1, 8)), dict[str, Any]()
    for limit, why in ((100, reason), (None, None)):
        bench = Bench(variants, Goal(p99_ms=P99_MS, memory_bytes=limit), None, seeds_from(0))
        if why is None:
            examine(candidate, bench, [], 1.0, known)
        else:
            with pytest.raises(Pruned, match=why) as pruned:
                examine(candidate, bench, [], 1.0, known)
            assert pruned.value.stage == "memory"
        assert known["memory_bytes"] == largest


def test_a_record_is_read_back_with_its_candidate() -> None:
    one = trial(3, None, 0.5, state="pruned", stage="memory", reason="too large", reasons={"rate_samples_per_s": "no"})
    again = trial_from_json(one.to_json())
    assert again == one
    assert again.candidate == Candidate(transform=chain(quantize()), buckets=(1, 8))


def test_no_two_windows_have_one_seed() -> None:
    seeds = seeds_from(7)
    assert [next(seeds) for _ in range(3)] == [7, 8, 9]


def test_a_goal_without_limits_has_none() -> None:
    goal = Goal(p99_ms=P99_MS)
    assert (goal.memory_bytes, goal.usd_per_million) == (None, None)
