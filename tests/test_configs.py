"""Every config file loads, says what it is, and is what it says."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.hyperparameter_search import apply, best_first, draw_trials, load_search, read_trials
from recjax.config_files import load_config
from recjax.data.protocols import PROTOCOLS, under
from recjax.data.sources import PLACED

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"
DATA_SETS = {"ml_100k": "ml-100k", "filmtrust": "filmtrust"}  # folder -> source
PUBLISHED = sorted(path for folder in DATA_SETS for path in (CONFIGS / folder).glob("*.py"))
FILES = [*PUBLISHED, *sorted(CONFIGS.glob("*.py"))]
TRIALS = sorted((REPOSITORY / "benchmarks" / "results" / "hyperparameters").glob("*.jsonl"))
IN_WORDS = ("Paper", "Command", "Protocol", "Expected", "Measured")


def short(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def docstring(path: Path) -> dict[str, str]:
    """Returns the lines of the file's docstring that begin with a word and a colon, by that word."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return dict(re.findall(r"^(\w[\w ]*): (.+)$", text, re.MULTILINE))


def test_no_folder_is_forgotten() -> None:
    assert {path.parent.name for path in CONFIGS.glob("*/*.py")} == {*DATA_SETS, "suites"}
    assert set(DATA_SETS.values()) <= set(PLACED)


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_config_says_what_it_is(path: Path) -> None:
    said = docstring(path)
    assert [word for word in said if word in IN_WORDS] == list(IN_WORDS)
    assert said["Command"].startswith(f"recjax train {path.relative_to(REPOSITORY).as_posix()}")


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_config_is_named_as_its_file(path: Path) -> None:
    # In ml_100k/ and with a data set's name in the file: the model's name. In filmtrust/: that and the data set's.
    name = path.stem.removesuffix("_movielens_small")
    suffix = "_filmtrust" if path.parent.name == "filmtrust" else ""
    assert load_config(path).name == name + suffix


def test_no_two_configs_of_a_data_set_have_one_name() -> None:
    # Three models have a config on MovieLens latest-small too; a row's protocol says which set it is of.
    loaded = [load_config(path) for path in FILES]
    assert max(Counter((experiment.dataset.source, experiment.name) for experiment in loaded).values()) == 1
    assert max(Counter(load_config(path).name for path in PUBLISHED).values()) == 1


@pytest.mark.parametrize("path", PUBLISHED, ids=short)
def test_a_config_is_under_the_protocol_that_it_names(path: Path) -> None:
    named = docstring(path)["Protocol"].split()[0].rstrip(".,:;")
    assert named in PROTOCOLS
    dataset = load_config(path).dataset
    assert dataset.source == DATA_SETS[path.parent.name]
    free = {"max_history": dataset.max_history, "windows": dataset.windows}  # how much a model reads, and how it trains
    assert dataset == under(named, source=dataset.source, **free)


@pytest.mark.parametrize("path", PUBLISHED, ids=short)
def test_a_config_can_be_tuned(path: Path) -> None:
    search = load_search(path)
    trials = draw_trials(load_config(path), search, 3, 0)
    assert trials[0] == {}
    assert len(trials) == (3 if search else 1)
    assert not [name for name in search if name.startswith(("dataset.", "finetuning.", "serving."))]


@pytest.mark.parametrize("path", [path for path in PUBLISHED if "load_config" in path.read_text()], ids=short)
def test_a_config_made_of_another_differs_in_name_and_protocol_alone(path: Path) -> None:
    experiment = load_config(path)
    base = load_config(path.with_name(re.sub(r"_(80_20|leave_one_out)\.py$", ".py", path.name)))
    for name in ("model", "training", "finetuning", "transforms", "serving"):
        assert getattr(experiment, name) == getattr(base, name)
    assert (experiment.name, experiment.dataset) != (base.name, base.dataset)


@pytest.mark.parametrize("file", TRIALS, ids=lambda file: file.stem)
def test_a_config_has_the_settings_of_its_best_trial(file: Path) -> None:
    (experiment,) = [experiment for experiment in map(load_config, PUBLISHED) if experiment.name == file.stem]
    assert apply(experiment, best_first(read_trials(file))[0].overrides) == experiment
