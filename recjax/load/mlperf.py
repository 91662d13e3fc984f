"""Windows measured by LoadGen, the load generator of MLCommons, in place of recjax's own.

The same system answers by the same loop and the same batching (`recjax.load.serve`); only who sends, and whose clock
the latencies are of, differ. LoadGen runs in a process of its own (`recjax.load.mlperf_generator`), one for each run.
It draws queries by its own rules: Poisson arrivals for `server`, one query after another for `single_stream` and
`multi_stream`, everything in one query for `offline`. Its figures are read from its logs.

No run made here is an official result: only one that conforms to MLCommons' rules, on its models and
data, may be called so.

Shapes: N queries that were answered, S rows of all of them.
"""

import contextlib
import dataclasses
import importlib.util
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recjax.errors import UserError, unknown_name
from recjax.load import mlperf_log
from recjax.load.client import OVERLOAD_FACTOR, SILENCE_S
from recjax.load.closed_loop import DRAWN_QUERIES
from recjax.load.mlperf_generator import SCENARIOS, rows_of_queries
from recjax.load.mlperf_log import LoadGenError
from recjax.load.mlperf_process import LoadGenProcess
from recjax.load.queries import Queries, QueryMix, draw_queries
from recjax.load.serve import Served
from recjax.load.system import System
from recjax.load.window import Window

PACKAGE = "mlperf_loadgen"
MULTI_STREAM_SAMPLES = 8
TIMED_ANSWERS = 3  # before a run, to tell LoadGen what to expect
FASTEST_QUERY_S = 40e-6  # the way to the other process and back takes about twice this
FASTEST_SAMPLE_S = 2e-6  # of `offline`: LoadGen and what is between take about half of this
DRAWN_ANYWAY = 200_000  # queries of a stream, however slow its first answers were; all are in memory before it starts
MIN_OUTSTANDING = 100  # queries; chance alone makes so many wait where the latency limit is short


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadGenWindow(Window):
    """A window whose latencies and duration are LoadGen's.

    Of `parts_ms` it has `send_lag` alone, and that for `server`: LoadGen sees no more. The one query of `offline` has
    one latency; `samples_per_s` is what that scenario is for.

    Attributes:
      verdict: by the names of `mlperf_log.VERDICT`, as LoadGen logged it.
      arrival_s: [N] scheduled arrivals, seconds after the first.
    """

    verdict: Mapping[str, Any]
    arrival_s: NDArray


def require_loadgen() -> None:
    """Raises UserError where the package is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            "--loadgen=mlperf needs the package mlcommons-loadgen, which is not installed; pip install -e '.[mlperf]' "
            "in the repository (wheels: Linux on x86-64, CPython 3.11 to 3.13), or leave the option out"
        )


def measure_with_loadgen(
    system: System,
    scenario: str,
    min_queries: int,
    *,
    seed: int,
    duration_s: float = 0.0,
    rate_qps: float | None = None,
    slo_ms: float | None = None,
    mix: QueryMix | None = None,
    silence_s: float = SILENCE_S,
    log_folder: Path | None = None,
) -> LoadGenWindow:
    """Returns a window of one of LoadGen's scenarios.

    Args:
      system: answers in this process and thread.
      scenario: "server", "single_stream", "multi_stream" (8 samples a query) or "offline".
      min_queries: exactly so many of `server`; at least so many of the two streams; at least so many samples of
        `offline`.
      seed: of LoadGen's schedule, draw of samples and order of the library (three seeds that follow from it stand in
        the verdict), and of the library itself if there is a mix.
      duration_s: the closed scenarios last at least so long; not read by `server`.
      rate_qps: mean rate of `server`.
      slo_ms: latency limit of `server`; when as many queries wait as arrive in OVERLOAD_FACTOR times this, the window
        ends as overloaded.
      mix: one uniform row a query by default. With another mix, LoadGen's samples are whole queries of it, drawn
        beforehand.
      silence_s: the run is ended as hung when nothing was issued or answered for so long.
      log_folder: where LoadGen's logs stay; by default they are not kept.

    Raises:
      UserError: the package is missing, or an argument is.
      LoadGenError: LoadGen logged an error or a warning, or had to be ended.
    """
    require_loadgen()
    if scenario not in SCENARIOS:
        raise unknown_name("scenario", scenario, SCENARIOS)
    if min_queries < 1:
        raise UserError(f"min_queries is {min_queries!r}; allowed: >= 1")
    if scenario == "server" and not (rate_qps and slo_ms):
        raise UserError(f"server with rate_qps={rate_qps!r} and slo_ms={slo_ms!r}; allowed: both > 0")
    library = _library(mix, system.n_rows, seed)
    settings = {"min_query_count": min_queries, "min_duration_ms": round(duration_s * 1e3)} | _seeds(seed)
    if scenario == "server" and rate_qps and slo_ms:
        settings |= _server_settings(rate_qps, slo_ms)
    else:
        settings |= _closed_settings(scenario, system, library, duration_s)
    with contextlib.ExitStack() as stack:
        folder = log_folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recjax-loadgen-")))
        folder.mkdir(parents=True, exist_ok=True)
        mlperf_log.remove_logs(folder)  # of an earlier run
        plan = {
            "scenario": scenario,
            "settings": settings,
            "silence_s": silence_s,
            "folder": str(folder),
            "trace": scenario != "offline",  # all samples of its one query have the same arrival
        }
        process = stack.enter_context(LoadGenProcess(plan, library))
        served = process.serve(system)
        return _window(plan, library, process, served, folder, rate_qps)


def _library(mix: QueryMix | None, n_rows: int, seed: int) -> Queries:
    """Returns the queries that LoadGen's indices name: of one uniform row each, the rows of the pool."""
    if mix is None or mix == QueryMix():
        return Queries(np.ones(n_rows, np.int32), np.arange(n_rows, dtype=np.int32))
    return draw_queries(mix, DRAWN_QUERIES, n_rows, seed)


def _seeds(seed: int) -> dict[str, Any]:
    """Returns three seeds: of one and the same, a query's row would follow from the gap before it."""
    schedule, sample, library = np.random.SeedSequence(seed).generate_state(3).tolist()
    return {"schedule_rng_seed": schedule, "sample_index_rng_seed": sample, "qsl_rng_seed": library}


def _server_settings(rate_qps: float, slo_ms: float) -> dict[str, Any]:
    return {
        "min_duration_ms": 0,
        "server_target_qps": rate_qps,
        "server_target_latency_ns": round(slo_ms * 1e6),
        "server_max_async_queries": max(MIN_OUTSTANDING, math.ceil(OVERLOAD_FACTOR * slo_ms / 1e3 * rate_qps)),
    }


def _closed_settings(scenario: str, system: System, library: Queries, duration_s: float) -> dict[str, Any]:
    """Returns how fast LoadGen may expect the system to be: it draws all queries of a run before the first.

    The fastest of a few answers. For the two streams half of that, or what DRAWN_ANYWAY queries are enough for, if that
    is faster, as it always is in runs of less than 8 s: a stream that is faster than expected runs out of queries,
    which is an error; one that is slower only leaves some over. A few answers alone would not do, as a machine that was
    busy during them may be free again during the run.
    """
    ends = np.cumsum(library.sizes, dtype=np.int64)
    fit = int(np.searchsorted(ends, system.buckets[-1], side="right"))
    n = {"single_stream": 1, "multi_stream": MULTI_STREAM_SAMPLES, "offline": max(fit, 1)}[scenario]
    rows = rows_of_queries(library.sizes, library.rows, ends, np.arange(n) % len(ends))[1]
    answer_s = min(_answer_s(system, rows) for _ in range(TIMED_ANSWERS))
    if scenario == "offline":
        return {"offline_expected_qps": 1 / max(answer_s / n, FASTEST_SAMPLE_S)}
    expected_s = max(min(answer_s / 2, duration_s / DRAWN_ANYWAY), FASTEST_QUERY_S)
    expected = {f"{scenario}_expected_latency_ns": round(expected_s * 1e9)}
    return expected | ({"multi_stream_samples_per_query": n} if scenario == "multi_stream" else {})


def _answer_s(system: System, rows_S: NDArray) -> float:
    """Returns how long the system takes for rows that are asked for at once."""
    start = time.perf_counter()
    for first in range(0, len(rows_S), system.buckets[-1]):
        system.answer(rows_S[first : first + system.buckets[-1]])
    return time.perf_counter() - start


def _window(
    plan: Mapping[str, Any],
    library: Queries,
    process: LoadGenProcess,
    served: Served,
    folder: Path,
    rate_qps: float | None,
) -> LoadGenWindow:
    """Returns the window that LoadGen's logs tell of.

    Raises:
      LoadGenError: it logged an error or a warning.
    """
    records = mlperf_log.read_records(folder)
    if not records:
        raise LoadGenError(f"LoadGen has written no log in {folder}")
    verdict = mlperf_log.verdict_of(records)
    problems = mlperf_log.logged_problems(records)
    others = [text for text in problems.failures if mlperf_log.TOO_MANY_OUTSTANDING not in text]
    if others:
        raise LoadGenError(f"LoadGen's {plan['scenario']} run gives no figures; it logged: {'; '.join(others)}")
    times = mlperf_log.read_latencies(folder) if plan["trace"] else mlperf_log.one_query(records)
    if len(times.latency_ms) != verdict["queries"]:
        raise LoadGenError(f"LoadGen counts {verdict['queries']} queries, its trace has {len(times.latency_ms)}")
    ends = np.cumsum(library.sizes, dtype=np.int64)
    rows_S = rows_of_queries(library.sizes, library.rows, ends, process.seen["indices"])[1]
    is_server = plan["scenario"] == "server"
    return LoadGenWindow(
        latency_ms=times.latency_ms,
        parts_ms={"send_lag": times.issue_lag_ms} if is_server else {},
        samples=len(rows_S),
        padded_samples=int(served.padded_samples.sum()),
        batch_samples=served.batch_samples,
        duration_s=float((times.arrival_s + times.latency_ms / 1e3).max()),
        offered_qps=rate_qps if is_server else None,
        unanswered=plan["settings"]["min_query_count"] - len(times.latency_ms) if is_server else 0,
        overloaded=len(problems.failures) > len(others),
        generator_cpu_share=process.outcome["cpu_share"],
        kept_answers=_kept(process.seen, served.batch_samples, rows_S),
        verdict=verdict | {"remarks": list(problems.remarks)},
        arrival_s=times.arrival_s,
    )


def _kept(seen: Mapping[str, NDArray], batch_samples: NDArray, rows_S: NDArray) -> Sequence[tuple[NDArray, bytes]]:
    """Returns the rows and the answers of the batches that were kept."""
    row_ends = np.cumsum(batch_samples)
    answer_ends = np.cumsum(seen["kept_sizes"])
    content = seen["kept_bytes"].tobytes()
    return [
        (rows_S[row_ends[number] - batch_samples[number] : row_ends[number]], content[end - size : end])
        for number, size, end in zip(seen["kept"], seen["kept_sizes"], answer_ends, strict=True)
    ]
