"""The configs hold what the committed trials say is best on validation."""

from pathlib import Path

import pytest

from benchmarks.tuning import Trial, best_first, read_trials
from recjax.config import Experiment, load_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks" / "results" / "tuning").glob("*.jsonl"))
CONFIGS = {path.stem: path for folder in ("ml_100k", "filmtrust") for path in (ROOT / "configs" / folder).glob("*.py")}


def value_of(experiment: Experiment, name: str) -> object:
    node: object = experiment
    for part in name.split("."):
        node = getattr(node, part)
    return list(node) if isinstance(node, tuple) else node


def winner(file: Path) -> Trial:
    return best_first(read_trials(file))[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_config_is_the_best_trial(file: Path) -> None:
    experiment = load_config(CONFIGS[file.stem.removesuffix("_filmtrust")])
    best = winner(file)
    assert {name: value_of(experiment, name) for name in best.overrides} == best.overrides
