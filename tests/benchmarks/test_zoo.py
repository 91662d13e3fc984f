"""The zoo suite has every model that ML-100K or FilmTrust can train, so that a new one cannot be forgotten."""

import importlib
import pkgutil

import pytest

from benchmarks.suite import Suite, load_suite
from configs.suites import zoo
from recjax import models
from recjax.models.hstu_ranker import HSTURankerConfig

# HSTURankerConfig needs requests with candidates and actions, which only the suite dlrm_v3_like has.
ELSEWHERE = {HSTURankerConfig: "dlrm_v3_like"}


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("zoo", [])


def configs_of_models() -> list[type]:
    """Returns every config class of a model: those that say which task they learn."""
    modules = [
        importlib.import_module(f"recjax.models.{module.name}") for module in pkgutil.iter_modules(models.__path__)
    ]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and isinstance(getattr(value, "task", None), str)
    ]


@pytest.mark.parametrize("model", configs_of_models(), ids=lambda model: model.__name__)
def test_every_model_has_a_case(model: type, suite: Suite) -> None:
    if model in ELSEWHERE:
        suite = load_suite(ELSEWHERE[model], [])
    cases = [case for case in suite.cases if type(case.experiment.model) is model]
    # AutoRec has two: by users and by items.
    assert len(cases) == (2 if model.__name__ == "AutoRecConfig" else 1)


def test_all_models_are_found() -> None:
    names = {model.__name__ for model in configs_of_models()}
    assert {"SASRecConfig", "EASEConfig", "DLRMConfig", "SocialLightGCNConfig"} <= names
    assert len(names) >= 28


def test_a_case_is_one_row_under_its_own_name(suite: Suite) -> None:
    names = [case.experiment.name for case in suite.cases]
    assert len(set(names)) == len(names) == len(zoo.MODELS)
    for case in suite.cases:
        assert [variant.label for variant in case.variants] == ["fp32"]
        assert case.experiment.serving.buckets == (64,)
    assert suite.measurement.scenarios == ("offline",)


@pytest.mark.parametrize(("module", "epochs"), zoo.MODELS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_training_is_cut_and_nothing_else_is_changed(module: object, epochs: int) -> None:
    whole = module.get_config()  # type: ignore[attr-defined]
    brief = zoo.briefly(whole, epochs)
    assert brief.training.epochs == min(epochs, whole.training.epochs)
    assert 1 <= brief.training.validation_every <= brief.training.epochs
    assert brief.training.warmup_steps <= whole.training.warmup_steps
    for name in ("name", "dataset", "model", "finetuning", "transforms"):
        assert getattr(brief, name) == getattr(whole, name)
    for name in ("batch_size", "learning_rate", "decay", "weight_decay", "seed"):
        assert getattr(brief.training, name) == getattr(whole.training, name)


def test_a_training_shorter_than_its_cut_is_whole() -> None:
    name, whole = zoo.MODELS[0][0].__name__, zoo.MODELS[0][0].get_config()
    assert name.endswith("popularity")
    assert zoo.briefly(whole, 40).training.epochs == zoo.briefly(whole, 40).training.validation_every == 1
