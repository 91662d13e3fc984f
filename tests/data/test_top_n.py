import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.config import Dataset, Samples
from recjax.data.batches import PADDING_ID
from recjax.data.interactions import Interactions, KnowledgeGraph
from recjax.data.top_n import TopNData, draw_negatives, top_n_data
from recjax.errors import UserError

INTERACTIONS = Samples(negatives=3, history=True)


def interactions(items_of: list[list[int]], n_items: int, **graphs: Any) -> Interactions:
    """Returns users with those items, oldest first."""
    user = np.repeat(np.arange(len(items_of), dtype=np.int32), [len(items) for items in items_of])
    return Interactions(
        name="toy",
        user=user,
        item=np.array([item for items in items_of for item in items], np.int32),
        rating=np.ones(len(user), np.float32),
        timestamp=np.arange(len(user), dtype=np.int64),
        user_ids=np.arange(len(items_of)),
        item_ids=np.arange(n_items),
        **graphs,
    )


# Of users with 3 items or more, the last is the test and the one before it the validation.
TOY = [[0, 1, 2, 3, 4], [5, 6], [7, 0, 2, 8], [1, 3, 5]]
TRAIN = {0: [0, 1, 2], 1: [5, 6], 2: [7, 0], 3: [1]}


def data_of(samples: Samples, items_of: list[list[int]] = TOY, n_items: int = 9, **options: Any) -> TopNData:
    return top_n_data(interactions(items_of, n_items), Dataset(**options), samples)


@pytest.fixture(scope="module")
def folded() -> TopNData:
    """Returns strong generalisation over 20 users with 10 of 12 items each."""
    rng = np.random.default_rng(0)
    items_of = [rng.permutation(12)[:10].tolist() for _ in range(20)]
    return data_of(Samples(unit="users"), items_of, 12, split="strong_generalisation")


def rows_of(mask: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in mask]


def padded(items: list[int], width: int) -> list[int]:
    return items + [PADDING_ID] * (width - len(items))


def test_batches_of_interactions_hold_each_training_interaction_once():
    data = data_of(INTERACTIONS)
    assert data.n_train == 8
    batches = list(data.train_batches(3, seed=0, epoch=1))
    assert [batch["weight"].tolist() for batch in batches] == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    pairs = []
    for batch in batches:
        assert {name: column.shape for name, column in batch.items()} == {
            "user": (3,),
            "item": (3,),
            "negatives": (3, 3),
            "history": (3, 3),
            "weight": (3,),
        }
        assert all(column.dtype == np.int32 for name, column in batch.items() if name != "weight")
        for row in np.flatnonzero(batch["weight"]):
            user = int(batch["user"][row])
            pairs.append((user, int(batch["item"][row])))
            assert batch["history"][row].tolist() == padded(TRAIN[user], 3)
            assert not set(batch["negatives"][row].tolist()) & set(TRAIN[user])
    assert sorted(pairs) == sorted((user, item) for user, items in TRAIN.items() for item in items)


def test_batches_carry_what_is_asked_for_alone():
    (plain,) = data_of(Samples()).train_batches(8, 0, 1)
    assert set(plain) == {"user", "item", "weight"}
    (negatives,) = data_of(Samples(negatives=1)).train_batches(8, 0, 1)
    assert set(negatives) == {"user", "item", "negatives", "weight"}


@given(
    st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_negatives_are_never_training_items_of_the_user(sets: list[set[int]], n: int, seed: int):
    # At most 4 of 8 items are known: a draw that is left after 50 redraws would be one of 2^51.
    user = np.arange(200, dtype=np.int32) % len(sets)
    known = np.sort(np.array([8 * user + item for user, items in enumerate(sets) for item in items], np.int64))
    negatives = draw_negatives(np.random.default_rng(seed), user, n, known, 8)
    assert negatives.shape == (200, n)
    assert negatives.dtype == np.int32
    for owner, row in zip(user.tolist(), negatives.tolist(), strict=True):
        assert not set(row) & sets[owner]
        assert all(0 <= item < 8 for item in row)


def test_negatives_are_uniform_over_the_items_that_the_user_lacks():
    known = np.array([0, 2, 3, 8], np.int64)  # of 6 items, user 0 has 0 2 3, user 1 has 2
    user = np.repeat(np.arange(2, dtype=np.int32), 600)
    negatives = draw_negatives(np.random.default_rng(0), user, 10, known, 6)
    for owner, lacks in ((0, [1, 4, 5]), (1, [0, 1, 3, 4, 5])):
        counts = np.bincount(negatives[user == owner].ravel(), minlength=6)
        assert np.flatnonzero(counts).tolist() == lacks
        share = 1 / len(lacks)
        np.testing.assert_allclose(counts[lacks] / 6000, share, atol=4 * np.sqrt(share * (1 - share) / 6000))


def test_a_user_with_every_item_gets_negatives_all_the_same():
    negatives = draw_negatives(np.random.default_rng(0), np.zeros(2, np.int32), 3, np.arange(4, dtype=np.int64), 4)
    assert negatives.shape == (2, 3)
    assert set(negatives.ravel().tolist()) <= {0, 1, 2, 3}


def test_batches_of_users_hold_each_users_training_items():
    data = data_of(Samples(unit="users"))
    assert data.n_train == 4
    batches = list(data.train_batches(3, seed=0, epoch=1))
    found = {}
    for batch in batches:
        assert set(batch) == {"user", "history", "weight"}
        assert batch["history"].shape == (3, 3)
        for row in np.flatnonzero(batch["weight"]):
            found[int(batch["user"][row])] = batch["history"][row].tolist()
    assert sum(batch["weight"].sum() for batch in batches) == 4
    assert found == {user: padded(items, 3) for user, items in TRAIN.items()}


def test_everything_is_one_batch():
    data = data_of(Samples(unit="everything"))
    assert data.n_train == 1
    (batch,) = data.train_batches(2, seed=0, epoch=1)
    pairs = list(zip(batch["user"].tolist(), batch["item"].tolist(), strict=True))
    assert pairs == [(user, item) for user, items in TRAIN.items() for item in items]
    assert batch["weight"].tolist() == [1] * 8


@pytest.mark.parametrize("samples", [INTERACTIONS, Samples(unit="users")])
def test_batches_depend_on_seed_and_epoch_alone(samples: Samples):
    data = data_of(samples)

    def epoch(seed: int, number: int) -> list[list]:
        return [batch[name].tolist() for batch in data.train_batches(3, seed, number) for name in sorted(batch)]

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(0, 2)
    assert epoch(0, 1) != epoch(1, 1)


def test_validation_batches_by_hand():
    (batch,) = data_of(Samples()).eval_batches("valid", 4)
    assert batch["user"].tolist() == [0, 2, 3, 0]  # user 1 has no held-out item
    assert batch["weight"].tolist() == [1, 1, 1, 0]
    assert batch["history"][:3].tolist() == [[0, 1, 2], [7, 0, -1], [1, -1, -1]]
    assert rows_of(batch["relevant"]) == [[3], [2], [3], []]
    assert rows_of(batch["candidates"]) == [[3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 8], [0, 2, 3, 4, 5, 6, 7, 8], []]


def test_test_batches_leave_out_validation_items_and_know_the_training_part_alone():
    (batch,) = data_of(Samples()).eval_batches("test", 4)
    assert batch["user"].tolist() == [0, 2, 3, 0]
    assert batch["history"][:3].tolist() == [[0, 1, 2], [7, 0, -1], [1, -1, -1]]
    assert rows_of(batch["relevant"]) == [[4], [8], [5], []]
    assert rows_of(batch["candidates"]) == [[4, 5, 6, 7, 8], [1, 3, 4, 5, 6, 8], [0, 2, 4, 5, 6, 7, 8], []]


@given(
    st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=9).map(sorted), min_size=1, max_size=6),
    st.sampled_from(["leave_last_one_out", "random_by_user"]),
    st.integers(1, 4),
)
def test_evaluation_agrees_with_the_split(items_of: list[list[int]], split: str, batch_size: int):
    data = data_of(Samples(), [*items_of, [1, 2, 3, 4]], 10, split=split, ratios=(0.6, 0.2, 0.2))

    def items(part: str, user: int) -> set[int]:
        columns = getattr(data.split, part)
        return set(columns.item[columns.user == user].tolist())

    for part, earlier in (("valid", ("train",)), ("test", ("train", "valid"))):
        users = []
        for batch in data.eval_batches(part, batch_size):
            assert batch["relevant"].shape == batch["candidates"].shape == (batch_size, 10)
            for row in np.flatnonzero(batch["weight"]):
                user = int(batch["user"][row])
                users.append(user)
                known = set.union(*(items(name, user) for name in earlier))
                assert set(np.flatnonzero(batch["relevant"][row])) == items(part, user)
                assert set(np.flatnonzero(batch["candidates"][row])) == set(range(10)) - known
                assert set(batch["history"][row].tolist()) - {PADDING_ID} == items("train", user)
        assert users == [user for user in range(len(items_of) + 1) if items(part, user)]


def test_sampled_candidates_are_the_relevant_and_as_many_others():
    whole, sampled = data_of(Samples()), data_of(Samples(), sampled_candidates=3)
    for part in ("valid", "test"):
        (everything,), (batch,), (again,) = (d.eval_batches(part, 3) for d in (whole, sampled, sampled))
        np.testing.assert_array_equal(batch["relevant"], everything["relevant"])
        assert not (batch["candidates"] & ~everything["candidates"]).any()
        assert (batch["candidates"] & batch["relevant"]).sum(1).tolist() == [1, 1, 1]
        assert batch["candidates"].sum(1).tolist() == [4, 4, 4]
        np.testing.assert_array_equal(batch["candidates"], again["candidates"])
    assert sampled.selection_metric == "ndcg@10/sampled(3)"
    assert "/sampled(3)/" in sampled.protocol


def test_strong_generalisation_folds_in_and_never_learns_from_held_out_users(folded: TopNData):
    assert folded.split.folded_in is not None
    assert folded.cutoffs == (20, 50, 100)
    assert folded.selection_metric == "ndcg@100"
    learned = {int(user) for batch in folded.train_batches(5, 0, 1) for user in batch["user"][batch["weight"] > 0]}
    assert len(learned) == folded.n_train == 16
    for part in ("valid", "test"):
        (batch,) = folded.eval_batches(part, 2)
        held_out, known = getattr(folded.split, part), folded.split.folded_in[part]
        assert not learned & set(batch["user"].tolist())
        for user, history, relevant, candidates in zip(
            *(batch[name] for name in ("user", "history", "relevant", "candidates")), strict=True
        ):
            folded_in = known.item[known.user == user].tolist()
            assert len(folded_in) == 8
            assert history.tolist() == padded(folded_in, 10)  # a training user has 10 items
            assert set(np.flatnonzero(relevant)) == set(held_out.item[held_out.user == user].tolist())
            assert relevant.sum() == 2
            assert set(np.flatnonzero(~candidates)) == set(folded_in)


def test_serving_samples_are_the_test_users_with_their_histories(folded: TopNData):
    samples = data_of(Samples()).serving_samples()
    assert sorted(samples) == ["history", "user"]
    assert samples["user"].tolist() == [0, 2, 3]
    assert samples["history"].tolist() == [[0, 1, 2], [7, 0, -1], [1, -1, -1]]
    (test,) = folded.eval_batches("test", 2)
    requests = folded.serving_samples()
    np.testing.assert_array_equal(requests["user"], test["user"])
    np.testing.assert_array_equal(requests["history"], test["history"])


def test_serving_samples_are_at_most_so_many_users(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recjax.data.top_n.MOST_REQUESTS", 2)
    data = data_of(Samples())
    samples = data.serving_samples()
    assert samples["history"].tolist() == [padded(TRAIN[user], 3) for user in samples["user"].tolist()]
    assert len(set(samples["user"].tolist()) & {0, 2, 3}) == 2
    np.testing.assert_array_equal(samples["user"], data.serving_samples()["user"])


def test_an_item_that_a_user_has_twice_counts_once_where_it_stands_first():
    data = data_of(Samples(), [[0, 1, 0, 2, 1, 3]], 4)  # of 0 1 2 3, two are held out
    assert data.split.train.item.tolist() == [0, 1]
    assert data.split.valid.item.tolist() == [2]
    assert data.split.test.item.tolist() == [3]


@pytest.mark.parametrize(
    "samples", [Samples(), Samples(unit="everything"), Samples(history=True, known_users_only=True)]
)
def test_a_model_that_reads_no_history_knows_no_user_of_strong_generalisation(samples: Samples):
    with pytest.raises(UserError, match="a model of user embeddings knows no user outside its training part"):
        data_of(samples, [list(range(10))] * 20, 10, split="strong_generalisation")


def test_context_holds_counts_and_the_graphs_asked_for():
    assert set(data_of(Samples()).context) == {"item_counts"}
    graph = KnowledgeGraph(
        head=np.array([0, 9], np.int32),
        relation=np.array([1, 0], np.int32),
        tail=np.array([9, 1], np.int32),
        n_entities=10,
        n_relations=2,
    )
    toy = interactions(TOY, 9, trust=np.array([[0, 1], [2, 3]], np.int32), knowledge=graph)
    data = top_n_data(toy, Dataset(), Samples(context=("interactions", "trust", "knowledge")))
    context = {name: column.tolist() for name, column in data.context.items()}
    assert context == {
        "item_counts": [2, 2, 1, 0, 0, 1, 1, 1, 0],
        "train_user": [0, 0, 0, 1, 1, 2, 2, 3],
        "train_item": [0, 1, 2, 5, 6, 7, 0, 1],
        "truster": [0, 1],
        "trustee": [2, 3],
        "head": [0, 9],
        "relation": [1, 0],
        "tail": [9, 1],
    }
    assert (data.schema.n_entities, data.schema.n_relations) == (10, 2)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("trust", "the model needs trust edges and toy has none; use filmtrust or epinions"),
        ("knowledge", "the model needs a knowledge graph and toy has none; use ml-100k"),
    ],
)
def test_a_graph_that_the_source_lacks_is_refused(graph: Any, message: str):
    with pytest.raises(UserError, match=message):
        data_of(Samples(context=(graph,)))


def test_protocol_names_everything_that_a_number_depends_on():
    data = data_of(Samples(), split="random_by_user", ratios=(0.5, 0.25, 0.25), seed=4, min_interactions=2)
    assert data.protocol == (
        "toy/2-core/random_by_user_5:2.5:2.5/seed=4/full_catalogue/seen_items_removed/ties_against_the_target"
    )
    assert data.selection_metric == "ndcg@10"
    assert data.cutoffs == (5, 10, 20)
    assert dataclasses.asdict(data.schema) == {
        "n_users": 4,
        "n_items": 9,
        "max_history": int(np.bincount(data.split.train.user).max()),
        "n_entities": 0,
        "n_relations": 0,
    }
