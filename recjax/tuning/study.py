"""The search: Optuna says what to look at next, our stages say how far, a budget of seconds says how long.

Everything is below one folder, so that the same command goes on where a broken one stopped: `optuna.journal`, a log of
JSON lines that has every trial with its record; `study.json`, what is tuned and how long it has taken; `trained/`,
`models/` and `variants/`, the models by their chain.
"""

import dataclasses
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.command_line import make_output_folder
from recjax.errors import UserError
from recjax.progress import console
from recjax.training.checkpoint import differing_fields
from recjax.tuning.finish import expected_finish_s
from recjax.tuning.frontier import frontier_of, last_ones
from recjax.tuning.goal import NO_PRICE
from recjax.tuning.space import BUCKET_QUESTIONS, Candidate, Point, Space
from recjax.tuning.stages import Bench, Pruned, examine
from recjax.tuning.trial import FIGURES, Trial, trial_from_json, trial_of
from recjax.whole_files import write_json

JOURNAL, STUDY = "optuna.journal", "study.json"
RECORD, REPEATS = "record", "repeats"  # attributes of Optuna's trials
BATCH_SHARE = 0.4  # of the latency limit, that a full batch of the first points may take by fp32's closed loop
DRAWN_AT_RANDOM = 10  # trials, the first points among them, before the sampler learns from them
REPEATS_BEFORE_RANDOM = 3  # points that are known already, in a row: then one is drawn at random
MOST_REPEATS = 100  # in a row: there is nothing new to find


class Budget:
    """Seconds of a study, over all the times that it was started."""

    def __init__(self, total_s: float, file: Path, identity: dict[str, Any]) -> None:
        """Starts the clock.

        Args:
          total_s: for search and last measurement together.
          file: where it is written how much is spent.
          identity: of the study, JSON values.

        Raises:
          UserError: the file is of another study, or cannot be read.
        """
        self.total_s, self._file, self._identity = total_s, file, identity
        self._before_s = _spent_before(file, identity)
        self._started = time.perf_counter()

    @property
    def left_s(self) -> float:
        """Returns the seconds that are left, negative if none are."""
        return self.total_s - self.spent_s

    @property
    def spent_s(self) -> float:
        """Returns the seconds that are spent."""
        return self._before_s + time.perf_counter() - self._started

    def save(self) -> None:
        """Writes how much is spent."""
        values = {"spent_s": self.spent_s, "identity": self._identity}
        write_json(self._file, values, indent=1)


def require_optuna() -> None:
    """Raises UserError if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("recjax tune needs Optuna: pip install -e '.[bench,tune]' in the repository")


def open_budget(folder: Path, total_s: float, identity: dict[str, Any]) -> Budget:
    """Returns the budget of the study in the folder, which is made; raises UserError as `Budget` does."""
    make_output_folder(folder)
    budget = Budget(total_s, folder / STUDY, identity)
    budget.save()
    return budget


def _spent_before(file: Path, identity: dict[str, Any]) -> float:
    if not file.is_file():
        return 0.0
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        spent_s, other = float(stored["spent_s"]), dict(stored["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what `recjax tune` wrote; give another --out, or delete that folder") from error
    if different := differing_fields(json.loads(json.dumps(identity)), other):
        raise UserError(
            f"{file.parent} holds another study: {', '.join(different)} differ; give another --out, or delete it"
        )
    return spent_s


def search(
    space: Space, bench: Bench, folder: Path, budget: Budget, seed: int, report: Callable[[Sequence[Trial]], None]
) -> list[Trial]:
    """Returns the trials, those of before first; it ends when only the last measurement has time left.

    A trial is not interrupted, so the search exceeds its time by one trial at most; one whose training is expected to
    take longer than what is left is pruned instead.

    Args:
      space: what there is to choose.
      bench: to measure with.
      folder: of the study.
      budget: of search and last measurement.
      seed: of the sampler.
      report: called after every trial with all of them.
    """
    study, random = _open_study(folder, seed, space.baseline())
    tpe, trials, repeats = study.sampler, _records(study), 0
    before, rng = len(trials), np.random.default_rng([seed, len(trials)])
    while repeats < MOST_REPEATS:
        left_s = budget.left_s - expected_finish_s(
            last_ones(trials, bench.variants.metric), bench.goal.mix.mean_samples
        )
        if trials and left_s <= 0:
            break
        study.sampler = random if repeats and repeats % REPEATS_BEFORE_RANDOM == 0 else tpe
        asked = study.ask()
        candidate = space.candidate(functools.partial(_answer, asked))
        known = next((trial for trial in trials if trial.candidate.key == candidate.key), None)
        if known and (known.stage != "budget" or known.number >= before):  # a budget may have been raised since
            repeats += 1
            asked.set_user_attr(REPEATS, known.number)
            _tell(study, asked, known)
            continue
        repeats = 0
        trial = _run(candidate, bench, trials, left_s)
        asked.set_user_attr(RECORD, trial.to_json())
        if not trials:
            rate = trial.closed_loop_samples_per_s or space.experiment.serving.buckets[-1]
            for point in space.first_points(rate * BATCH_SHARE * bench.goal.p99_ms / 1e3):
                study.enqueue_trial(dict(point))
        _tell(study, asked, trial)
        trials.append(trial)
        if trial.stage == "budget" and (point := _of_frontier(study, trials, bench.variants.metric, rng)):
            study.enqueue_trial(point)
        budget.save()
        report(trials)
        console.print(_in_words(trial, bench.variants.metric, budget.left_s), markup=False)
    return trials


def _run(candidate: Candidate, bench: Bench, trials: Sequence[Trial], left_s: float) -> Trial:
    known: dict[str, Any] = {}
    started, pruned = time.perf_counter(), None
    try:
        examine(candidate, bench, trials, left_s, known)
    except Pruned as answer:
        pruned = answer
    known["seconds"] = time.perf_counter() - started
    trial = trial_of(len(trials), candidate, **known)
    missing = [name for name in FIGURES if getattr(trial, name) is None]
    untold = {"memory_bytes": "the compiler does not say"}
    if pruned is None:
        unknown = {"usd_per_million": NO_PRICE} | untold
        return dataclasses.replace(trial, reasons={name: unknown[name] for name in missing})
    why = dict.fromkeys(missing, f"pruned before it was had, by {pruned.stage}")
    if "memory_bytes" in known and known["memory_bytes"] is None:  # it was looked for
        why |= untold
    return dataclasses.replace(trial, state="pruned", stage=pruned.stage, reason=str(pruned), reasons=why)


def _open_study(folder: Path, seed: int, baseline: Point) -> tuple[Any, Any]:
    """Returns Optuna's study in the folder with its sampler, and a sampler that draws at random.

    The samplers' own state is not kept: a study that goes on is seeded by its trials too, so that it does not draw the
    same points again, and is not the one that an unbroken run would have made.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))  # lines of JSON, no pickle
    study = optuna.create_study(
        storage=storage, study_name="tune", directions=["maximize", "maximize"], load_if_exists=True
    )
    number = len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=DRAWN_AT_RANDOM)
    if not number:
        study.enqueue_trial(dict(baseline))
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:  # of a run that was broken off
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study, optuna.samplers.RandomSampler(seed=seed + number)


def _answer(asked: Any, name: str, choices: Sequence[Any]) -> Any:
    return asked.suggest_categorical(name, list(choices))


def _of_frontier(study: Any, trials: Sequence[Trial], metric: str, rng: np.random.Generator) -> dict[str, Any]:
    """Returns the answers of a trial of the frontier but for its buckets, which then are drawn: its model is there.

    So the time that no further training fits into is not spent on candidates that need one. Empty without a frontier.
    """
    numbers = [trial.number for trial in frontier_of(trials, metric)]
    if not numbers:
        return {}
    number = int(rng.choice(numbers))
    params = next(t.params for t in study.trials if t.user_attrs.get(RECORD, {}).get("number") == number)
    return {name: value for name, value in params.items() if name not in BUCKET_QUESTIONS}


def _records(study: Any) -> list[Trial]:
    return [trial_from_json(trial.user_attrs[RECORD]) for trial in study.trials if RECORD in trial.user_attrs]


def _tell(study: Any, asked: Any, trial: Trial) -> None:
    """Tells Optuna what became of a trial; quality is given so that more is better."""
    from optuna.trial import TrialState

    if trial.state == "complete":
        study.tell(asked, [trial.rate_samples_per_s, trial.validation_share])
    else:
        study.tell(asked, state=TrialState.PRUNED)


def _in_words(trial: Trial, metric: str, left_s: float) -> str:
    """Returns a trial on one line, with the time that is left."""
    if trial.state == "complete":
        what = f"{trial.rate_samples_per_s:,.0f} samples/s, {trial.validation_share:.4f} of fp32's {metric}"
    else:
        what = f"pruned by {trial.stage}: {trial.reason}"
    return f"trial {trial.number:<3} {trial.candidate.label}: {what} ({trial.seconds:.0f} s; {left_s:.0f} s left)"
