import dataclasses
import itertools

import numpy as np
import pytest

from recjax.config import Dataset
from recjax.data.interactions import Interactions
from recjax.data.labelled import labelled_data
from recjax.data.movielens import load_movielens_latest_small
from recjax.data.next_item import next_item_data
from recjax.data.synthetic import (
    LOG_LENGTH_DEVIATION,
    LOG_LENGTH_MEAN,
    RATING_DEVIATION,
    RATING_MEAN,
    SHORTEST_HISTORY,
    SyntheticInteractions,
    log_normal_lengths,
    power_law_ids,
    scatter_ids,
    synthetic_interactions,
)
from recjax.errors import UserError


def slope(ids: np.ndarray, shift: float, ranks: tuple[int, int]) -> float:
    """Returns the slope of log count over log(rank + shift), ranks from 1, by decades of equal weight."""
    counts = np.bincount(ids.ravel(), minlength=ranks[1])
    edges = np.unique(np.geomspace(*ranks, 13).astype(int))
    means = [counts[low - 1 : high - 1].mean() for low, high in itertools.pairwise(edges)]
    centres = [np.sqrt((low + shift) * (high + shift)) for low, high in itertools.pairwise(edges)]
    return np.polyfit(np.log(centres), np.log(means), 1)[0]


@pytest.mark.parametrize(("exponent", "shift"), [(0.8, 0.0), (1.0, 0.0), (1.05, 0.0), (1.5, 0.0), (1.2, 30.0)])
def test_ids_follow_the_power_law(exponent: float, shift: float):
    ids = power_law_ids(np.random.default_rng(0), (1_000, 1_000), 100_000, exponent, shift)
    assert slope(ids, shift, (10, 3_000)) == pytest.approx(-exponent, abs=0.03)


def test_ids_have_the_probabilities_of_the_formula():
    ids = power_law_ids(np.random.default_rng(1), (400_000,), 4, 2.0)
    # The integral of x^-2 over [r, r + 1) is 1 / (r (r + 1)); over [1, 5) it is 4/5.
    expected = 5 / 4 / np.array([1 * 2, 2 * 3, 3 * 4, 4 * 5])
    np.testing.assert_allclose(np.bincount(ids) / len(ids), expected, atol=0.003)  # 4 deviations of the first


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 1_000_000_000])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.05, 3.0])
def test_ids_are_in_range(vocab_size: int, exponent: float):
    ids = power_law_ids(np.random.default_rng(0), (2_000, 3), vocab_size, exponent)
    assert ids.shape == (2_000, 3)
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < vocab_size


def test_exponent_zero_is_uniform_and_vocabularies_may_differ():
    sizes = np.repeat([10, 1_000], 50_000)
    ids = power_law_ids(np.random.default_rng(0), (100_000,), sizes, 0.0)
    counts = np.bincount(ids[:50_000], minlength=10)
    assert len(counts) == 10
    assert 4_700 < counts.min() <= counts.max() < 5_300
    assert 480 < ids[50_000:].mean() < 520
    assert ids.max() == 999


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 4, 10, 97, 1_000, 4_096])
def test_scattering_is_a_bijection(vocab_size: int):
    scattered = scatter_ids(np.arange(vocab_size), vocab_size)
    assert sorted(scattered.tolist()) == list(range(vocab_size))


def test_scattered_neighbours_are_far_apart():
    scattered = scatter_ids(np.arange(100), 40_000_000)
    assert np.abs(np.diff(np.sort(scattered))).min() > 40_000_000 / 300


def test_lengths_are_log_normal_within_their_bounds():
    lengths = log_normal_lengths(np.random.default_rng(0), 20_000, 4.0, 1.0, 1, 10**9)
    assert np.log(lengths).mean() == pytest.approx(4, abs=0.03)
    assert np.log(lengths).std() == pytest.approx(1, abs=0.03)
    assert 1.3 < lengths.mean() / np.median(lengths) < 2.1  # exp(1/2) = 1.65: jagged
    held = log_normal_lengths(np.random.default_rng(0), 1_000, 4.0, 1.0, 20, 100)
    assert (held.min(), held.max()) == (20, 100)


@pytest.fixture(scope="module")
def made() -> Interactions:
    return synthetic_interactions(SyntheticInteractions())


@pytest.fixture(scope="module")
def movielens() -> Interactions:
    return load_movielens_latest_small()


def test_the_defaults_are_statistics_of_movielens(movielens: Interactions):
    lengths = np.bincount(movielens.user)
    assert round(np.log(lengths).mean(), 2) == LOG_LENGTH_MEAN
    assert round(np.log(lengths).std(), 2) == LOG_LENGTH_DEVIATION
    assert lengths.min() == SHORTEST_HISTORY
    assert round(float(movielens.rating.mean()), 2) == RATING_MEAN
    assert round(float(movielens.rating.std()), 2) == RATING_DEVIATION


def test_popularity_and_lengths_resemble_movielens(made: Interactions, movielens: Interactions):
    ranks = np.array([0, 3, 9, 29, 99, 299, 999, 2_999, 5_999])
    shares = [np.sort(np.bincount(data.item))[::-1][ranks] / len(data) for data in (made, movielens)]
    assert np.abs(np.log(shares[0] / shares[1])).mean() < 0.15
    quantiles = [np.quantile(np.bincount(data.user), [0.1, 0.25, 0.5, 0.75, 0.9, 0.99]) for data in (made, movielens)]
    np.testing.assert_allclose(quantiles[0], quantiles[1], rtol=0.35)
    gaps = [np.diff(data.timestamp)[np.diff(data.user) == 0] for data in (made, movielens)]
    medians = [np.quantile(gap, [0.25, 0.5, 0.75]) for gap in gaps]
    np.testing.assert_allclose(medians[0], medians[1], rtol=0.5)


def test_columns_are_those_of_real_interactions(made: Interactions):
    assert (made.n_users, made.n_items) == (671, 9_066)
    assert made.item.min() >= 0
    assert made.item.max() < made.n_items
    assert np.bincount(made.user).min() >= SHORTEST_HISTORY
    assert len(np.unique(made.user.astype(np.int64) * made.n_items + made.item)) == len(made)  # no item twice
    assert (np.diff(made.user) >= 0).all()
    assert (np.diff(made.timestamp)[np.diff(made.user) == 0] >= 0).all()
    assert set(np.unique(made.rating)) <= set(np.arange(1, 11) / 2)
    assert (
        abs(np.corrcoef(made.item, np.bincount(made.item, minlength=9_066)[made.item])[0, 1]) < 0.1
    )  # codes tell nothing


def test_the_same_seed_makes_the_same_rows(made: Interactions):
    again = synthetic_interactions(SyntheticInteractions())
    other = synthetic_interactions(SyntheticInteractions(seed=1))
    for name in ("user", "item", "rating", "timestamp"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name), strict=True)
    assert len(other) != len(made)


def test_chunks_of_users_do_not_repeat_each_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recjax.data.synthetic._SCORES_A_CHUNK", 2_000)  # ten users
    made = synthetic_interactions(SyntheticInteractions(n_users=30, n_items=200, log_length_mean=3.0))
    assert len(np.unique(made.user)) == 30
    histories = {tuple(sorted(made.item[made.user == user])) for user in range(30)}
    assert len(histories) == 30


def small(**changes: float) -> Interactions:
    options = SyntheticInteractions(n_users=300, n_items=200, log_length_mean=3.5, log_length_deviation=0.3)
    return synthetic_interactions(dataclasses.replace(options, **changes))


def structure(made: Interactions) -> float:
    """Returns the share of the 8 leading dimensions in what popularity and activity do not explain."""
    matrix = np.zeros((made.n_users, made.n_items))
    matrix[made.user, made.item] = 1
    expected = matrix.sum(1, keepdims=True) * matrix.sum(0) / matrix.sum()
    unexplained = (matrix - expected) / np.sqrt(expected + 0.1)
    squares = np.linalg.eigvalsh(unexplained.T @ unexplained)  # ascending
    return squares[-8:].sum() / squares.sum()


def test_taste_leaves_something_to_learn():
    assert structure(small(taste=2.0)) > 1.5 * structure(small(taste=0.0))


def test_ratings_follow_the_taste_by_which_items_are_taken():
    def explained(made: Interactions) -> float:
        """Returns the correlation of a rating with those that the item gets from the user's nearest neighbours."""
        matrix = np.full((made.n_users, made.n_items), np.nan)
        matrix[made.user, made.item] = made.rating
        known = np.nan_to_num(matrix - RATING_MEAN)
        norms = np.linalg.norm(known, axis=1, keepdims=True)
        similarity = (known / norms) @ (known / norms).T
        np.fill_diagonal(similarity, 0)  # a user's own rating is no neighbour's
        guess = (similarity @ known)[made.user, made.item]
        return np.corrcoef(guess, made.rating)[0, 1]

    assert explained(small(taste=2.0)) > 0.2


def test_synthetic_data_says_so_in_every_protocol(made: Interactions):
    assert made.name == "synthetic-671x9066-taste1.5-seed0"
    reduced = synthetic_interactions(SyntheticInteractions(n_users=50, n_items=100)).k_core(2)
    assert "synthetic" in labelled_data(reduced, Dataset()).protocol
    assert "synthetic" in next_item_data(reduced, Dataset()).protocol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_users": 0}, "SyntheticInteractions.n_users is 0; allowed: >= 1"),
        ({"n_factors": 0}, "SyntheticInteractions.n_factors is 0; allowed: >= 1"),
        ({"taste": -1.0}, "SyntheticInteractions.taste is -1.0; allowed: >= 0"),
        ({"popularity_exponent": -0.5}, "SyntheticInteractions.popularity_exponent is -0.5; allowed: >= 0"),
        (
            {"n_items": 10},
            "SyntheticInteractions.shortest_history is 20; allowed: at most n_items, 10, as no user has an item twice",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(UserError) as error:
        SyntheticInteractions(**options)
    assert str(error.value) == message
