"""The candidates task: a user's history and given items in, the probability that the user likes each of them out.

Its data are synthetic requests in the shapes of MLCommons' DLRMv3; no run on them is an official result.

Shapes: B batch, L history length, C candidates, R requests.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from recjax.data.batches import NumpyBatch, gather_windows
from recjax.data.synthetic_dlrm import DLRMv3Options, dlrm_v3_batch

N_ACTIONS = 5  # whole stars; 0 stands for the action on a candidate, which is to be predicted
# MLCommons' law gives histories of 6,715 items on average, of which 3 in 1,000 are longer than this. A shorter limit
# takes the law with it, so that histories are as uneven as at full length.
FULL_HISTORY = 8_192

_PARTS = {"train": 1, "valid": 2, "test": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidatesSchema:
    """What a model that ranks candidates must know of the data."""

    n_users: int
    n_items: int
    n_categories: int
    max_history: int  # L
    max_candidates: int  # C of a request; batches of training and validation have fewer

    @property
    def items_a_category(self) -> int:
        """Returns how many items, numbered in a row, share a category."""
        return self.n_items // self.n_categories


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticDLRMv3:
    """A stream of DLRMv3-shaped requests, padded to the longest history.

    Batch `index` of a part is made from (seed, part, epoch, index) and the batch size alone: nothing is stored.
    Training and validation have few candidates a request, as in MLCommons' training; the test part and requests have
    `options.n_candidates`.

    Source: mlcommons/inference, recommendation/dlrm_v3/configs.py (32 candidates in training, 2,048 in inference).
    """

    options: DLRMv3Options
    n_train: int = 256  # requests of an epoch; every epoch draws others
    n_valid: int = 128
    n_test: int = 16
    training_candidates: int = 32
    serving_requests: int = 256  # that serving draws from
    context: Mapping[str, NDArray] = dataclasses.field(default_factory=dict)  # nothing

    @property
    def name(self) -> str:
        """Returns the data set's name."""
        return "synthetic-dlrm-v3"

    @property
    def protocol(self) -> str:
        """Returns how the requests are made."""
        o = self.options
        return f"{o.protocol}/newest={o.max_history}/n={self.n_train}x{self.training_candidates}"

    @property
    def selection_metric(self) -> str:
        """Returns the validation metric that chooses the epoch; higher is better."""
        return "auc"

    @property
    def schema(self) -> CandidatesSchema:
        """Returns the sizes of tables, histories and candidates."""
        o = self.options
        return CandidatesSchema(
            n_users=o.n_users,
            n_items=o.n_items,
            n_categories=o.n_categories,
            max_history=o.max_history,
            max_candidates=o.n_candidates,
        )

    @functools.cached_property
    def train_positive_share(self) -> float:
        """Returns the share of positive labels in a sample of the training stream."""
        return float(self.batch("train", 0, 512)["labels"].mean())

    def batch(self, part: str, index: int, batch_size: int, *, seed: int = 0, epoch: int = 0) -> NumpyBatch:
        """Returns `batch_size` requests of a part.

        `history`, `actions` (1 to 5 whole stars) and `times` (seconds) are [B, L] int32, oldest first and zero behind
        `lengths` [B] int32; `user` and `query_time` are [B] int32, `candidates` [B, C] int32 and `labels` [B, C]
        float32.
        """
        n_candidates = self.options.n_candidates if part == "test" else self.training_candidates
        options = dataclasses.replace(self.options, n_candidates=n_candidates)
        jagged = dlrm_v3_batch(options, index, batch_size, stream=(seed, epoch, _PARTS[part]))
        starts, ends = jagged["offsets"][:-1], jagged["offsets"][1:]

        def padded(values: NDArray) -> NDArray:
            return gather_windows(values.astype(np.int32), starts, ends, options.max_history)[0]

        return {
            "user": jagged["user"],
            "history": padded(jagged["history"]),
            "actions": padded(jagged["ratings"]),
            "times": padded(jagged["timestamps"]),
            "lengths": jagged["lengths"],
            "query_time": jagged["query_time"].astype(np.int32),
            "candidates": jagged["candidates"],
            "labels": jagged["labels"],
        }

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        """Yields what `batch` returns, with `weight` [B]; every epoch draws new requests."""
        return self._batches("train", self.n_train, batch_size, seed, epoch)

    def eval_batches(self, part: str, batch_size: int) -> Iterator[NumpyBatch]:
        """Yields the requests of `part` ("valid" or "test"), the same every time for the same batch size."""
        return self._batches(part, {"valid": self.n_valid, "test": self.n_test}[part], batch_size, 0, 0)

    def serving_samples(self) -> dict[str, NDArray]:
        """Returns R requests as columns: all of `batch` but the labels."""
        batch = self.batch("test", 0, self.serving_requests)
        return {name: column for name, column in batch.items() if name != "labels"}

    def _batches(self, part: str, n: int, batch_size: int, seed: int, epoch: int) -> Iterator[NumpyBatch]:
        for index in range(math.ceil(n / batch_size)):
            batch = self.batch(part, index, batch_size, seed=seed, epoch=epoch)
            real = np.arange(batch_size) < n - index * batch_size
            for column in batch.values():
                column[~real] = 0
            yield {**batch, "weight": real.astype(np.float32)}


def scaled_dlrm_v3(table_scale: float, max_history: int, seed: int) -> SyntheticDLRMv3:
    """Returns requests with a share of MLCommons' users and items, and histories of a share of its lengths.

    Args:
      table_scale: (0, 1].
      max_history: the newest items that are kept of a history; FULL_HISTORY has MLCommons' lengths, and with half of it
        every period has half of the items.
      seed: of all that is drawn.
    """
    full, share = DLRMv3Options(), max_history / FULL_HISTORY
    return SyntheticDLRMv3(
        options=dataclasses.replace(
            full,
            n_users=math.ceil(full.n_users * table_scale),
            n_items=math.ceil(full.n_items * table_scale),
            items_a_period=full.items_a_period * share,
            shortest_period=max(1, round(full.shortest_period * share)),
            max_history=max_history,
            seed=seed,
        )
    )
