import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.training.distillation import Teacher, ask_teacher, soft_loss, soft_target_loss
from recjax.training.fit import FitResult
from recjax.training.optimizer import make_table_optimizer
from recjax.training.pipeline import finalize, train
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import init_params, init_state, make_train_step
from recjax.transforms.distill import distill
from recjax.transforms.protocol import SoftTargets, chain
from recjax.transforms.quantize import quantize

REAL = jnp.array([True, True, False])


def test_of_a_catalogue_it_is_the_divergence_of_softmaxes_by_scipy():
    taught, answered = np.array([[2.0, 0, -1], [0, 3, 1], [9, 9, 9]]), np.array([[1.0, 1, 0], [0, 1, 2], [0, 0, 5]])
    p, q = (scipy.special.softmax(x / 2, axis=1) for x in (taught, answered))
    expected = 4 * np.mean([scipy.special.rel_entr(p[i], q[i]).sum() for i in (0, 1)])  # the third row is padding
    loss = soft_target_loss(jnp.asarray(taught), jnp.asarray(answered), REAL, "next_item", 2.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_of_logits_it_is_the_divergence_of_bernoulli_distributions():
    taught, answered = np.array([1.0, -2, 5]), np.array([0.0, 1, 0])
    p, q = scipy.special.expit(taught / 3), scipy.special.expit(answered / 3)
    divergence = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    loss = soft_target_loss(jnp.asarray(taught), jnp.asarray(answered), REAL, "labelled", 3.0)
    assert float(loss) == pytest.approx(9 * divergence[:2].mean(), rel=1e-5)


def test_of_ratings_it_is_the_squared_difference():
    loss = soft_target_loss(jnp.array([4.0, 2, 1]), jnp.array([3.0, 2.5, 5]), REAL, "rating", 2.0)
    assert float(loss) == pytest.approx((1 + 0.25) / 2)


@pytest.mark.parametrize("task", ["next_item", "top_n", "labelled", "rating"])
def test_a_student_that_agrees_has_nothing_to_learn(task: str):
    shape = (3, 4) if task in ("next_item", "top_n") else (3,)
    scores = jax.random.normal(jax.random.key(0), shape)
    value, gradient = jax.value_and_grad(lambda x: soft_target_loss(scores, x, REAL, task, 2.0))(scores)
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, np.zeros(shape), atol=1e-6)


def test_next_item_models_are_asked_after_random_positions(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    module = sasrec_experiment.model.build(next_item.schema)
    teacher = Teacher(module, trained_sasrec.params, SoftTargets(0.5, 1.0))

    @jax.jit
    def loss(student: Any, known: Any, key: jax.Array) -> jax.Array:
        return soft_loss(module, student, ask_teacher(teacher, known, key), 1.0)

    batch = next(next_item.train_batches(16, 0, 1))
    student = jax.tree.map(lambda x: x * 0.9, trained_sasrec.params)
    known = {**batch, "teacher": trained_sasrec.params}
    losses = {float(loss(student, known, jax.random.key(i))) for i in range(3)}
    assert len(losses) == 3
    # Items after the position that is asked for play no part: an empty batch row neither.
    padded = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x[:2])]), batch)
    a, b = (loss(student, {**x, "teacher": trained_sasrec.params}, jax.random.key(0)) for x in (batch, padded))
    assert np.isfinite(float(b))
    assert float(b) > 0
    assert float(a) > 0
    agreeing = loss(trained_sasrec.params, known, jax.random.key(0))
    assert float(agreeing) == pytest.approx(0, abs=1e-5)


def test_a_student_comes_nearer_to_its_teacher_than_labels_alone_bring_it(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    taught = sasrec_experiment.model.build(next_item.schema)
    student = dataclasses.replace(sasrec_experiment.model, embedding_dim=4, mlp_dims=(8,)).build(next_item.schema)
    batch = next(next_item.train_batches(32, 0, 1))
    divergences = []
    for weight in (0.0, 1.0):
        teacher = Teacher(taught, trained_sasrec.params, SoftTargets(weight, 1.0))
        optimizer = optax.adam(1e-2)
        step = make_train_step(student, optimizer, 0, teacher)
        state = init_state(init_params(student, batch, 0), optimizer)
        for _ in range(100):
            state, _ = step(state, {**batch, "teacher": trained_sasrec.params})
        assert step._cache_size() == 1
        scores = [
            jax.jit(module.apply)({"params": params}, batch)
            for module, params in ((taught, trained_sasrec.params), (student, state.params))
        ]
        divergences.append(float(soft_target_loss(*scores, jnp.asarray(batch["lengths"]) > 0, "next_item", 1.0)))
    assert divergences[1] < 0.5 * divergences[0]


def test_a_student_is_finalized_in_its_own_size(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    experiment = dataclasses.replace(sasrec_experiment, transforms=(distill(embedding_dim=4, mlp_dims=(8,)),))
    model = finalize(experiment, next_item, train(experiment, next_item, taught_by=trained_sasrec.params).params)
    assert model.config.mlp_dims == (8,)
    assert model.variables["params"]["items"]["table"].shape[1] == 4


def test_with_updates_of_rows_the_teacher_reads_its_own_tables(dlrm_experiment: Experiment, labelled: LabelledData):
    module = dlrm_experiment.model.build(labelled.schema)
    batch = next(labelled.train_batches(16, 0, 1))
    taught, start = init_params(module, batch, 1), init_params(module, batch, 0)
    teacher = Teacher(module, taught, SoftTargets(1.0, 1.0))
    rule = dataclasses.replace(dlrm_experiment.training, table_optimizer="sgd", learning_rate=0.1)
    tables, optimizer = make_table_optimizer(rule, 1), optax.sgd(0.1)
    assert tables is not None
    dense = make_train_step(module, optimizer, 0, teacher)
    by_rows = make_sparse_train_step(module, optimizer, dataclasses.replace(tables, max_grad_norm=0.0), 0, teacher)
    known = {**batch, "teacher": taught}
    _, expected = dense(init_state(start, optimizer), known)
    _, loss = by_rows(init_sparse_state(start, optimizer, tables), known)
    assert float(expected) > 0.01  # the two models differ, their tables among the rest
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_without_a_given_teacher_it_is_trained_first(dlrm_experiment: Experiment, labelled: LabelledData):
    short = dataclasses.replace(dlrm_experiment.training, epochs=1)
    experiment = dataclasses.replace(
        dlrm_experiment, training=short, transforms=(distill(top_mlp=(4,), bottom_mlp=(4,)), quantize())
    )
    records: list[Any] = []
    result = train(experiment, labelled, on_epoch=lambda record, epochs: records.append(record))
    assert [record.epoch for record in records] == [1, 1]  # the teacher's epoch, then the student's
    alone = train(dataclasses.replace(experiment, transforms=()), labelled)
    assert records[0].train_loss == pytest.approx(alone.history[0].train_loss)
    model = finalize(experiment, labelled, result.params)
    assert model.transform.label == "distill(top_mlp=4, bottom_mlp=4) + int8"
    assert model.variables["params"]["top_mlp"]["dense_0"]["kernel"]["values"].shape[1] == 4


def test_chains_say_whether_they_want_a_teacher_and_a_new_start():
    assert chain(quantize()).soft_targets is None
    assert not chain(quantize()).from_scratch
    student = chain(distill(mlp_dims=(8,), weight=0.25), quantize())
    assert student.soft_targets == SoftTargets(0.25, 2.0)
    assert student.from_scratch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_dims": (8,), "weight": 0.0}, r"distill weight is 0.0; allowed: \(0, 1\]"),
        ({"mlp_dims": (8,), "temperature": 0.0}, "distill temperature is 0.0; allowed: > 0"),
        ({}, "distill student is"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        distill(**options)


def test_an_unknown_field_of_the_student_names_the_nearest(sasrec_experiment: Experiment):
    with pytest.raises(UserError, match=r"SASRecConfig key 'mlp_dim'.*mlp_dims"):
        distill(mlp_dim=(8,)).rewrite(sasrec_experiment.model)
