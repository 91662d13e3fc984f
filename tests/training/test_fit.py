import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import TrainingDivergedError, UserError
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.training.fit import EpochRecord, FitResult, fit
from recjax.training.pipeline import train
from recjax.transforms.protocol import Transform, chain


@pytest.fixture(scope="module")
def fitted(logistic_experiment: Experiment, labelled: LabelledData) -> FitResult:
    """Returns the fit on data without a test part, which training must not need."""
    seen = {part: labelled.parts[part] for part in ("train", "valid")}
    return train(logistic_experiment, dataclasses.replace(labelled, parts=seen))


def auc(experiment: Experiment, data: LabelledData, params: Any) -> float:
    module = experiment.model.build(data.schema)
    evaluate = make_evaluator(lambda params, batch: module.apply({"params": params}, batch), data, "valid")
    return evaluate(params).metrics["auc"]


def test_loss_falls_and_sasrec_beats_popularity(trained_sasrec: FitResult, next_item: NextItemData):
    losses = [record.train_loss for record in trained_sasrec.history]
    assert losses[-1] < 0.8 * losses[0]
    popularity = sanity_rows(next_item, "valid")["popularity"].metrics["ndcg@10"]
    assert trained_sasrec.best.validation["ndcg@10"] > 1.2 * popularity


def test_history_numbers_epochs_and_steps(trained_sasrec: FitResult, next_item: NextItemData):
    steps = -(-next_item.n_train // 16)
    assert [record.epoch for record in trained_sasrec.history] == list(range(1, 9))
    assert [record.step for record in trained_sasrec.history] == [steps * epoch for epoch in range(1, 9)]


def test_best_is_the_first_epoch_with_the_highest_validation(
    fitted: FitResult, logistic_experiment: Experiment, labelled: LabelledData
):
    values = [record.validation["auc"] for record in fitted.history]
    assert fitted.best.epoch == 1 + int(np.argmax(values))
    assert auc(logistic_experiment, labelled, fitted.params) == max(values)
    so_far = np.maximum.accumulate([-np.inf, *values])[:-1]
    assert [record.is_best for record in fitted.history] == [v > s for v, s in zip(values, so_far, strict=True)]


def test_training_stops_when_patience_is_over(fitted: FitResult, logistic_experiment: Experiment):
    assert len(fitted.history) < logistic_experiment.training.epochs
    assert len(fitted.history) == fitted.best.epoch + logistic_experiment.training.patience


def test_patience_counts_validations_and_zero_never_stops(logistic_experiment: Experiment, labelled: LabelledData):
    every_other = dataclasses.replace(logistic_experiment.training, validation_every=2, epochs=7, patience=0)
    result = train(dataclasses.replace(logistic_experiment, training=every_other), labelled)
    assert [bool(record.validation) for record in result.history] == [False, True, False, True, False, True, True]
    assert not any(record.is_best for record in result.history if not record.validation)


def test_fine_tuning_starts_with_epoch_zero_and_never_ends_worse(
    fitted: FitResult, logistic_experiment: Experiment, labelled: LabelledData
):
    before, seen = jax.tree.map(np.array, fitted.params), []
    tuned = train(
        logistic_experiment, labelled, start=fitted.params, on_epoch=lambda *arguments: seen.append(arguments)
    )
    start = tuned.history[0]
    assert start == EpochRecord(0, 0, None, fitted.best.validation, True)
    assert [record.epoch for record in tuned.history] == [0, 1, 2]
    assert tuned.best.validation["auc"] >= start.validation["auc"]
    jax.tree.map(np.testing.assert_array_equal, fitted.params, before)
    assert seen == [(record, 2) for record in tuned.history]


def test_a_start_that_no_step_improves_is_returned_as_it_was(
    fitted: FitResult, logistic_experiment: Experiment, labelled: LabelledData
):
    still = dataclasses.replace(logistic_experiment.finetuning, learning_rate=1e-30)
    tuned = train(dataclasses.replace(logistic_experiment, finetuning=still), labelled, start=fitted.params)
    assert tuned.best.epoch == 0
    jax.tree.map(np.testing.assert_array_equal, tuned.params, fitted.params)


def test_only_epochs_that_satisfy_the_transform_can_be_best(
    fitted: FitResult, logistic_experiment: Experiment, labelled: LabelledData
):
    class Late(Transform):
        def settled_step(self, total_steps: int) -> int:
            return total_steps

    result = fit(
        logistic_experiment.model,
        fitted.params,
        labelled,
        dataclasses.replace(logistic_experiment.training, epochs=3, patience=1),
        Late(),
        validate_start=True,
    )
    assert [record.is_best for record in result.history] == [False, False, False, True]


def test_a_loss_that_is_not_finite_stops_the_run(
    fitted: FitResult, logistic_experiment: Experiment, labelled: LabelledData
):
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), fitted.params)
    with pytest.raises(TrainingDivergedError, match="the training loss is nan in epoch 1; lower learning_rate"):
        fit(logistic_experiment.model, broken, labelled, logistic_experiment.training, chain())


def test_a_validation_part_of_one_class_is_refused(logistic_experiment: Experiment, labelled: LabelledData):
    valid = labelled.parts["valid"] | {"labels": np.ones_like(labelled.parts["valid"]["labels"])}
    one_class = dataclasses.replace(labelled, parts=labelled.parts | {"valid": valid})
    with pytest.raises(UserError, match=r"auc|class|label"):  # the AUC that chooses the epoch is NaN
        train(logistic_experiment, one_class)
