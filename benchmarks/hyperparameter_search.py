"""Random search over the grid that a config file declares, judged by the validation part alone.

Source: Bergstra and Bengio, Random Search for Hyper-Parameter Optimization (JMLR 2012).
"""

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.stored import append_stored, read_stored
from recjax.command_line import make_output_folder
from recjax.config import Experiment, check
from recjax.config_files import load_config, override, run_config_file
from recjax.data.sources import check_source
from recjax.errors import TrainingDivergedError
from recjax.evaluation import is_better
from recjax.progress import console, stage
from recjax.training.checkpoint import experiment_identity
from recjax.training.pipeline import load_data, train

Overrides = dict[str, Any]  # dotted name -> value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: what was changed, and the best validation metric that it reached; None if it diverged."""

    experiment: str
    identity: str  # digest of everything that was trained, so that a changed config file starts anew
    overrides: Overrides
    seed: int
    metric: str
    validation: float | None
    epoch: int | None  # of that metric
    train_s: float


def tune(path: Path, n_trials: int, seed: int, folder: Path) -> list[Trial]:
    """Runs the trials that are not in `folder` yet, prints all of them, best first, and returns them so.

    Raises:
      UserError: the config file cannot be used or has no SEARCH, its data set is not there, or a line of the stored
        trials is none.
    """
    search = load_search(path)
    base = reseeded(load_config(path), seed)
    check_source(base.dataset)
    chosen = draw_trials(base, search, n_trials, seed)
    make_output_folder(folder)
    file = folder / f"{base.name}.jsonl"
    stored = {trial.identity: trial for trial in read_trials(file)} if file.exists() else {}
    trials: list[Trial] = []
    with stage(f"{base.name}: tuning", len(chosen)) as advance:
        for overrides in chosen:
            experiment = apply(base, overrides)
            trial = stored.get(digest(experiment))
            if trial is None:
                trial = _run_trial(experiment, overrides, seed)
                append_stored(file, trial)
            trials.append(trial)
            best = best_first(trials)[0]
            advance(f"best {best.metric} {in_figures(best)} with {in_words(best.overrides)}")
    ordered = best_first(trials)
    console.print(_table(ordered))
    return ordered


def read_trials(file: Path) -> list[Trial]:
    """Returns the stored trials in the order in which they were run; of two of the same training, the first.

    Raises:
      UserError: a line is not a trial; with file and line.
    """
    trials: dict[str, Trial] = {}
    for trial in read_stored(file, Trial, "python -m benchmarks.hyperparameters"):
        trials.setdefault(trial.identity, trial)

    def as_tuple(value: Any) -> Any:  # JSON has lists where a config has tuples
        return tuple(value) if isinstance(value, list) else value

    return [
        dataclasses.replace(trial, overrides={name: as_tuple(value) for name, value in trial.overrides.items()})
        for trial in trials.values()
    ]


def load_search(path: Path) -> Mapping[str, tuple[Any, ...]]:
    """Returns the SEARCH of a config file: dotted override name -> values.

    Raises:
      UserError: it has none, or one that is not of that form, or names what the experiment has not, or has a value
        that the experiment cannot take.
    """
    search = run_config_file(path, "SEARCH")
    check(isinstance(search, Mapping), f"SEARCH of {path}", search, "a dict from dotted names to tuples of values")
    experiment = load_config(path)
    for name, values in search.items():
        check(isinstance(values, tuple) and len(values) > 0, f"SEARCH[{name!r}] of {path}", values, "a tuple of values")
        for value in values:
            apply(experiment, {name: value})
    return search


def draw_trials(base: Experiment, search: Mapping[str, tuple[Any, ...]], n_trials: int, seed: int) -> list[Overrides]:
    """Returns no overrides at all, then points of the grid in random order, `n_trials` in all if there are so many.

    No two of them make the same experiment, so that the point that is the config as it stands is not drawn.
    """
    grid = [dict(zip(search, values, strict=True)) for values in itertools.product(*search.values())]
    drawn: dict[str, Overrides] = {}
    for overrides in ({}, *(grid[index] for index in np.random.default_rng(seed).permutation(len(grid)))):
        if len(drawn) == n_trials:
            break
        drawn.setdefault(digest(apply(base, overrides)), overrides)
    return list(drawn.values())


def apply(experiment: Experiment, overrides: Overrides) -> Experiment:
    """Returns the experiment with the overrides, their values as they would be written on a command line."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return override(experiment, [f"{name}={text(value)}" for name, value in overrides.items()])


def reseeded(experiment: Experiment, seed: int) -> Experiment:
    """Returns the experiment with split, initialisation, shuffling and dropout drawn anew for `seed`."""
    return dataclasses.replace(
        experiment,
        dataset=dataclasses.replace(experiment.dataset, seed=seed),
        training=dataclasses.replace(experiment.training, seed=seed),
    )


def best_first(trials: list[Trial]) -> list[Trial]:
    """Returns the trials by their validation metric, diverged ones last."""
    sign = 1 if is_better(trials[0].metric, 0.0, 1.0) else -1
    return sorted(trials, key=lambda trial: np.inf if trial.validation is None else sign * trial.validation)


def in_figures(trial: Trial) -> str:
    """Returns the validation metric as it is printed."""
    return "diverged" if trial.validation is None else f"{trial.validation:.4f}"


def in_words(overrides: Overrides) -> str:
    """Returns the overrides on one line."""
    return ", ".join(f"{name}={value}" for name, value in overrides.items()) or "the config as it stands"


def digest(experiment: Experiment) -> str:
    """Returns a short digest of the whole experiment; equal only for the same one."""
    text = json.dumps(experiment_identity(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run_trial(experiment: Experiment, overrides: Overrides, seed: int) -> Trial:
    data, started = load_data(experiment), time.perf_counter()
    validation, epoch, metric = None, None, data.selection_metric
    try:
        best = train(experiment, data).best
        validation, epoch = best.validation[metric], best.epoch
    except TrainingDivergedError:
        pass  # a trial without a figure: its learning rate is too high, which is what tuning is to find out
    return Trial(
        experiment=experiment.name,
        identity=digest(experiment),
        overrides=overrides,
        seed=seed,
        metric=metric,
        validation=validation,
        epoch=epoch,
        train_s=round(time.perf_counter() - started, 1),
    )


def _table(trials: list[Trial]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for title in (f"validation {trials[0].metric}", "epoch", "s"):
        shown.add_column(title, justify="right")
    shown.add_column(trials[0].experiment)
    for trial in trials:
        shown.add_row(in_figures(trial), str(trial.epoch or "–"), f"{trial.train_s:.0f}", in_words(trial.overrides))
    return shown
