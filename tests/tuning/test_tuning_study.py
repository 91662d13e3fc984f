"""The search over a small space, with measurements that are formulas; Optuna and the stored study are real."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.errors import UserError
from recjax.load.client import LoadGenerator
from recjax.load.queries import QueryMix
from recjax.tuning import study as module
from recjax.tuning.goal import Goal
from recjax.tuning.space import Candidate, Space, space_of
from recjax.tuning.stages import Bench, Pruned, seeds_from
from recjax.tuning.study import JOURNAL, open_budget, search
from recjax.tuning.trial import Trial
from recjax.tuning.variants import Variants


@pytest.fixture(scope="module")
def bench(
    dlrm_experiment: Experiment, labelled: LabelledData, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    variants = Variants(dlrm_experiment, labelled, tmp_path_factory.mktemp("untrained"))
    with LoadGenerator() as generator:
        yield Bench(variants, Goal(p99_ms=20.0), generator, seeds_from(0))


def measured_by_formula(
    candidate: Candidate, bench: Bench, trials: Sequence[Trial], left_s: float, known: dict[str, Any]
) -> None:
    """More buckets and more transforms are faster, each transform costs quality, and bf16 is never good enough."""
    time.sleep(0.002)
    members = candidate.transform.members
    share = 1.0 - 0.01 * len(members)
    known |= {"validation": 0.8 * share, "validation_share": share, "parameter_bytes": 100, "memory_bytes": 1000}
    if any(member.label == "bf16" for member in members):
        raise Pruned("quality", "too bad")
    known |= {"closed_loop_samples_per_s": 1e5, "full_batch_ms": 1.0}
    known["rate_samples_per_s"] = 1000.0 * (1 + len(members)) + candidate.buckets[-1]


@pytest.fixture
def space(dlrm_experiment: Experiment, dlrm_params: dict) -> Space:
    return space_of(dlrm_experiment, dlrm_params, QueryMix(), 1)


@pytest.fixture(autouse=True)
def formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", measured_by_formula)
    monkeypatch.setattr(module, "expected_finish_s", lambda trials, mean_samples: 0.0)


def run(bench: Bench, space: Space, folder: Path, budget_s: float, seed: int = 0, stop_after: int = 24) -> list[Trial]:
    """Returns the trials of a search that is broken off after so many; a broken search is none that failed."""
    done: list[Trial] = []

    def report(trials: Sequence[Trial]) -> None:
        done[:] = trials
        if len(trials) == stop_after:
            raise KeyboardInterrupt

    try:
        return search(space, bench, folder, open_budget(folder, budget_s, {"what": "this"}), seed, report)
    except KeyboardInterrupt:
        return done


def test_the_search_begins_with_the_config_and_tries_nothing_twice(bench: Bench, space: Space, tmp_path: Path) -> None:
    trials = run(bench, space, tmp_path, 600.0)
    assert [trial.number for trial in trials] == list(range(24))
    assert trials[0].label == "fp32"
    assert trials[0].buckets == space.experiment.serving.buckets
    assert len({trial.candidate.key for trial in trials}) == 24
    bad = [trial for trial in trials if "bf16" in trial.label and "bf16)" not in trial.label]
    assert bad
    assert all((t.state, t.stage, t.reason) == ("pruned", "quality", "too bad") for t in bad)
    assert all(t.reasons["rate_samples_per_s"] == "pruned before it was had, by quality" for t in bad)
    assert trials[0].reasons.keys() == {"usd_per_million"}


def test_a_memory_that_the_compiler_does_not_tell_has_that_reason(
    bench: Bench, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold(candidate: Candidate, bench: Bench, trials: Sequence[Trial], left_s: float, known: dict) -> None:
        known["memory_bytes"] = None
        raise Pruned("memory", "nobody knows")

    monkeypatch.setattr(module, "examine", untold)
    (trial,) = run(bench, space, tmp_path, 600.0, stop_after=1)
    assert trial.reasons["memory_bytes"] == "the compiler does not say"
    assert trial.reasons["full_batch_ms"] == "pruned before it was had, by memory"


def test_the_same_seed_searches_the_same(bench: Bench, space: Space, tmp_path: Path) -> None:
    first, second = (run(bench, space, tmp_path / name, 600.0) for name in "ab")
    assert [t.candidate.key for t in first] == [t.candidate.key for t in second]
    other = run(bench, space, tmp_path / "c", 600.0, seed=1)
    assert [t.candidate.key for t in first] != [t.candidate.key for t in other]


def test_a_broken_search_goes_on(bench: Bench, space: Space, tmp_path: Path) -> None:
    before = run(bench, space, tmp_path, 600.0, stop_after=5)
    after = run(bench, space, tmp_path, 600.0, stop_after=12)
    assert [trial.candidate.key for trial in after[:5]] == [trial.candidate.key for trial in before]
    assert [trial.number for trial in after] == list(range(12))
    assert len({trial.candidate.key for trial in after}) == 12


def test_a_trial_that_was_broken_off_is_run_again(
    bench: Bench, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bench, space, tmp_path, 600.0, stop_after=3)
    broken: list[str] = []

    def interrupted(candidate: Candidate, *arguments: object) -> None:
        broken.append(candidate.key)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "examine", interrupted)
    assert run(bench, space, tmp_path, 600.0) == []
    monkeypatch.setattr(module, "examine", measured_by_formula)
    trials = run(bench, space, tmp_path, 600.0, stop_after=30)
    assert broken[0] in {trial.candidate.key for trial in trials}


def test_the_budget_is_that_of_all_starts_and_ends_the_search(bench: Bench, space: Space, tmp_path: Path) -> None:
    trials = run(bench, space, tmp_path, 2.0, stop_after=10**6)
    assert len(trials) > 1
    spent_s = json.loads((tmp_path / "study.json").read_text())["spent_s"]
    assert 1.9 <= spent_s < 10.0
    assert run(bench, space, tmp_path, 2.0) == trials  # nothing is left: no further trial
    assert len(run(bench, space, tmp_path, 30.0, stop_after=len(trials) + 2)) == len(trials) + 2


def test_what_was_too_long_for_a_small_budget_is_looked_at_again_with_a_larger_one(
    bench: Bench, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(candidate: Candidate, bench: Bench, trials: Sequence[Trial], left_s: float, known: dict) -> None:
        if candidate.transform.members:
            raise Pruned("budget", "its training would take too long")
        measured_by_formula(candidate, bench, trials, left_s, known)

    monkeypatch.setattr(module, "examine", too_long)
    before = run(bench, space, tmp_path, 600.0, stop_after=6)
    # After each of them comes a model that is there, in other buckets: the baseline's, as only it was made.
    assert {trial.label for trial in before if trial.stage != "budget"} == {"fp32"}
    again = before[3].candidate.key
    assert before[3].stage == "budget"
    monkeypatch.setattr(module, "examine", measured_by_formula)
    after = run(bench, space, tmp_path, 600.0, stop_after=30)
    assert [trial.state for trial in after if trial.candidate.key == again][-1] in ("complete", "pruned")


def test_a_folder_of_another_study_is_refused(bench: Bench, space: Space, tmp_path: Path) -> None:
    open_budget(tmp_path, 1.0, {"goal": {"p99_ms": 20.0}, "seed": 0})
    with pytest.raises(UserError, match=r"holds another study: goal.p99_ms differ; give another --out"):
        open_budget(tmp_path, 1.0, {"goal": {"p99_ms": 10.0}, "seed": 0})
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match="is not what `recjax tune` wrote"):
        open_budget(tmp_path, 1.0, {})


def test_the_journal_is_lines_of_json(bench: Bench, space: Space, tmp_path: Path) -> None:
    run(bench, space, tmp_path, 600.0, stop_after=4)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    trials = optuna.load_study(
        study_name="tune",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))),
    ).trials
    # The fourth was told before the search was broken off, and had its record.
    assert [trial.user_attrs["record"]["number"] for trial in trials[:4]] == [0, 1, 2, 3]
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert complete[0].values == [1000.0 + space.experiment.serving.buckets[-1], 1.0]
