"""A system that is made slower by a known share, to see whether a comparison finds it."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recjax.load.system import System
from recjax.serving.compiled import Stamps

DRAWS = 4096


class SlowedSystem:
    """Answers as another system does, and then spins for a drawn share of the time that the answer took."""

    def __init__(self, inner: System, mean_share: float, seed: int) -> None:
        """Takes the system, and draws shares that are uniform within half and one and a half of the mean."""
        self._inner = inner
        self._shares = np.random.default_rng(seed).uniform(0.5 * mean_share, 1.5 * mean_share, DRAWS)
        self._answered = 0

    @property
    def buckets(self) -> Sequence[int]:
        """Returns the batch sizes, ascending."""
        return self._inner.buckets

    @property
    def n_rows(self) -> int:
        """Returns how many rows the request pool has."""
        return self._inner.n_rows

    def padded(self, n: int) -> int:
        """Returns how many samples are computed where n are asked for."""
        return self._inner.padded(n)

    def answer(self, rows: NDArray) -> tuple[Mapping[str, NDArray], Stamps]:
        """Returns the answers, and when the stages ended; the spinning counts as post-processing."""
        started = time.perf_counter()
        answered = self._inner.answer(rows)
        ended = time.perf_counter()
        until = ended + float(self._shares[self._answered % DRAWS]) * (ended - started)
        self._answered += 1
        while time.perf_counter() < until:
            pass
        return answered
