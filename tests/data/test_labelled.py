import dataclasses

import numpy as np
import pytest

from recjax.config import Dataset, Experiment
from recjax.data.interactions import Interactions
from recjax.data.labelled import LabelledData, labelled_data
from recjax.data.sources import load_interactions
from recjax.data.splits import split
from recjax.errors import UserError


@pytest.fixture(scope="module")
def whole(dlrm_experiment: Experiment) -> Interactions:
    return load_interactions(dlrm_experiment.dataset)


def test_parts_are_the_splits_rows_with_their_labels(
    labelled: LabelledData, whole: Interactions, dlrm_experiment: Experiment
):
    parts = split(whole, dlrm_experiment.dataset)
    for name in ("train", "valid", "test"):
        rows, columns = getattr(parts, name), labelled.parts[name]
        np.testing.assert_array_equal(columns["sparse_ids"][:, 0], rows.user)
        np.testing.assert_array_equal(columns["sparse_ids"][:, 1], rows.item)
        np.testing.assert_array_equal(columns["labels"], (rows.rating >= 4).astype(np.float32), strict=True)
        assert columns["dense"].shape == (len(rows), labelled.schema.n_dense)
    assert labelled.n_train == len(parts.train)


def two_users_of_three_ratings() -> Interactions:
    return Interactions(
        name="toy",
        user=np.repeat(np.arange(2, dtype=np.int32), 3),
        item=np.tile(np.arange(3, dtype=np.int32), 2),
        rating=np.array([2, 3, 2, 3, 2, 3], np.float32),
        timestamp=np.tile(np.arange(3, dtype=np.int64), 2),
        user_ids=np.arange(2),
        item_ids=np.arange(3),
    )


@pytest.mark.parametrize("threshold", [2.5, 3.0])
def test_label_is_rating_at_least_the_threshold(threshold: float):
    data = labelled_data(two_users_of_three_ratings(), Dataset(positive_rating=threshold))
    labels = {part: data.parts[part]["labels"].tolist() for part in ("train", "valid", "test")}
    assert labels == {"train": [0, 1], "valid": [1, 0], "test": [0, 1]}


@pytest.mark.parametrize(
    ("ratings", "part", "label"), [([5, 1, 5, 5, 5, 1], "train", 1), ([5, 1, 1, 1, 1, 5], "valid", 0)]
)
def test_a_part_with_labels_of_one_kind_is_refused(ratings: list[float], part: str, label: int):
    interactions = dataclasses.replace(two_users_of_three_ratings(), rating=np.array(ratings, np.float32))
    with pytest.raises(UserError, match=f"every label of the {part} part of toy is {label}, so that there is nothing"):
        labelled_data(interactions, Dataset())


def test_no_row_is_in_two_parts(labelled: LabelledData):
    pairs = {name: {tuple(ids[:2]) for ids in part["sparse_ids"].tolist()} for name, part in labelled.parts.items()}
    assert not pairs["train"] & pairs["valid"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["valid"] & pairs["test"]


def test_test_rows_change_neither_training_features_nor_labels(
    labelled: LabelledData, whole: Interactions, dlrm_experiment: Experiment
):
    parts = split(whole, dlrm_experiment.dataset)
    is_test = np.isin(whole.user * 1000 + whole.item, parts.test.user * 1000 + parts.test.item)
    changed = dataclasses.replace(
        whole,
        rating=np.where(is_test, 6 - whole.rating, whole.rating).astype(np.float32),
        timestamp=np.where(is_test, whole.timestamp + 10**9, whole.timestamp),
    )
    other = labelled_data(changed, dlrm_experiment.dataset)
    assert other.schema == labelled.schema
    for name in ("train", "valid"):
        for column, values in labelled.parts[name].items():
            np.testing.assert_array_equal(other.parts[name][column], values)
    assert (other.parts["test"]["labels"] != labelled.parts["test"]["labels"]).all()


def test_evaluation_batches_are_the_part_in_order(labelled: LabelledData):
    batches = list(labelled.eval_batches("valid", 16))
    assert {len(batch["labels"]) for batch in batches} == {16}
    real = np.concatenate([batch["dense"][batch["weight"] > 0] for batch in batches])
    np.testing.assert_array_equal(real, labelled.parts["valid"]["dense"])


def test_serving_samples_hold_no_label(labelled: LabelledData):
    samples = labelled.serving_samples()
    assert sorted(samples) == ["dense", "sparse_ids"]
    np.testing.assert_array_equal(samples["dense"], labelled.parts["test"]["dense"])


def test_protocol_names_filter_split_seed_and_label(labelled: LabelledData):
    assert labelled.protocol == "tiny/1-core/random_6:2:2/seed=0/label=rating>=4"
    assert labelled.selection_metric == "auc"
