"""When queries arrive: Poisson, in bursts, or as in a recorded trace. Times are drawn beforehand and never rescaled.

Shapes: N queries, T arrivals of a trace.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrivals:
    """How the gaps between queries are drawn.

    Attributes:
      kind: "poisson": independent exponential gaps. "bursts": Poisson at a rate that switches at random between a high
        and a low one. "trace": recorded times, played faster or slower.
      burst_ratio: of the high rate to the mean one; > 1.
      burst_share: of the time that the high rate lasts; burst_ratio x burst_share must stay below 1.
      burst_s: mean length of a burst.
      trace: file with one arrival time in seconds a line, ascending.
    """

    kind: Literal["poisson", "bursts", "trace"] = "poisson"
    burst_ratio: float = 4.0
    burst_share: float = 0.1
    burst_s: float = 0.1
    trace: str = ""

    def __post_init__(self) -> None:
        """Raises UserError if the bursts alone would exceed the mean rate, or a trace has no file."""
        if self.kind == "bursts" and not (self.burst_ratio > 1 and 0 < self.burst_share * self.burst_ratio < 1):
            raise UserError(
                f"bursts of {self.burst_ratio:g} times the mean rate for {self.burst_share:g} of the time are not "
                "possible; allowed: burst_ratio > 1 and burst_ratio x burst_share < 1"
            )
        if self.kind == "bursts" and not self.burst_s > 0:
            raise UserError(f"burst_s is {self.burst_s!r}; allowed: > 0")
        if (self.kind == "trace") != bool(self.trace):
            raise UserError(
                f"arrivals of kind {self.kind!r} with trace={self.trace!r}; a trace needs a file, others none"
            )

    def in_words(self) -> str:
        """Returns the arrivals as they stand in a result row."""
        if self.kind == "bursts":
            ratio, share, mean_s = self.burst_ratio, self.burst_share, self.burst_s
            return f"bursts of {ratio:g} times the mean rate for {share:g} of the time, {mean_s:g} s long on average"
        return "Poisson" if self.kind == "poisson" else f"the trace {Path(self.trace).name}"


def arrival_times(arrivals: Arrivals, rate_qps: float, n: int, seed: int) -> NDArray:
    """Returns [N] seconds after the start, ascending.

    Args:
      arrivals: how they are drawn.
      rate_qps: their mean rate; of a trace too, whose times are stretched to it as a whole, and which starts again
        when it is at its end.
      n: how many.
      seed: of the draw; the same one gives the same times on every machine.

    Raises:
      UserError: an unusable trace.
    """
    if arrivals.kind == "trace":
        return _replayed(read_trace(Path(arrivals.trace)), rate_qps, n)
    rng = np.random.default_rng(seed)
    if arrivals.kind == "poisson":
        return np.cumsum(rng.exponential(1 / rate_qps, n))
    return _bursts(arrivals, rate_qps, n, rng)


def _bursts(arrivals: Arrivals, rate_qps: float, n: int, rng: np.random.Generator) -> NDArray:
    """Returns the arrivals of a Markov-modulated Poisson process of two states.

    The unit-rate arrivals are drawn first; the time at which each comes is the inverse of the integrated rate.

    Source: Fischer and Meier-Hellstern, The Markov-modulated Poisson process cookbook (Performance Evaluation, 1993).
    """
    high = arrivals.burst_ratio * rate_qps
    low = rate_qps * (1 - arrivals.burst_ratio * arrivals.burst_share) / (1 - arrivals.burst_share)
    calm_s = arrivals.burst_s * (1 - arrivals.burst_share) / arrivals.burst_share
    work = np.cumsum(rng.exponential(1.0, n))
    times, reached = [np.zeros(1)], [np.zeros(1)]
    while reached[-1][-1] < work[-1]:
        lengths = np.stack([rng.exponential(calm_s, 256), rng.exponential(arrivals.burst_s, 256)], 1).ravel()
        gained = lengths * np.tile([low, high], 256)
        times.append(times[-1][-1] + np.cumsum(lengths))
        reached.append(reached[-1][-1] + np.cumsum(gained))
    return np.interp(work, np.concatenate(reached), np.concatenate(times))


def _replayed(trace_T: NDArray, rate_qps: float, n: int) -> NDArray:
    """Returns the trace from its first gap on, again and again, stretched to the mean rate that is asked for."""
    gaps_T = np.diff(trace_T) / ((trace_T[-1] - trace_T[0]) * rate_qps / (len(trace_T) - 1))
    return np.cumsum(np.resize(gaps_T, n))


def read_trace(file: Path) -> NDArray:
    """Returns the [T] arrival times in seconds of a file with one a line.

    Raises:
      UserError: no such file, a line that is no number, times that descend, or fewer than two; with file and line.
    """
    if not file.is_file():
        raise UserError(f"no trace at {file}; give a file with one arrival time in seconds a line")
    times: list[float] = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            value = float(line)
        except ValueError as error:
            raise UserError(
                f"{file}:{number}: {line[:40]!r} is no time in seconds; expected one number a line"
            ) from error
        if not np.isfinite(value) or (times and value < times[-1]):
            raise UserError(f"{file}:{number}: {line[:40]!r} is not a time at or after the one before; sort the trace")
        times.append(value)
    if len(times) < 2 or times[-1] == times[0]:
        raise UserError(f"{file}: {len(times)} arrivals at one moment; a trace needs two moments or more")
    return np.array(times)
