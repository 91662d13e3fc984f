import itertools

import numpy as np
import pytest

from recjax.config import Dataset
from recjax.data.interactions import Interactions
from recjax.data.protocols import PROTOCOLS, candidates_in_words, ranking_metric_name, split_in_words, under
from recjax.data.splits import Split, split
from recjax.errors import UserError

N_USERS, N_EACH = 20, 10

WORDS = {
    "leave_one_out/full": ("leave_last_one_out", "full_catalogue"),
    "leave_one_out/sampled(99)": ("leave_last_one_out", "sampled(99)"),
    "random_8_1_1/full": ("random_by_user_8:1:1/seed=0", "full_catalogue"),
    "random_80_20": ("random_7.2:0.8:2/seed=0", "full_catalogue"),
    "strong_generalisation": ("strong_generalisation_8:1:1/seed=0", "full_catalogue"),
    "rating_90_10": ("random_8.55:0.45:1/seed=0", "full_catalogue"),
    "labelled_8_1_1": ("random_8:1:1/seed=0", "full_catalogue"),
}


@pytest.fixture(scope="module")
def toy() -> Interactions:
    """Returns 20 users with 10 of 12 items each, times mixed; the rating is the row's number."""
    rng = np.random.default_rng(0)
    n_rows = N_USERS * N_EACH
    return Interactions(
        name="toy",
        user=np.repeat(np.arange(N_USERS, dtype=np.int32), N_EACH),
        item=np.concatenate([rng.permutation(12)[:N_EACH] for _ in range(N_USERS)]).astype(np.int32),
        rating=np.arange(n_rows, dtype=np.float32),
        timestamp=rng.permutation(n_rows).astype(np.int64),
        user_ids=np.arange(N_USERS),
        item_ids=np.arange(12),
    )


def parts_of(parts: Split) -> list[Interactions]:
    return [parts.train, parts.valid, parts.test, *(parts.folded_in or {}).values()]


def rows(part: Interactions) -> set[int]:
    return set(part.rating.astype(int).tolist())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_parts_are_disjoint_and_together_everything(toy: Interactions, name: str):
    found = [rows(part) for part in parts_of(split(toy, under(name)))]
    assert all(not a & b for a, b in itertools.combinations(found, 2))
    assert set.union(*found) == set(range(len(toy)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_the_same_each_time_and_another_under_another_seed(toy: Interactions, name: str):
    first, again, other = (parts_of(split(toy, under(name, seed=seed))) for seed in (0, 0, 1))
    assert list(map(rows, first)) == list(map(rows, again))
    assert (list(map(rows, first)) == list(map(rows, other))) == name.startswith("leave_one_out")


@pytest.mark.parametrize("name", ["leave_one_out/full", "leave_one_out/sampled(99)"])
def test_leave_one_out_holds_out_the_newest_two(toy: Interactions, name: str):
    parts = split(toy, under(name))
    assert toy.timestamp is not None
    for user in range(N_USERS):
        newest = np.flatnonzero(toy.user == user)[np.argsort(toy.timestamp[toy.user == user])]
        assert rows(parts.test.select(parts.test.user == user)) == {newest[-1]}
        assert rows(parts.valid.select(parts.valid.user == user)) == {newest[-2]}


def test_random_8_1_1_is_of_each_user(toy: Interactions):
    parts = split(toy, under("random_8_1_1/full"))
    for part, n in ((parts.train, 8), (parts.valid, 1), (parts.test, 1)):
        assert np.bincount(part.user, minlength=N_USERS).tolist() == [n] * N_USERS


@pytest.mark.parametrize(
    ("name", "shares"),
    [("random_80_20", (0.72, 0.08, 0.2)), ("rating_90_10", (0.855, 0.045, 0.1)), ("labelled_8_1_1", (0.8, 0.1, 0.1))],
)
def test_random_splits_have_their_shares_of_all_rows(toy: Interactions, name: str, shares: tuple[float, ...]):
    found = [len(part) for part in parts_of(split(toy, under(name)))]
    assert found == [round(share * len(toy)) for share in shares]


def test_strong_generalisation_holds_out_users_and_ranks_a_fifth(toy: Interactions):
    parts = split(toy, under("strong_generalisation"))
    assert parts.folded_in is not None
    users = [set(part.user.tolist()) for part in (parts.train, parts.valid, parts.test)]
    assert [len(part) for part in users] == [16, 2, 2]
    assert set.union(*users) == set(range(N_USERS))
    for name, held_out in (("valid", parts.valid), ("test", parts.test)):
        for user in np.unique(held_out.user):
            assert (held_out.user == user).sum() == 2
            assert (parts.folded_in[name].user == user).sum() == 8


def test_every_protocol_has_its_words():
    assert WORDS.keys() == PROTOCOLS.keys()
    for name, words in WORDS.items():
        assert (split_in_words(under(name)), candidates_in_words(under(name))) == words


def test_seed_and_ratios_are_in_the_words_where_they_matter():
    assert split_in_words(Dataset(split="random", ratios=(0.6, 0.25, 0.15), seed=3)) == "random_6:2.5:1.5/seed=3"
    assert split_in_words(Dataset(split="temporal", seed=3)) == "temporal_8:1:1"
    assert split_in_words(Dataset(split="leave_last_one_out", seed=3)) == "leave_last_one_out"


def test_other_fields_stand_beside_the_protocol():
    dataset = under("labelled_8_1_1", source="ml-100k", max_history=7, min_interactions=3)
    assert (dataset.source, dataset.max_history, dataset.min_interactions) == ("ml-100k", 7, 3)
    assert not dataset.time_features
    assert under("leave_one_out/full").min_interactions == 1  # published sets are filtered already
    assert under("leave_one_out/sampled(99)").sampled_candidates == 99


def test_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(UserError) as error:
        under("leave_one_out/ful")
    message = str(error.value)
    assert message.startswith("unknown protocol 'leave_one_out/ful'; valid: ")
    assert message.endswith("did you mean 'leave_one_out/full'?")
    assert all(name in message for name in PROTOCOLS)


def test_metric_of_a_sample_says_so():
    assert ranking_metric_name("ndcg@10", 0) == "ndcg@10"
    assert ranking_metric_name("ndcg@10", 99) == "ndcg@10/sampled(99)"
