"""Data of the shapes of MLCommons' recommendation benchmarks, out of a random generator: DLRMv2 and DLRMv3.

Only shapes and the statistics named below are MLCommons'; ids, labels and results are synthetic, and no run on them is
an official result.

Sources: mlcommons/inference and mlcommons/training, as cited at each constant.

Shapes: B batch, N = 13 dense features, T = 214 ids a sample, S history items of a batch, C candidates, P periods,
Q queries, G categories.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numpy.typing import NDArray

from recjax.config import check, config
from recjax.data.batches import NumpyBatch
from recjax.data.features import Field, LabelledSchema
from recjax.data.hashing import unit_hash
from recjax.data.synthetic import power_law_ids, scatter_ids

# mlcommons/ck, get-preprocessed-dataset-criteo/preprocess_multihot.sh (--num_embeddings_per_feature, --multi_hot_sizes)
# and mlcommons/logging #300, #305, which name the same rows.
TABLE_ROWS = (
    *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10),
    *(2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)
BAG_LENGTHS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
N_DENSE = 13
# User-item pairs of a query: 20 equally likely values, mean 270. mlcommons/inference #1975, tools/dist_quantile.txt.
PAIRS_A_QUERY = (100, 100, *(200,) * 12, 300, 300, 400, 500, 600, 700)

_PARTS = {"train": 1, "valid": 2, "test": 3}
_POSITIVE_LOGIT, _ID_WEIGHT, _DENSE_WEIGHT = -2.1, 1.2, 0.3  # about a quarter positive, as in Criteo's Kaggle set
_PERIOD_S = 86_400
_RATING_CUTS = np.cumsum((0.1, 0.2, 0.25, 0.25))  # shares of items rated 1 to 4; the others are rated 5


@config
class DLRMv2Options:
    """How much of which size; the tables at scale 1 are MLCommons'."""

    table_scale: float = 1.0  # (0, 1]; of every table's rows, rounded up, at least 2
    exponent: float = 1.05  # >= 0; of the ids' power law. A choice, not a fit: Criteo's fields differ widely
    n_train: int = 1_000_000  # samples of an epoch; every epoch draws others
    n_valid: int = 100_000
    n_test: int = 100_000
    serving_rows: int = 65_536  # test samples that serving draws its requests from
    seed: int = 0

    def __post_init__(self) -> None:
        check(0 < self.table_scale <= 1, "DLRMv2Options.table_scale", self.table_scale, "(0, 1]")
        check(self.exponent >= 0, "DLRMv2Options.exponent", self.exponent, ">= 0")
        for name in ("n_train", "n_valid", "n_test", "serving_rows"):
            check(getattr(self, name) >= 1, f"DLRMv2Options.{name}", getattr(self, name), ">= 1")


@dataclasses.dataclass(frozen=True)
class SyntheticDLRMv2:
    """A stream of DLRMv2-shaped samples with the face of `LabelledData`.

    Batch `index` of a part is made from (seed, part, epoch, index) and the batch size alone: nothing is stored, and
    memory is that of one batch. Labels depend on the dense features and on the first id of every bag, so a model can
    learn them.
    """

    options: DLRMv2Options
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)  # nothing

    @property
    def name(self) -> str:
        """Returns the data set's name."""
        return "synthetic-dlrm-v2"

    @property
    def protocol(self) -> str:
        """Returns how the samples are made."""
        o = self.options
        return f"{self.name}/scale={o.table_scale:g}/exponent={o.exponent:g}/n={o.n_train}/seed={o.seed}"

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "auc"

    @property
    def n_train(self) -> int:
        """Returns the number of training samples of an epoch."""
        return self.options.n_train

    @functools.cached_property
    def train_positive_share(self) -> float:
        """Returns the share of positive labels in a sample of the training stream."""
        return float(self.batch("train", 0, 16_384)["labels"].mean())

    @functools.cached_property
    def schema(self) -> LabelledSchema:
        """Returns 13 dense features and 26 fields whose bags are summed."""
        rows = [max(2, math.ceil(n * self.options.table_scale)) for n in TABLE_ROWS]
        fields = (
            Field(f"C{i + 1}", n, length, "sum") for i, (n, length) in enumerate(zip(rows, BAG_LENGTHS, strict=True))
        )
        return LabelledSchema(N_DENSE, tuple(fields))

    def batch(self, part: str, index: int, batch_size: int, *, seed: int = 0, epoch: int = 0) -> NumpyBatch:
        """Returns `batch_size` samples of a part: `dense` [B, N], `sparse_ids` [B, T], `labels` [B]."""
        # The last number is not 0, because trailing zeros of a seed are ignored.
        rng = np.random.default_rng((self.options.seed, seed, epoch, index, _PARTS[part]))
        dense = rng.exponential(1.0, (batch_size, N_DENSE)).astype(np.float32)
        sparse_ids = np.empty((batch_size, sum(BAG_LENGTHS)), np.int32)
        logits = _POSITIVE_LOGIT + _DENSE_WEIGHT * (dense[:, ::2].sum(1) - dense[:, 1::2].sum(1))
        start = 0
        for number, field in enumerate(self.schema.fields):
            ids = power_law_ids(rng, (batch_size, field.length), field.vocab_size, self.options.exponent)
            ids = scatter_ids(ids, field.vocab_size)
            sparse_ids[:, start : start + field.length] = ids
            start += field.length
            logits += _ID_WEIGHT * (unit_hash(ids[:, 0], number) - 0.5)
        labels = rng.random(batch_size) < 1 / (1 + np.exp(-logits))
        return {"dense": dense, "sparse_ids": sparse_ids, "labels": labels.astype(np.float32)}

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields `dense` [B, N], `sparse_ids` [B, T], `labels` [B], `weight` [B]; every epoch draws new samples."""
        return self._batches("train", self.n_train, batch_size, seed, epoch)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields the samples of `part` ("valid" or "test"), the same every time for the same batch size."""
        n = {"valid": self.options.n_valid, "test": self.options.n_test}[part]
        return self._batches(part, n, batch_size, 0, 0)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns test samples as request columns: `dense` [E, N], `sparse_ids` [E, T]."""
        batch = self.batch("test", 0, min(self.options.serving_rows, self.options.n_test))
        return {name: batch[name] for name in ("dense", "sparse_ids")}

    def _batches(self, part: str, n: int, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        for index in range(math.ceil(n / batch_size)):
            batch = self.batch(part, index, batch_size, seed=seed, epoch=epoch)
            real = np.arange(batch_size) < n - index * batch_size
            for column in batch.values():
                column[~real] = 0
            yield {**batch, "weight": real.astype(np.float32)}


def query_sizes(n: int, seed: int) -> Int32[np.ndarray, "Q"]:
    """Returns how many user-item pairs each of `n` DLRMv2 queries holds: 100 to 700, 270 on average."""
    return np.random.default_rng((seed, len(PAIRS_A_QUERY))).choice(PAIRS_A_QUERY, n).astype(np.int32)


@config
class DLRMv3Options:
    """How long the histories are and how many items there are; the defaults are MLCommons'.

    Source: mlcommons/inference, recommendation/dlrm_v3: streaming_synthetic_data.py (users, items, categories,
    periods, items a period), configs.py and modules/dlrm_hstu.py (candidates, longest sequence).
    """

    n_users: int = 5_000_000
    n_items: int = 1_000_000_000  # < 2^31; evenly divided among the categories
    n_categories: int = 128
    categories_a_user: int = 4
    n_candidates: int = 2_048
    n_periods: int = 100  # of the stream; requests come in its last tenth
    period_share: float = 0.7  # (0, 1]; of the periods in which a user is active
    items_a_period: float = 100.0  # mean of an active period's items; their deviation is a quarter of it
    shortest_period: int = 33  # items
    max_history: int = 14_335  # items; the newest are kept. A sequence of 16,384 holds candidates and the user, too
    exponent: float = 0.0  # >= 0; of the items' power law within a category; MLCommons' is uniform
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("n_users", "n_categories", "n_candidates", "n_periods", "shortest_period", "max_history")
        for name in names:
            check(getattr(self, name) >= 1, f"DLRMv3Options.{name}", getattr(self, name), ">= 1")
        a_category = self.n_periods * self.n_categories
        check(
            a_category <= self.n_items < 1 << 31, "DLRMv3Options.n_items", self.n_items, f"{a_category} to 2147483647"
        )
        few = 1 <= self.categories_a_user <= self.n_categories
        check(few, "DLRMv3Options.categories_a_user", self.categories_a_user, f"1 to n_categories, {self.n_categories}")
        check(0 < self.period_share <= 1, "DLRMv3Options.period_share", self.period_share, "(0, 1]")
        check(self.items_a_period > 0, "DLRMv3Options.items_a_period", self.items_a_period, "> 0")
        check(self.exponent >= 0, "DLRMv3Options.exponent", self.exponent, ">= 0")

    @property
    def protocol(self) -> str:
        """Returns how the requests are made."""
        return (
            f"synthetic-dlrm-v3/users={self.n_users}/items={self.n_items}/candidates={self.n_candidates}/"
            f"periods={self.n_periods}x{self.items_a_period:g}/exponent={self.exponent:g}/seed={self.seed}"
        )


def dlrm_v3_batch(options: DLRMv3Options, index: int, batch_size: int, *, stream: tuple[int, ...] = ()) -> NumpyBatch:
    """Returns request batch `index`: jagged histories one after the other, and equally many candidates each.

    A request comes in a period of the stream's last tenth. Its user was active in a random share of the periods
    before, with a normally distributed number of items in each, of a few categories; new items appear with every
    period. A label says whether the mean of the item's rating and of the user's rating of its category reaches 3.5.
    MLCommons has candidates enter the history afterwards; here every request stands for itself.

    Args:
      options: of all requests.
      index: of the batch.
      batch_size: B.
      stream: numbers that tell one sequence of batches from another, as those of an epoch.

    Returns:
      `user` [B] int32; `lengths` [B] int32 and `offsets` [B + 1] int32 of the histories; `history` [S] int32 item
      ids, oldest first, `timestamps` [S] int64 seconds, ascending, `ratings` [S] float32 (1 to 5); `candidates`
      [B, C] int32, `query_time` [B] int64, `labels` [B, C] float32. An item's category is id // (n_items //
      n_categories).
    """
    rng = np.random.default_rng((options.seed, *stream, index, 3))
    taste = _Taste.draw(rng, options, batch_size)
    first = options.n_periods - max(1, options.n_periods // 10)
    now = 1 + rng.integers(first, options.n_periods, batch_size)  # period 0 is before the stream
    sizes_BP = _period_sizes(rng, options, now)
    # Every history item's row and period; the newest come last.
    row = np.repeat(np.arange(batch_size), sizes_BP.sum(1))
    periods = np.broadcast_to(np.arange(sizes_BP.shape[1]), sizes_BP.shape)
    period = np.repeat(periods.ravel(), sizes_BP.ravel())
    within = np.arange(len(row)) - np.repeat(np.cumsum(sizes_BP) - sizes_BP.ravel(), sizes_BP.ravel())
    second = (within + rng.random(len(row))) / np.repeat(sizes_BP.ravel(), sizes_BP.ravel()) * _PERIOD_S
    history, history_ratings = taste.items(rng, row, period)
    candidate_row = np.repeat(np.arange(batch_size), options.n_candidates)
    candidates, candidate_ratings = taste.items(rng, candidate_row, now[candidate_row])
    lengths = sizes_BP.sum(1)
    return {
        "user": rng.integers(0, options.n_users, batch_size, dtype=np.int32),
        "lengths": lengths.astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "history": history,
        "timestamps": (period * _PERIOD_S + second).astype(np.int64),
        "ratings": history_ratings.astype(np.float32),
        "candidates": candidates.reshape(batch_size, -1),
        "query_time": (now * _PERIOD_S).astype(np.int64),
        "labels": (candidate_ratings >= 3.5).astype(np.float32).reshape(batch_size, -1),
    }


def _period_sizes(rng: np.random.Generator, options: DLRMv3Options, now: NDArray) -> Int64[np.ndarray, "B P"]:
    """Returns how many items of each period are in each history, the newest `max_history` at most."""
    shape = (len(now), 1 + options.n_periods)
    active = rng.random(shape) < options.period_share
    active[:, 0] = True  # so that no history is empty
    active &= np.arange(shape[1]) < now[:, None]
    drawn = np.rint(rng.normal(options.items_a_period, options.items_a_period / 4, shape))
    sizes = np.where(active, np.maximum(drawn, options.shortest_period), 0).astype(np.int64)
    newer = np.cumsum(sizes[:, ::-1], 1)[:, ::-1] - sizes  # items of the periods after each
    return np.clip(options.max_history - newer, 0, sizes)


@dataclasses.dataclass(frozen=True)
class _Taste:
    """The categories of a batch of users, best rated first, and how often each takes an item of which."""

    options: DLRMv3Options
    categories: Int64[np.ndarray, "B G"]
    cuts: Float64[np.ndarray, "B G"]

    @classmethod
    def draw(cls, rng: np.random.Generator, options: DLRMv3Options, batch_size: int) -> "_Taste":
        """Returns random tastes: the shares are the limit of MLCommons' urns, a Dirichlet of 1 to 500 balls in all."""
        n, wanted = options.n_categories, options.categories_a_user
        categories = np.argsort(rng.random((batch_size, n)), axis=1)[:, :wanted]
        balls = rng.integers(1, 501, (batch_size, 1))
        shares = np.maximum(rng.gamma(np.broadcast_to(balls / wanted, categories.shape)), 1e-12)
        return cls(options, categories, np.cumsum(shares / shares.sum(1, keepdims=True), 1))

    def items(self, rng: np.random.Generator, row: NDArray, period: NDArray) -> tuple[NDArray, NDArray]:
        """Returns an item id and its rating for each (row of the batch, period)."""
        o = self.options
        uniform = rng.random(len(row))
        slot = np.zeros(len(row), np.int64)
        for cut in self.cuts.T[:-1]:
            slot += uniform >= cut[row]
        a_category = o.n_items // o.n_categories
        released = a_category * np.maximum(period, 1) // o.n_periods
        items = self.categories[row, slot] * a_category + power_law_ids(rng, (len(row),), released, o.exponent)
        item_ratings = 1 + np.searchsorted(_RATING_CUTS, unit_hash(items, 0), side="right")
        # A user's first quarter of categories is rated 5, the next 4, and so on.
        ratings = (item_ratings + 5 - slot * 4 // o.categories_a_user) / 2
        return items.astype(np.int32), ratings
