"""What queries ask for: how many samples each has, and which rows of the request pool they are.

Shapes: N queries, S samples of all of them, R rows of the pool.
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recjax.data.synthetic_dlrm import PAIRS_A_QUERY
from recjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryMix:
    """How queries are drawn.

    Attributes:
      sizes: "fixed": `samples` each. "dlrm_v2": 100 to 700 user-item pairs, by the 20 equally likely values of
        MLCommons' DLRMv2 (mean 270).
      samples: of every query of fixed size; >= 1.
      popularity: of the pool's rows: "uniform", or "zipf": a row's share falls as a power of its rank.
      exponent: of that power; >= 0.
    """

    sizes: Literal["fixed", "dlrm_v2"] = "fixed"
    samples: int = 1
    popularity: Literal["uniform", "zipf"] = "uniform"
    exponent: float = 1.05

    def __post_init__(self) -> None:
        """Raises UserError for an empty query or a negative exponent."""
        if self.samples < 1:
            raise UserError(f"samples of a query is {self.samples!r}; allowed: >= 1")
        if not self.exponent >= 0:
            raise UserError(f"exponent of the rows' popularity is {self.exponent!r}; allowed: >= 0")

    @property
    def mean_samples(self) -> float:
        """Returns the expected samples of a query."""
        return float(np.mean(PAIRS_A_QUERY)) if self.sizes == "dlrm_v2" else float(self.samples)

    def in_words(self) -> str:
        """Returns the mix as it stands in a result row."""
        sizes = f"{self.samples} a query" if self.sizes == "fixed" else "100 to 700 a query (DLRMv2's quantiles)"
        return f"{sizes}, {self.rows_in_words()}"

    def rows_in_words(self) -> str:
        """Returns how popular the pool's rows are."""
        return "uniform rows" if self.popularity == "uniform" else f"Zipf rows (exponent {self.exponent:g})"


@dataclasses.dataclass(frozen=True)
class Queries:
    """N queries in order: `sizes` [N] int32, and the `rows` [S] int32 of all their samples, one query after another."""

    sizes: NDArray
    rows: NDArray


def draw_queries(mix: QueryMix, n: int, n_rows: int, seed: int) -> Queries:
    """Returns n queries on a pool of `n_rows` rows; which rows are popular is drawn with the seed too."""
    rng = np.random.default_rng([seed, 1])  # not the stream of the arrivals
    if mix.sizes == "dlrm_v2":
        sizes = rng.choice(np.array(PAIRS_A_QUERY, np.int32), n)
    else:
        sizes = np.full(n, mix.samples, np.int32)
    total = int(sizes.sum())
    if mix.popularity == "uniform":
        rows = rng.integers(n_rows, size=total, dtype=np.int32)
    else:
        cumulative = np.cumsum(np.arange(1, n_rows + 1) ** -mix.exponent)
        ranks = np.searchsorted(cumulative, rng.random(total) * cumulative[-1], side="right")
        rows = rng.permutation(n_rows).astype(np.int32)[ranks]
    return Queries(sizes.astype(np.int32), rows)
