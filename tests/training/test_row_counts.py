import dataclasses
from typing import Any

import numpy as np

from recjax.config import Dataset, Experiment, Training
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.models.ials import IALSConfig
from recjax.training.pipeline import load_data
from recjax.training.row_counts import count_rows
from recjax.training.step import init_params


def counted(experiment: Experiment, data: Any) -> dict[str, np.ndarray]:
    module = experiment.model.build(data.schema)
    batch = next(iter(data.train_batches(4, 0, 1)))
    batch = batch | {"context": dict(data.context)} if data.context else batch
    return count_rows(module, init_params(module, batch, 0), data, experiment.training)


def test_labelled_tables_are_counted_as_often_as_their_ids_stand_in_training(
    dlrm_experiment: Experiment, labelled: LabelledData
):
    # Wide layers, so that no sample is without a gradient; 32 does not divide the samples: the rest is padding.
    model = dataclasses.replace(dlrm_experiment.model, bottom_mlp=(32,), top_mlp=(64, 64))
    counts = counted(dataclasses.replace(dlrm_experiment, model=model), labelled)
    assert labelled.n_train % dlrm_experiment.training.batch_size
    ids = labelled.parts["train"]["sparse_ids"]
    column = 0
    for field in labelled.schema.fields:
        of_field = ids[:, column : column + field.length]
        expected = np.bincount(of_field[of_field >= 0], minlength=field.vocab_size)
        np.testing.assert_array_equal(counts[f"table_{field.name}"], expected)
        column += field.length


def test_histories_are_counted_without_their_padding_though_the_softmax_takes_the_whole_table(
    sasrec_experiment: Experiment, next_item: NextItemData
):
    counts = counted(sasrec_experiment, next_item)
    expected = np.zeros(next_item.schema.n_items, int)
    for batch in next_item.train_batches(16, 0, 1):
        for history, length in zip(batch["history"], batch["lengths"], strict=True):
            expected += np.bincount(history[:length], minlength=len(expected))
    np.testing.assert_array_equal(counts["items"], expected)


def test_a_model_that_is_solved_looks_nothing_up(sasrec_experiment: Experiment):
    training = Training()
    experiment = Experiment(
        name="solved",
        dataset=Dataset(source=sasrec_experiment.dataset.source, min_interactions=1, split="random_by_user"),
        model=IALSConfig(embedding_dim=4),
        training=training,
        finetuning=training,
    )
    counts = counted(experiment, load_data(experiment))
    assert set(counts) == {"items"}
    assert not counts["items"].any()
