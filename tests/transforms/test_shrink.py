import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables
from shrink_checks import assert_fresh_shapes, context_of, experiment_of, logits

from recjax.config import Experiment, ModelConfig
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.models.autorec import AutoRecConfig
from recjax.models.bert4rec import BERT4RecConfig
from recjax.models.cdae import CDAEConfig
from recjax.models.cfgan import CFGANConfig
from recjax.models.deepfm import DeepFMConfig
from recjax.models.din import DINConfig
from recjax.models.dlrm import DLRMConfig
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.hstu import HSTUConfig
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.models.lstm_two_branch import LSTMTwoBranchConfig
from recjax.models.mult_dae import MultDAEConfig
from recjax.models.mult_vae import MultVAEConfig
from recjax.models.neumf import NeuMFConfig
from recjax.models.sasrec import SASRecConfig
from recjax.models.two_tower import TwoTowerConfig
from recjax.models.wide_and_deep import WideAndDeepConfig
from recjax.training.distillation import soft_target_loss
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize, load_data, train
from recjax.transforms.compress_embeddings import compress_embeddings
from recjax.transforms.paths import flatten, set_path, unflatten_like
from recjax.transforms.protocol import SoftTargets, chain
from recjax.transforms.prune import prune
from recjax.transforms.shrink import Shrink, shrink


def empty(model_config: Any, params: Any, n_kept: int, seed: int = 0) -> Any:
    """Returns the parameters with all but `n_kept` random units of every hidden layer zeroed."""
    rng = np.random.default_rng(seed)
    flat = {path: np.array(leaf) for path, leaf in flatten(params).items()}
    for layer in model_config.hidden_units():
        width = getattr(model_config, layer.field)[layer.index]
        gone = rng.permutation(width)[n_kept:]
        for path, axis in layer.slices:
            flat[path][(slice(None),) * axis + (gone,)] = 0
    return unflatten_like(params, {path: jnp.asarray(leaf) for path, leaf in flat.items()})


def shrunk(transform: Shrink, model_config: Any, params: Any) -> tuple[Any, Any, Any]:
    config, variables, report = transform.finalize(model_config, {"params": params}, context_of())
    return config, variables["params"], report.details["widths"]


def test_dlrm_answers_the_same_with_fewer_parameters(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    masked = empty(dlrm_experiment.model, dlrm_params, n_kept=3)
    config, params, widths = shrunk(shrink(finetune_epochs=0, multiple_of=1), dlrm_experiment.model, masked)
    assert (config.bottom_mlp, config.cross_ranks, config.top_mlp) == ((3,), (3, 3), (3, 3))
    assert config.embedding_dim == dlrm_experiment.model.embedding_dim
    assert widths == {
        "bottom_mlp[0]": [8, 3],
        "cross_ranks[0]": [4, 3],
        "cross_ranks[1]": [6, 3],
        "top_mlp[0]": [16, 3],
        "top_mlp[1]": [8, 3],
    }
    batch = next(labelled.eval_batches("valid", 32))
    before = logits(dlrm_experiment.model, labelled, masked, batch)
    np.testing.assert_allclose(logits(config, labelled, params, batch), before, rtol=1e-5, atol=1e-5)
    N, D = labelled.schema.n_dense, config.embedding_dim
    X = D * (1 + len(labelled.schema.fields))
    expected = sum(field.vocab_size * D for field in labelled.schema.fields)
    expected += (N + 1) * 3 + (3 + 1) * D  # bottom MLP
    expected += 2 * (X * 3 + (3 + 1) * X)  # cross network
    expected += (X + 1) * 3 + (3 + 1) * 3 + (3 + 1) * 1  # top MLP and logit
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    fresh = jax.eval_shape(config.build(labelled.schema).init, jax.random.key(0), batch)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)


def test_sasrec_answers_the_same_with_fewer_parameters(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    masked = empty(sasrec_experiment.model, trained_sasrec.params, n_kept=5)
    config, params, widths = shrunk(shrink(finetune_epochs=0, multiple_of=1), sasrec_experiment.model, masked)
    assert config.mlp_dims == (5,)
    assert widths == {"mlp_dims[0]": [16, 5]}
    batch = next(next_item.eval_batches("valid", 16))
    before = logits(sasrec_experiment.model, next_item, masked, batch)
    np.testing.assert_allclose(logits(config, next_item, params, batch), before, rtol=1e-5, atol=1e-5)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (masked, params)]
    D = config.embedding_dim
    assert sizes[0] - sizes[1] == (16 - 5) * (D + 1 + D)  # a unit's column, bias and row


@pytest.mark.parametrize(
    ("multiple_of", "n_kept", "widths"),
    [
        (4, 3, [4, 4, 4, 4, 4]),  # rounded up
        (8, 0, [8, 4, 6, 8, 8]),  # never to nothing, and never above what there was
    ],
)
def test_widths_are_kept_at_multiples(
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    dlrm_params: Any,
    multiple_of: int,
    n_kept: int,
    widths: list[int],
):
    masked = empty(dlrm_experiment.model, dlrm_params, n_kept)
    transform = shrink(finetune_epochs=0, multiple_of=multiple_of)
    config, params, _ = shrunk(transform, dlrm_experiment.model, masked)
    assert [*config.bottom_mlp, *config.cross_ranks, *config.top_mlp] == widths
    batch = next(labelled.eval_batches("valid", 32))
    before = logits(dlrm_experiment.model, labelled, masked, batch)
    np.testing.assert_allclose(logits(config, labelled, params, batch), before, rtol=1e-5, atol=1e-5)


def test_nothing_emptied_means_nothing_removed(dlrm_experiment: Experiment, dlrm_params: Any):
    config, params, _ = shrunk(shrink(finetune_epochs=0), dlrm_experiment.model, dlrm_params)
    assert config == dlrm_experiment.model
    jax.tree.map(np.testing.assert_array_equal, params, dlrm_params)


@pytest.mark.parametrize(
    ("share", "n_kept", "widths"), [(0.5, 8, [4, 2, 3, 8, 4]), (0.5, 2, [2] * 5), (0.2, 3, [3] * 5)]
)
def test_a_share_and_what_pruning_emptied_are_not_added_up(
    dlrm_experiment: Experiment, dlrm_params: Any, share: float, n_kept: int, widths: list[int]
):
    masked = empty(dlrm_experiment.model, dlrm_params, n_kept)
    config, _, _ = shrunk(shrink(share, finetune_epochs=0, multiple_of=1), dlrm_experiment.model, masked)
    assert [*config.bottom_mlp, *config.cross_ranks, *config.top_mlp] == widths


WITH_UNITS: dict[str, ModelConfig] = {
    "autorec": AutoRecConfig(hidden_dims=(6, 4)),
    "bert4rec": BERT4RecConfig(embedding_dim=8, mlp_dims=(8, 6)),
    "cdae": CDAEConfig(hidden_dims=(6,)),
    "cfgan": CFGANConfig(generator_dims=(6, 4), discriminator_dims=(6,)),
    "deepfm": DeepFMConfig(embedding_dim=4, deep_mlp=(8, 6)),
    "din": DINConfig(embedding_dim=4, attention_mlp=(6, 4), top_mlp=(8, 6)),
    "dlrm": DLRMConfig(embedding_dim=4, bottom_mlp=(6,), top_mlp=(8, 6)),
    "dlrm_dcnv2": DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(6,), cross_ranks=(4, 6), top_mlp=(8, 6)),
    "lstm_two_branch": LSTMTwoBranchConfig(embedding_dim=4, units=4, mlp_dims=(8, 6)),
    "mult_dae": MultDAEConfig(hidden_dims=(8, 6)),
    "mult_vae": MultVAEConfig(encoder_dims=(8,), latent_dim=4, decoder_dims=(6,)),
    "neumf": NeuMFConfig(factors=4, embedding_dim=4, mlp=(8, 6)),
    "sasrec": SASRecConfig(embedding_dim=8, mlp_dims=(8, 6)),
    "two_tower": TwoTowerConfig(embedding_dim=4, user_mlp=(8, 6), item_mlp=(6,)),
    "wide_and_deep": WideAndDeepConfig(embedding_dim=4, deep_mlp=(8, 6)),
}


@pytest.mark.parametrize("name", WITH_UNITS)
def test_the_units_of_least_norm_go_in_every_model(name: str, ratings_file: Path, dlrm_experiment: Experiment):
    model = WITH_UNITS[name]
    whole = experiment_of(model, ratings_file, dlrm_experiment)
    data = load_data(whole)
    context = {"context": dict(data.context)} if data.context else {}
    params = random_variables(model.build(data.schema), next(data.train_batches(4, 0, 1)) | context)["params"]
    for layer in model.hidden_units():  # half of every layer's units, the later ones, become small
        half = getattr(model, layer.field)[layer.index] // 2
        for path, axis in layer.slices:
            leaf = flatten(params)[path]
            scale = jnp.where(jnp.arange(leaf.shape[axis]) < half, 1.0, 1e-7)
            others = [other for other in range(leaf.ndim) if other != axis]
            params = set_path(params, path, leaf * jnp.expand_dims(scale, others))
    smaller = dataclasses.replace(whole, transforms=(shrink(0.5, finetune_epochs=0, multiple_of=1),))
    models = [finalize(experiment, data, params) for experiment in (whole, smaller)]
    for layer in model.hidden_units():
        widths = [getattr(m.config, layer.field)[layer.index] for m in models]
        assert widths[1] == widths[0] // 2
    assert_fresh_shapes(models[1].config, data, models[1].variables["params"])
    batch = next(data.eval_batches("valid", 16))
    expected, scores = (np.asarray(jax.jit(m.score)(m.variables, batch)) for m in models)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_retrain_gets_the_smaller_model_and_has_the_last_word(dlrm_experiment: Experiment, dlrm_params: Any):
    seen = []

    def retrain(model_config: Any, params: Any, epochs: int, teacher: Any) -> Any:
        seen.append((model_config.top_mlp, params["logit"]["kernel"].shape, epochs, teacher))
        return {"retrained": jnp.ones(1)}

    masked = empty(dlrm_experiment.model, dlrm_params, n_kept=2)
    for distill in (0.0, 0.25):
        transform = shrink(finetune_epochs=3, multiple_of=1, distill=distill, temperature=3.0 if distill else 2.0)
        given = {"params": masked}
        _, variables, _ = transform.finalize(dlrm_experiment.model, given, context_of(retrain=retrain))
        assert list(variables["params"]) == ["retrained"]
    assert [call[:3] for call in seen] == [((2, 2), (2, 1), 3)] * 2
    assert seen[0][3] is None
    teacher = seen[1][3]
    assert (teacher.model_config, teacher.targets) == (dlrm_experiment.model, SoftTargets(0.25, 3.0))
    assert teacher.params is masked


def test_the_unshrunk_model_teaches_the_shrunk_one(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    def distance(**options: Any) -> float:
        """Returns how far the shrunk model's scores are from the unshrunk one's, as the loss of soft targets has it."""
        transform = shrink(0.5, multiple_of=1, **options)
        model = finalize(
            dataclasses.replace(sasrec_experiment, transforms=(transform,)), next_item, trained_sasrec.params
        )
        assert model.config.mlp_dims == (8,)
        scores = jax.jit(model.score)(model.variables, batch)
        return float(soft_target_loss(taught, scores, jnp.ones(len(taught), bool), "next_item", 2.0))

    batch = next(next_item.eval_batches("valid", 30))
    taught = jnp.asarray(logits(sasrec_experiment.model, next_item, trained_sasrec.params, batch))
    others = distance(finetune_epochs=0), distance(finetune_epochs=6)
    assert distance(finetune_epochs=6, distill=1.0) < 0.75 * min(others)


@pytest.mark.parametrize(
    ("transform", "model", "message"),
    [
        (shrink(), HSTUConfig(), "shrink has no units to remove: HSTUConfig has no hidden layer; leave share out"),
        (shrink(0.5), LogisticRegressionConfig(), r"shrink\(0.5\) has no units to remove: LogisticRegressionConfig"),
        (shrink(0.5, heads=0.5), HSTUConfig(), r"shrink\(0.5, heads 0.5\) has no units to remove: HSTUConfig has no"),
        (
            shrink(),
            SASRecConfig(mlp_dims=(8,)),
            r"shrink removes no unit of .* {'mlp_dims\[0\]': 8}: .*; lower multiple",
        ),
        (
            shrink(0.01),
            SASRecConfig(mlp_dims=(64, 32)),
            r"the share 0.01 of shrink\(0.01\) removes no unit of .*; .* raise share$",
        ),
        (
            shrink(0.1, multiple_of=16),
            SASRecConfig(mlp_dims=(64,)),
            r"multiples of 16\) removes no unit of SASRec",
        ),
        (shrink(heads=0.5), DeepFMConfig(), r"DeepFMConfig has no attention layer; leave heads out$"),
        (shrink(heads=0.4), SASRecConfig(), r"removes none of SASRecConfig's heads, 2 a layer; give at least 1 / 2$"),
        (
            shrink(heads=0.9),
            SASRecConfig(heads=1),
            r"removes none of SASRecConfig's heads, 1 a layer; leave heads out$",
        ),
        (shrink(layers=1), DeepFMConfig(), r"removes more layers than DeepFMConfig can lose, which is 0: residual"),
        (shrink(layers=2), HSTUConfig(), r"removes more layers than HSTUConfig can lose, which is 1: .*one stays"),
        (shrink(layers=3), DLRMDCNv2Config(), r"removes more layers than DLRMDCNv2Config can lose, which is 2: "),
        (shrink(0.5, distill=0.5), AutoRecConfig(), r"shrink\(0.5, distill 0.5\) cannot teach AutoRec: soft targets"),
    ],
)
def test_models_without_what_is_to_be_removed_are_refused_before_training(
    transform: Shrink, model: ModelConfig, message: str
):
    with pytest.raises(UserError, match=message):
        transform.rewrite(model)


def test_models_with_enough_of_it_are_left_as_they_are():
    for transform, model in (
        (shrink(heads=0.5, layers=1), HSTUConfig()),
        (shrink(0.5, layers=2), DLRMDCNv2Config()),
        (shrink(heads=1 / 3), SASRecConfig(heads=3, head_dim=8)),
        (shrink(heads=0.5), SASRecConfig(heads=2, mlp_dims=(8,))),
        (shrink(0.1), SASRecConfig(mlp_dims=(8, 80))),
        (shrink(0.1, multiple_of=2), SASRecConfig(mlp_dims=(20,))),
    ):
        assert chain(transform).rewrite(model) is model


def test_masks_that_fine_tuning_would_fill_are_refused():
    with pytest.raises(UserError, match=r"fine-tuning of shrink\(0.5\) would fill the zeros of prune\(0.5, element\)"):
        chain(prune(0.5, structure="element"), shrink(0.5))
    left = chain(prune(0.5, structure="element"), shrink(heads=0.5, finetune_epochs=0))
    assert left.support("cpu") == "emulated"  # the masked zeros are still there
    assert chain(prune(0.5), shrink(0.25)).support("cpu") == "native"


def test_units_whose_table_has_another_form_are_refused_before_training(
    ratings_file: Path, dlrm_experiment: Experiment
):
    hashed = compress_embeddings("hash", ratio=0.5, min_rows=8)
    experiment = experiment_of(WITH_UNITS["cdae"], ratings_file, dlrm_experiment, hashed, shrink(0.5, multiple_of=1))

    def forbidden(*_: Any) -> None:
        raise AssertionError("training must not begin")

    with pytest.raises(UserError, match=r"units own a part of users/table, which another transform stores"):
        train(experiment, load_data(experiment), on_epoch=forbidden)
    by_rows = dataclasses.replace(experiment.training, table_optimizer="lazy_adam")
    experiment = dataclasses.replace(experiment, transforms=(prune(0.5),), training=by_rows)
    with pytest.raises(UserError, match=r"(?m)part of users/table, which .*; set training.table_optimizer='dense'$"):
        train(experiment, load_data(experiment), on_epoch=forbidden)


def test_head_widths_that_a_config_cannot_have_are_refused():
    for config in (SASRecConfig, BERT4RecConfig):
        with pytest.raises(UserError, match=f"{config.__name__}.heads is 3; allowed: a divisor of embedding_dim"):
            config(embedding_dim=8, heads=3)
        with pytest.raises(UserError, match=f"{config.__name__}.head_dim is -1; allowed: >= 0"):
            config(head_dim=-1)
        assert config(embedding_dim=8, heads=3, head_dim=2).attention_heads()[0].fixed == (("head_dim", 2),)
    with pytest.raises(UserError, match=r"HSTUConfig.normed_heads is 1; allowed: 0, or at least heads"):
        HSTUConfig(heads=2, normed_heads=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, r"shrink share is 1.0; allowed: \[0, 1\)"),
        ({"share": -0.1}, r"shrink share is -0.1; allowed: \[0, 1\)"),
        ({"heads": 1.0}, r"shrink heads is 1.0; allowed: \[0, 1\)"),
        ({"layers": -1}, r"shrink layers is -1; allowed: >= 0"),
        ({"finetune_epochs": -1}, r"shrink finetune_epochs is -1; allowed: >= 0"),
        ({"multiple_of": 0}, r"shrink multiple_of is 0; allowed: >= 1"),
        ({"distill": 1.5}, r"shrink distill is 1.5; allowed: \[0, 1\]"),
        ({"distill": 0.5, "finetune_epochs": 0}, r"shrink distill with finetune_epochs=0 is 0.5; allowed: 0"),
        ({"temperature": 0.0}, r"shrink temperature is 0.0; allowed: > 0"),
        ({"temperature": 4.0}, r"shrink temperature without distill is 4.0; allowed: 2"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        shrink(**options)
