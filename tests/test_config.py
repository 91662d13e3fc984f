import dataclasses
import json
from typing import Any

import pytest

from recjax.config import (
    Dataset,
    Experiment,
    Serving,
    Training,
    from_dict,
    to_dict,
)
from recjax.errors import UserError
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.models.sasrec import SASRecConfig
from recjax.transforms.prune import Prune
from recjax.transforms.quantize import Quantize


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="toy", dataset=Dataset(), model=DLRMDCNv2Config(), training=Training(), finetuning=Training(epochs=2)
    )


def test_unknown_key_names_the_nearest_and_all_valid_ones():
    with pytest.raises(UserError) as error:
        Serving(bucket=(1, 2))
    assert str(error.value) == ("unknown Serving key 'bucket'; valid: buckets, slo_ms, top_k; did you mean 'buckets'?")


def test_unknown_key_without_a_near_one_gives_no_hint():
    with pytest.raises(UserError, match=r"^unknown Serving key 'zzz'; valid: buckets, slo_ms, top_k$"):
        Serving(zzz=1)


def test_configs_are_keyword_only_and_frozen():
    with pytest.raises(TypeError):
        Training(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Training().epochs = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dataset(min_interactions=0), "Dataset.min_interactions is 0; allowed: >= 1"),
        (lambda: Dataset(ratios=(0.5, 0.4, 0.2)), "allowed: three positive numbers that sum to 1"),
        (lambda: Dataset(ratios=(1.1, 0.1, -0.2)), "allowed: three positive numbers that sum to 1"),
        (lambda: Dataset(max_history=1), "Dataset.max_history is 1; allowed: >= 2"),
        (lambda: Dataset(min_interactions=2.5), "Dataset.min_interactions is 2.5; allowed: int"),
        (lambda: Dataset(min_interactions=True), "Dataset.min_interactions is True; allowed: int"),
        (lambda: Dataset(ratios=(0.9, 0.1)), "Dataset.ratios is (0.9, 0.1); allowed: tuple[float, float, float]"),
        (lambda: Dataset(windows=None), "unknown Dataset.windows 'None'; valid: drawn, fixed"),
        (lambda: SASRecConfig(mlp_dims=64), "SASRecConfig.mlp_dims is 64; allowed: tuple[int, ...]"),
        (lambda: SASRecConfig(mlp_dims=[64]), "SASRecConfig.mlp_dims is [64]; allowed: tuple[int, ...]"),
        (lambda: Prune(sparsity="0.5"), "Prune.sparsity is '0.5'; allowed: float | None"),
        (lambda: Quantize(include="mlp"), "Quantize.include is 'mlp'; allowed: tuple[str, ...]"),
        (lambda: Dataset(seed=-1), "Dataset.seed is -1; allowed: >= 0"),
        (lambda: Training(seed=-1), "Training.seed is -1; allowed: >= 0"),
        (lambda: Training(epochs=0), "Training.epochs is 0; allowed: >= 1"),
        (lambda: Training(learning_rate=0.0), "Training.learning_rate is 0.0; allowed: > 0"),
        (lambda: Training(learning_rate=float("inf")), "Training.learning_rate is inf; allowed: > 0 and finite"),
        (lambda: Training(patience=-1), "Training.patience is -1; allowed: >= 0"),
        (lambda: Training(max_grad_norm=-1.0), "Training.max_grad_norm is -1.0; allowed: >= 0"),
        (lambda: Training(table_learning_rate=-0.1), "Training.table_learning_rate is -0.1; allowed: >= 0"),
        (
            lambda: Training(table_optimizer="adam"),
            "unknown Training.table_optimizer 'adam'; valid: dense, lazy_adam, rowwise_adagrad, sgd; "
            "did you mean 'lazy_adam'?",
        ),
        (
            lambda: Training(decay="cosin"),
            "unknown Training.decay 'cosin'; valid: constant, cosine; did you mean 'cosine'?",
        ),
        (
            lambda: Dataset(windows="draw"),
            "unknown Dataset.windows 'draw'; valid: drawn, fixed; did you mean 'drawn'?",
        ),
        (lambda: Serving(buckets=()), "Serving.buckets is (); allowed: ascending positive sizes"),
        (lambda: Serving(buckets=(8, 4)), "Serving.buckets is (8, 4); allowed: ascending positive sizes"),
        (lambda: Serving(buckets=(4, 4)), "Serving.buckets is (4, 4); allowed: ascending positive sizes"),
        (lambda: Serving(buckets=(0, 4)), "Serving.buckets is (0, 4); allowed: ascending positive sizes"),
        (lambda: Serving(slo_ms=0.0), "Serving.slo_ms is 0.0; allowed: > 0 and finite"),
        (lambda: Serving(slo_ms=float("inf")), "Serving.slo_ms is inf; allowed: > 0 and finite"),
        (lambda: Serving(top_k=0), "Serving.top_k is 0; allowed: >= 1"),
        (lambda: SASRecConfig(embedding_dim=6, heads=4), "SASRecConfig.heads is 4; allowed: a divisor"),
        (lambda: SASRecConfig(dtype="float16"), "unknown SASRecConfig.dtype 'float16'; valid: bfloat16, float32"),
        (lambda: SASRecConfig(mlp_dims=()), "SASRecConfig.mlp_dims is ()"),
        (lambda: SASRecConfig(dropout_rate=1.0), "SASRecConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        (lambda: DLRMDCNv2Config(top_mlp=(4, 0)), "DLRMDCNv2Config.top_mlp is (4, 0)"),
        (lambda: DLRMDCNv2Config(cross_ranks=()), "DLRMDCNv2Config.cross_ranks is ()"),
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused_with_what_is_allowed(make: Any, message: str):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_experiment_name_is_a_file_name(experiment: Experiment):
    assert dataclasses.replace(experiment, name="a-b_2").name == "a-b_2"
    for name in ("", "a/b", "a b", "-_"):
        with pytest.raises(UserError, match="letters, digits, - and _"):
            dataclasses.replace(experiment, name=name)


@pytest.mark.parametrize(
    "original",
    [
        SASRecConfig(embedding_dim=12, heads=3, mlp_dims=(7,), dropout_rate=0.5, loss_chunk=9, dtype="bfloat16"),
        DLRMDCNv2Config(embedding_dim=3, bottom_mlp=(5, 4), cross_ranks=(2,), top_mlp=(6,), dtype="bfloat16"),
        LogisticRegressionConfig(),
        Dataset(split="random", ratios=(0.5, 0.3, 0.2)),
        Training(decay="cosine"),
        Serving(buckets=(3, 5)),
    ],
    ids=lambda original: type(original).__name__,
)
def test_from_dict_reads_what_to_dict_wrote_through_json(original: Any):
    read = from_dict(type(original), json.loads(json.dumps(to_dict(original))))
    assert read == original
    assert hash(read) == hash(original)  # tuples again, not lists


def test_to_dict_of_an_experiment_is_json(experiment: Experiment):
    values = to_dict(experiment)
    assert json.loads(json.dumps(values)) == values
    assert values["model"]["top_mlp"] == [512, 256]
    assert values["training"]["epochs"] == 50


def test_from_dict_refuses_unknown_keys_and_other_types():
    with pytest.raises(UserError, match=r"unknown Serving key 'buckts'.*did you mean 'buckets'"):
        from_dict(Serving, {"buckts": [1]})
    with pytest.raises(UserError, match=r"^Serving: .*integer"):
        from_dict(Serving, {"buckets": ["x"]})
