"""Interactions out of a random generator: power-law popularity, jagged histories, and tastes that can be learned.

Whatever is made here or in `synthetic_dlrm` carries the word "synthetic" in its name, and so in every protocol: it
measures speed and finds faults, and says nothing about quality on real data.

Shapes: E interactions, U users, V items, K latent factors.
"""

import numpy as np
from jaxtyping import Float64, Int, Int64
from numpy.typing import NDArray

from recjax.config import check, config
from recjax.data.interactions import Interactions

# As in MovieLens latest-small, the set that recjax ships; tests/data/test_synthetic.py compares the two.
LOG_LENGTH_MEAN, LOG_LENGTH_DEVIATION, SHORTEST_HISTORY = 4.41, 1.01, 20
POPULARITY_EXPONENT, POPULARITY_SHIFT = 1.2, 30.0  # the best of a grid, with taste: no user has an item twice
RATING_MEAN, RATING_DEVIATION = 3.54, 1.06
GAP_MEDIAN_S, LOG_GAP_DEVIATION = 10.0, 2.1  # between two ratings of one sitting

_SCORES_A_CHUNK = 1 << 22  # users x items scored at a time: 32 MiB
_PAUSE_SHARE, _PAUSE_MEAN_S = 0.015, 60 * 86_400.0  # gaps between sittings: the tail that the log-normal lacks
# Trailing zeros of a seed are ignored, so (seed,) and (seed, 0) would be one generator.
_ITEMS, _USERS = 1, 2
_EPOCH_S, _WINDOW_S = 1_000_000_000, 10 * 365 * 86_400


def power_law_ids(
    rng: np.random.Generator,
    size: tuple[int, ...],
    vocab_size: int | Int64[np.ndarray, "..."],
    exponent: float,
    shift: float = 0.0,
) -> Int64[np.ndarray, "..."]:
    """Returns ids in [0, vocab_size) of which id r comes up in proportion to (r + 1 + shift) ** -exponent.

    The continuous power law is inverted and rounded down, so it takes memory for `size` alone, whatever the
    vocabulary; the proportion is the integral of the law over [r + 1, r + 2), and exact for exponent 0 (uniform).

    Args:
      rng: where the randomness comes from.
      size: shape of the result.
      vocab_size: number of ids, or one number for each id to draw (broadcast to `size`).
      exponent: >= 0.
      shift: >= 0; flattens the head (Mandelbrot's).
    """
    uniform = rng.random(size)
    low, high = 1.0 + shift, np.asarray(vocab_size) + 1.0 + shift
    if abs(exponent - 1) < 1e-9:
        drawn = low * (high / low) ** uniform
    else:
        power = 1 - exponent
        drawn = (low**power + uniform * (high**power - low**power)) ** (1 / power)
    # Rounding errors of the powers may reach past either end.
    return np.clip(np.floor(drawn - low), 0, np.asarray(vocab_size) - 1).astype(np.int64)


def scatter_ids(ids: Int64[np.ndarray, "..."], vocab_size: int) -> Int64[np.ndarray, "..."]:
    """Returns the ids renamed by a fixed bijection of [0, vocab_size), so that popular ones are not neighbours.

    A table whose hot rows lie side by side would flatter every cache. Golden-section steps spread them out.
    """
    step = int(vocab_size * 0.6180339887498949) | 1
    while np.gcd(step, vocab_size) != 1:
        step += 2
    return ids * step % vocab_size


def log_normal_lengths(
    rng: np.random.Generator, n: int, log_mean: float, log_deviation: float, shortest: int, longest: int
) -> Int64[np.ndarray, "U"]:
    """Returns `n` history lengths whose logarithm is normal, held within [shortest, longest]."""
    lengths = np.rint(np.exp(rng.normal(log_mean, log_deviation, n)))
    return np.clip(lengths, shortest, longest).astype(np.int64)


@config
class SyntheticInteractions:
    """How many interactions of what kind; the defaults resemble MovieLens latest-small."""

    n_users: int = 671
    n_items: int = 9_066
    log_length_mean: float = LOG_LENGTH_MEAN  # of the logarithm of a history's length
    log_length_deviation: float = LOG_LENGTH_DEVIATION  # >= 0; 0 makes all histories equally long
    shortest_history: int = SHORTEST_HISTORY  # >= 1
    popularity_exponent: float = POPULARITY_EXPONENT  # >= 0; 0 is uniform
    popularity_shift: float = POPULARITY_SHIFT  # >= 0; 0 is Zipf's law
    n_factors: int = 8  # of each user's taste and each item's character
    taste: float = 1.5  # >= 0; how far taste moves the odds of an item, in deviations of its log; 0 leaves nothing
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_users", "n_items", "shortest_history", "n_factors"):
            check(getattr(self, name) >= 1, f"SyntheticInteractions.{name}", getattr(self, name), ">= 1")
        for name in ("log_length_deviation", "popularity_exponent", "popularity_shift", "taste"):
            check(getattr(self, name) >= 0, f"SyntheticInteractions.{name}", getattr(self, name), ">= 0")
        check(
            self.shortest_history <= self.n_items,
            "SyntheticInteractions.shortest_history",
            self.shortest_history,
            f"at most n_items, {self.n_items}, as no user has an item twice",
        )

    @property
    def name(self) -> str:
        """Returns the data set's name; it holds the sizes and the seed, and the word "synthetic"."""
        return f"synthetic-{self.n_users}x{self.n_items}-taste{self.taste:g}-seed{self.seed}"


def synthetic_interactions(options: SyntheticInteractions) -> Interactions:
    """Returns interactions sorted by user and time; no user has an item twice, and every user has a full history.

    A user takes items without replacement, with odds popularity x exp(taste x affinity), affinity being the product
    of user and item factors; the rating is the affinity with as much noise again. The order within a history is
    random: there is nothing in it for a sequential model beyond the user's taste.

    Users are made in chunks of 32 MiB of scores, each from its own generator; only the result is larger.

    Source: drawing without replacement by perturbed scores is Gumbel top-k (Kool et al., 2019, arXiv 1903.06059).
    """
    rng = np.random.default_rng((options.seed, _ITEMS))
    # Codes in random order: a code that told the popularity would be a leak.
    popularity_rank = rng.permutation(options.n_items)
    log_popularity = -options.popularity_exponent * np.log(popularity_rank + 1 + options.popularity_shift)
    # Scaled so that an affinity, a sum of n_factors products, has deviation 1.
    item_factors = rng.normal(0, options.n_factors**-0.25, (options.n_items, options.n_factors))
    users_a_chunk = max(1, _SCORES_A_CHUNK // options.n_items)
    chunks = []
    for number, first in enumerate(range(0, options.n_users, users_a_chunk)):
        n = min(users_a_chunk, options.n_users - first)
        chunk = _some_users(
            options, np.random.default_rng((options.seed, _USERS, number)), n, item_factors, log_popularity
        )
        chunks.append((chunk[0] + first, *chunk[1:]))
    user, item, rating, timestamp = (np.concatenate(columns) for columns in zip(*chunks, strict=True))
    return Interactions(
        name=options.name,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=rating.astype(np.float32),
        timestamp=timestamp,
        user_ids=np.arange(options.n_users),
        item_ids=np.arange(options.n_items),
    )


def _some_users(
    options: SyntheticInteractions,
    rng: np.random.Generator,
    n: int,
    item_factors: Float64[np.ndarray, "V K"],
    log_popularity: Float64[np.ndarray, "V"],
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Returns user (from 0), item, rating and timestamp columns of `n` users."""
    longest = options.n_items
    lengths = log_normal_lengths(
        rng, n, options.log_length_mean, options.log_length_deviation, options.shortest_history, longest
    )
    affinity = rng.normal(0, options.n_factors**-0.25, (n, options.n_factors)) @ item_factors.T
    scores = log_popularity + options.taste * affinity + rng.gumbel(size=affinity.shape)
    most = int(lengths.max())
    items = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    items = np.take_along_axis(items, np.argsort(-np.take_along_axis(scores, items, 1), axis=1), 1)
    taken = np.arange(most) < lengths[:, None]
    user = np.repeat(np.arange(n), lengths)
    item, liking = items[taken], np.take_along_axis(affinity, items, 1)[taken]
    order = np.lexsort((rng.random(len(user)), user))  # best first would give the position away
    item, liking = item[order], liking[order]
    liking = (liking - liking.mean()) / max(liking.std(), 1e-6)  # what is taken by taste is liked above the average
    share = np.sqrt(0.5) if options.taste else 0.0
    noise = rng.normal(size=len(user))
    rating = RATING_MEAN + RATING_DEVIATION * (share * liking + np.sqrt(1 - share**2) * noise)
    return user, item, np.clip(np.rint(2 * rating) / 2, 0.5, 5), _timestamps(rng, lengths)


def _timestamps(rng: np.random.Generator, lengths: Int[np.ndarray, "U"]) -> Int64[np.ndarray, "E"]:
    """Returns ascending Unix seconds for histories of these lengths, one history after the other."""
    n = int(lengths.sum())
    gaps = np.exp(rng.normal(np.log(GAP_MEDIAN_S), LOG_GAP_DEVIATION, n))
    gaps += np.where(rng.random(n) < _PAUSE_SHARE, rng.exponential(_PAUSE_MEAN_S, n), 0)
    passed = np.cumsum(gaps)
    first = np.cumsum(lengths) - lengths
    start = _EPOCH_S + rng.random(len(lengths)) * _WINDOW_S
    return (np.repeat(start - passed[first], lengths) + passed).astype(np.int64)
