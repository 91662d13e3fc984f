import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from recjax.config import Dataset, Experiment, ModelConfig, Training, config
from recjax.config_files import load_config, override, run_config_file
from recjax.errors import UserError
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.sasrec import SASRecConfig


@config
class SwitchConfig(ModelConfig):
    """A model config with the one kind of field that no model has yet."""

    task: ClassVar[str] = "labelled"

    wide: bool = False


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="toy", dataset=Dataset(), model=DLRMDCNv2Config(), training=Training(), finetuning=Training(epochs=2)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=7", 7),
        ("training.learning_rate=3e-4", 3e-4),
        ("training.learning_rate=1", 1.0),
        ("training.decay=cosine", "cosine"),
        ("finetuning.seed= 5 ", 5),
        ("dataset.source=a=b.csv", "a=b.csv"),
        ("dataset.ratios=0.5,0.25,0.25", (0.5, 0.25, 0.25)),
        ("serving.buckets=(2, 4,)", (2, 4)),
        ("serving.buckets=16", (16,)),
        ("model.top_mlp=32,16,8", (32, 16, 8)),
        ("name=other", "other"),
    ],
)
def test_override_parses_by_the_type_of_the_field(experiment: Experiment, text: str, expected: Any):
    value = override(experiment, [text])
    for key in text.partition("=")[0].split("."):
        value = getattr(value, key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_override_parses_switches(experiment: Experiment, text: str, expected: bool):
    switched = override(dataclasses.replace(experiment, model=SwitchConfig()), [f"model.wide={text}"])
    assert switched.model.wide is expected


def test_override_takes_the_last_of_each_name_and_changes_nothing_else(experiment: Experiment):
    changed = override(experiment, ["training.epochs=3", "model.embedding_dim=8", "training.epochs=4"])
    assert changed == dataclasses.replace(
        experiment,
        training=dataclasses.replace(experiment.training, epochs=4),
        model=dataclasses.replace(experiment.model, embedding_dim=8),
    )
    assert override(experiment, []) == experiment


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training.epoch=3", ["'epoch'", "valid: batch_size, ", "did you mean 'epochs'?"]),
        ("trainin.epochs=3", ["'trainin'", "did you mean 'training'?"]),
        ("training=3", ["'training' is a group", "set one of its keys: epochs, batch_size"]),
        ("name.first=x", ["'name' is 'toy' and has no keys of its own"]),
        ("training.epochs=many", ["training.epochs='many'", "integer", "the field is int"]),
        ("training.epochs=1.5", ["training.epochs='1.5'", "integer"]),
        ("training.decay=linear", ["training.decay='linear'", "'constant' or 'cosine'"]),
        ("dataset.ratios=0.5,0.5", ["dataset.ratios='0.5,0.5'"]),
        ("serving.buckets=1,x", ["serving.buckets='1,x'", "integer"]),
        ("training.epochs=0", ["Training.epochs is 0; allowed: >= 1"]),
        ("training.epochs", ["'training.epochs' is not of the form name=value"]),
        ("=3", ["'=3' is not of the form name=value"]),
    ],
)
def test_override_says_what_is_wrong(experiment: Experiment, text: str, parts: list[str]):
    with pytest.raises(UserError) as error:
        override(experiment, [text])
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)
    assert "Literal" not in str(error.value)


def test_override_refuses_text_where_a_switch_is_wanted(experiment: Experiment):
    with pytest.raises(UserError, match=r"model.wide='maybe'"):
        override(dataclasses.replace(experiment, model=SwitchConfig()), ["model.wide=maybe"])


def test_override_refuses_transforms_which_text_cannot_express(experiment: Experiment):
    with pytest.raises(UserError, match="transforms"):
        override(experiment, ["transforms=int8"])


FILE = """
from recjax.config import Dataset, Experiment, Training
from recjax.models.sasrec import SASRecConfig

def get_config():
    return Experiment(
        name="e", dataset=Dataset(), model=SASRecConfig(), training=Training(), finetuning=Training()
    )
"""


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "my_config.py"
    path.write_text(content)
    return path


def test_load_config_returns_the_files_experiment_with_overrides(tmp_path: Path):
    loaded = load_config(write(tmp_path, FILE), ["model.heads=4"])
    assert isinstance(loaded.model, SASRecConfig)
    assert (loaded.name, loaded.model.heads, loaded.model.embedding_dim) == ("e", 4, 64)


def test_load_config_without_the_file_says_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"^no config file '.*nowhere\.py'; give the path .* get_config$"):
        load_config(tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "{path}: it does not define get_config"),
        ("def get_config():\n    return 3\n", "{path}: get_config() returned int; it must return"),
        ("x = 1\n\ny = 1 / 0\n", "{path}:3: ZeroDivisionError: division by zero"),
        ("def get_config():\n    x = 1\n    return x.y\n", "{path}:3: AttributeError: "),
        ("x = 1\ndef get_config(:\n", "{path}:2: SyntaxError: "),
        ("import not_a_module\n", "{path}:1: ModuleNotFoundError: "),
        ("from recjax.transforms.prune import prunes\n", "{path}:1: unknown transform 'prunes'; valid: "),
        (
            "from recjax.config import Training\ndef get_config():\n    return Training(epoch=1)\n",
            "{path}:3: unknown Training key 'epoch'",
        ),
    ],
)
def test_load_config_names_file_line_and_error(tmp_path: Path, content: str, message: str):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(error.value).startswith(message.format(path=path))


def test_a_config_may_build_on_another_one_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)  # restores the path
    sys.path.remove(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first_config.py").write_text(FILE)
    assert load_config(write(tmp_path, "from first_config import get_config")).name == "e"


def test_run_config_file_calls_the_function_asked_for(tmp_path: Path):
    assert run_config_file(write(tmp_path, "def get_suite():\n    return 5\n"), "get_suite") == 5
