import dataclasses
from pathlib import Path

import pytest

from benchmarks.suite import (
    MULTI_STREAM_SAMPLES,
    Case,
    Measurement,
    Source,
    Suite,
    load_suite,
    suite_names,
    suite_of_config,
)
from recjax.config import Dataset, Experiment
from recjax.errors import UserError
from recjax.load.arrivals import Arrivals
from recjax.load.queries import QueryMix
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

FULL_CHAIN = "prune(0.5) + shrink + int8"


def rows_of(suite: Suite) -> int:
    """Returns how many rows of a real model the suite makes: single_stream, multi_stream, server, each offline size."""
    return sum(
        len(case.variants) * (3 + sum(size > MULTI_STREAM_SAMPLES for size in case.experiment.serving.buckets))
        for case in suite.cases
    )


def write_config(folder: Path, transforms: str) -> str:
    path = folder / "experiment.py"
    path.write_text(
        "from recjax.config import Dataset, Experiment, Training\n"
        "from recjax.models.sasrec import SASRecConfig\n"
        "from recjax.transforms.prune import prune\n"
        "from recjax.transforms.quantize import quantize\n\n\n"
        "def get_config():\n"
        "    return Experiment(\n"
        "        name='mine',\n"
        "        dataset=Dataset(),\n"
        "        model=SASRecConfig(embedding_dim=8, heads=2, mlp_dims=(16, 16), dropout_rate=0.1),\n"
        "        training=Training(epochs=3),\n"
        "        finetuning=Training(epochs=1),\n"
        f"        transforms={transforms},\n"
        "    )\n"
    )
    return str(path)


def test_the_suites_of_the_repository() -> None:
    named = ["dlrm_v2_like", "dlrm_v3_like", "quantized_training", "quick", "smoke", "transforms", "wide_mlp", "zoo"]
    assert suite_names() == named


def test_offline_alone_needs_a_batch_that_it_measures() -> None:
    message = r"largest of serving.buckets is 8; allowed: > 8: no smaller batch is measured in the offline scenario"
    with pytest.raises(UserError, match=message):
        load_suite("zoo", ["serving.buckets=8"])


@pytest.mark.parametrize("name", ["quick", "smoke"])
def test_a_suite_loads_and_is_what_it_says(name: str) -> None:
    suite = load_suite(name, [])
    assert suite.name == name
    assert suite.description
    assert "\n" not in suite.description
    experiments = [case.experiment.name for case in suite.cases]
    assert experiments == ["sasrec", "dlrm_dcnv2"]
    for case in suite.cases:
        assert case.experiment.transforms == ()
        assert [variant.label for variant in case.variants][:1] == ["fp32"]
        assert len({variant.label for variant in case.variants}) == len(case.variants)
        assert case.variants[-1].label.endswith(" + shrink + int8")
        assert max(case.experiment.serving.buckets) >= MULTI_STREAM_SAMPLES


def test_quick_makes_at_least_48_rows() -> None:
    quick = load_suite("quick", [])
    assert [len(case.variants) for case in quick.cases] == [6, 6]
    assert rows_of(quick) >= 48
    for case in quick.cases:
        assert 0 < case.validation_floor < 1


def test_an_override_reaches_every_experiment_that_has_the_key() -> None:
    quick = load_suite("quick", ["training.epochs=2", "model.embedding_dropout_rate=0.25"])
    sasrec, dlrm = quick.cases
    trained = [sasrec.experiment, dlrm.experiment, *dlrm.references]
    assert [experiment.training.epochs for experiment in trained] == [2, 2, 2]
    assert dlrm.experiment.model.embedding_dropout_rate == 0.25
    assert sasrec.experiment.model == load_suite("quick", []).cases[0].experiment.model


def test_an_override_of_the_data_reaches_the_references_too() -> None:
    case = load_suite("quick", ["dataset.seed=7"]).cases[1]
    assert [e.dataset.seed for e in (case.experiment, *case.references)] == [7, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epoch=2", r"'epoch'.*did you mean 'epochs'\?"),
        ("trainig.epochs=2", r"'trainig'.*did you mean 'training'\?"),
        ("training.epochs=many", "training.epochs='many'"),
        ("training.epochs=0", "Training.epochs is 0; allowed: >= 1"),
        ("training.epochs", "not of the form name=value"),
        ("training=3", "is a group; set one of its keys"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_suite("quick", [text])


def test_the_override_that_fits_nowhere_is_the_one_named() -> None:
    # The first key fits one of the two models, so it is right; only the other one is misspelt.
    with pytest.raises(UserError, match=r"'trainig'.*did you mean 'training'\?"):
        load_suite("quick", ["model.embedding_dropout_rate=0.25", "trainig.epochs=3"])


def test_a_value_that_one_model_cannot_take_is_not_dropped_in_silence() -> None:
    # SASRec has the key and refuses the value (2 heads cannot share 33 dimensions), the DLRM takes it.
    with pytest.raises(UserError, match=r"embedding_dim|heads"):
        load_suite("quick", ["model.embedding_dim=33"])


def test_one_name_for_two_experiments_is_refused() -> None:
    # Rows, samples and final models are filed under the experiment's name.
    with pytest.raises(UserError, match="name"):
        load_suite("quick", ["name=mine"])


def test_an_unknown_suite_is_refused_with_the_nearest_match() -> None:
    names = ", ".join(suite_names())
    with pytest.raises(UserError, match=rf"^unknown suite 'quik'; valid: {names}; did you mean 'quick'\?$"):
        load_suite("quik", [])


def test_fp32_must_come_first(sasrec_experiment: Experiment) -> None:
    for variants in ((quantize(),), (chain(quantize()), chain()), ()):
        chains = tuple(chain(variant) for variant in variants)
        with pytest.raises(UserError, match=r"Case\.variants\[0\] is .*; allowed: chain\(\), the untransformed model"):
            Case(experiment=sasrec_experiment, variants=chains)


def test_a_reference_on_another_data_set_is_refused(
    dlrm_experiment: Experiment, logistic_experiment: Experiment
) -> None:
    assert Case(experiment=dlrm_experiment, references=(logistic_experiment,)).references == (logistic_experiment,)
    elsewhere = dataclasses.replace(
        logistic_experiment, dataset=dataclasses.replace(logistic_experiment.dataset, seed=1)
    )
    with pytest.raises(UserError, match="dataset of reference tiny_logistic"):
        Case(experiment=dlrm_experiment, references=(elsewhere,))


def test_an_unknown_key_of_a_case_names_the_nearest(sasrec_experiment: Experiment) -> None:
    with pytest.raises(UserError, match=r"unknown Case key 'varients'.*did you mean 'variants'\?"):
        Case(experiment=sasrec_experiment, varients=())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 0},
        {"window_s": 0.0},
        {"window_s": float("inf")},
        {"min_queries": 0},
        {"probe_s": 0.0},
        {"probe_s": float("nan")},
        {"probe_s": float("inf")},
        {"search_steps": 0},
        {"train_window_s": -1.0},
        {"train_window_s": float("inf")},
        {"seed": -1},
    ],
)
def test_an_impossible_measurement_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"Measurement\.{next(iter(change))} is .*; allowed: >"):
        Measurement(**change)  # type: ignore[arg-type]


def test_a_config_file_is_a_suite_of_fp32_and_its_transforms(tmp_path: Path) -> None:
    suite = suite_of_config(write_config(tmp_path, "(prune(0.5), quantize())"), ["training.epochs=2"])
    assert suite.name == "mine"
    (case,) = suite.cases
    assert case.experiment.transforms == ()
    assert case.experiment.training.epochs == 2
    assert case.experiment.dataset == Dataset()
    assert case.variants == (chain(), chain(prune(0.5), quantize()))


def test_a_config_file_without_transforms_is_a_suite_of_fp32(tmp_path: Path) -> None:
    assert suite_of_config(write_config(tmp_path, "()"), []).cases[0].variants == (chain(),)


def test_an_illegal_chain_in_a_config_file_is_refused(tmp_path: Path) -> None:
    assert chain(prune(0.5), shrink(), quantize()).label == FULL_CHAIN
    with pytest.raises(UserError, match=r"illegal chain.*the order that works: prune\(0\.5\) -> int8"):
        suite_of_config(write_config(tmp_path, "(quantize(), prune(0.5))"), [])


def test_how_a_suite_measures_can_be_set(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("0\n1\n3\n")
    overrides = [
        f"measurement.arrivals.trace={trace}",  # a trace is nothing without its kind: both are set at once
        "measurement.arrivals.kind=trace",
        "measurement.queries.popularity=zipf",
        "measurement.curve=0.5,0.8",
        "training.epochs=2",
    ]
    for suite in (load_suite("quick", overrides), suite_of_config(write_config(tmp_path, "()"), overrides)):
        assert suite.measurement.arrivals == Arrivals(kind="trace", trace=str(trace))
        assert suite.measurement.queries == QueryMix(popularity="zipf")
        assert suite.measurement.curve == (0.5, 0.8)
        assert {case.experiment.training.epochs for case in suite.cases} == {2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("measurement.arrivals.knd=bursts", "'knd'.*did you mean 'kind'"),
        ("measurement.arrivals.kind=rush", "'poisson', 'bursts' or 'trace'"),
        ("measurement.arrivals=bursts", "'measurement.arrivals' is a group; set one of its keys: kind"),
        ("measurement.rounds=0", "Measurement.rounds is 0; allowed: >= 1"),
    ],
)
def test_an_unusable_measurement_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_suite("smoke", [text])


def test_an_unknown_group_is_told_of_measurement_too() -> None:
    with pytest.raises(UserError, match=r"'measurment'; valid: .*did you mean 'measurement'"):
        load_suite("smoke", ["measurment.rounds=1"])


@pytest.mark.parametrize(("suite", "fine_tunes"), [("quick", True), ("zoo", False)])
def test_a_variant_alone_is_trained_as_in_the_whole_case(suite: str, fine_tunes: bool) -> None:
    (case,) = Source("load_suite", suite, (), case="sasrec", variants=("fp32",)).load().cases
    assert [variant.label for variant in case.variants] == ["fp32"]
    assert case.fine_tunes is fine_tunes
