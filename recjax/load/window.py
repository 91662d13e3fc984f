"""What one timed window gave. Every sample is kept, in the order in which the queries were due.

A *sample* is one row of the request pool: one user's history for a next-item model, one (user, item, moment) for a
binary one. A *query* is what arrives at once.

Shapes: N queries that were answered, K batches.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of a query's latency, in order; their sum is the latency.
PARTS = (
    "send_lag",  # from the scheduled arrival until the generator sends it
    "queue",  # until its batch was taken
    "host_preparation",  # until the batch was gathered and padded
    "transfer_in",  # until its inputs were handed to the device and the program was enqueued
    "compute",  # until the outputs were ready
    "transfer_out",  # until they were in host memory
    "post_processing",  # until the answers were packed
    "reply",  # until the generator had them
)


class Privileges(NamedTuple):
    """What the generator's process obtained of what it asks the system for (`recjax.load.generator.be_prompt`)."""

    niceness: int  # as of `nice`
    short_slice: bool  # whether the scheduler gives it short slices of a core

    def in_row(self) -> dict[str, int | bool]:
        """Returns both as they stand in a row's `load`."""
        return {"generator_niceness": self.niceness, "generator_short_slice": self.short_slice}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """A timed window.

    Attributes:
      latency_ms: [N] one value a query.
      parts_ms: [N] by PARTS; those that a closed loop has not are missing.
      samples: of all answered queries.
      padded_samples: computed, padding included.
      batch_samples: [K] asked for in each batch that was formed.
      duration_s: from the first arrival to the last answer.
      offered_qps: scheduled rate of a server window, None elsewhere.
      unanswered: arrivals that the window ended without an answer to.
      overloaded: the window was ended early because waiting had grown without bound.
      silent: the window was ended early because no answer came any more.
      failed_early: the window was ended early because more queries had exceeded the limit than may of all.
      generator_cpu_share: of one core, that the generator took; None where it is no process of its own.
      privileges: of the generator's process; None where it is none of recjax's.
      kept_answers: of some batches, (rows of its samples, bytes of its answers).
    """

    latency_ms: NDArray
    parts_ms: Mapping[str, NDArray]
    samples: int
    padded_samples: int
    batch_samples: NDArray
    duration_s: float
    offered_qps: float | None = None
    unanswered: int = 0
    overloaded: bool = False
    silent: bool = False
    failed_early: bool = False
    generator_cpu_share: float | None = None
    privileges: Privileges | None = None
    kept_answers: Sequence[tuple[NDArray, bytes]] = ()

    @property
    def queries(self) -> int:
        """Returns how many queries were answered."""
        return len(self.latency_ms)

    @property
    def padding_waste(self) -> float:
        """Returns the share of computed samples that nobody asked for."""
        return 1 - self.samples / self.padded_samples if self.padded_samples else 0.0

    @property
    def samples_per_s(self) -> float:
        """Returns answered samples a second."""
        return self.samples / self.duration_s


def nothing_measured(offered_qps: float | None = None) -> Window:
    """Returns the window of a measurement that failed: no query was answered.

    Args:
      offered_qps: rate at which they should have come, of an open loop.
    """
    none = np.zeros(0)
    return Window(
        latency_ms=none,
        parts_ms={},
        samples=0,
        padded_samples=0,
        batch_samples=np.zeros(0, np.int64),
        duration_s=1.0,
        silent=True,
        offered_qps=offered_qps,
    )
