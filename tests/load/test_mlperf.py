"""LoadGen itself against systems of known service time."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.stats
from quiet_machine import skip_if_disturbed
from simulated_systems import SimulatedSystem, lindley_ms, misses

from recjax.errors import UserError
from recjax.load import mlperf, mlperf_log, mlperf_process
from recjax.load.arrivals import Arrivals
from recjax.load.client import LoadGenerator
from recjax.load.mlperf import LoadGenWindow, measure_with_loadgen
from recjax.load.mlperf_log import LoadGenError
from recjax.load.queries import QueryMix, draw_queries
from recjax.load.rate_search import holds_limit
from recjax.load.serve import serve_until_end
from recjax.load.window import Window
from recjax.serving.compiled import Stamps

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed; see the extra `mlperf`")

NEVER_MS = 1e6  # a latency limit that no run here reaches
SERVER = {"rate_qps": 500.0, "slo_ms": NEVER_MS}  # settings that only that scenario reads


class Wide(SimulatedSystem):
    buckets = (2, 8, 32)


def measure(system: Any, scenario: str, n: int, seed: int = 3, **settings: Any) -> LoadGenWindow:
    server = SERVER if scenario == "server" else {}
    return measure_with_loadgen(system, scenario, n, seed=seed, **server | settings)


# --- the four scenarios


def test_a_server_is_asked_on_a_poisson_schedule_for_uniform_rows() -> None:
    system = SimulatedSystem(np.array([1e-4]))
    window = measure(system, "server", 400)
    assert (window.queries, window.samples, window.padded_samples, window.unanswered) == (400, 400, 400, 0)
    assert (window.overloaded, window.silent, window.offered_qps) == (False, False, 500.0)
    assert scipy.stats.kstest(np.diff(window.arrival_s), "expon", args=(0, 1 / 500)).pvalue > 1e-3
    assert scipy.stats.chisquare(np.bincount(np.concatenate(system.asked), minlength=100)).pvalue > 1e-3
    assert tuple(window.parts_ms) == ("send_lag",)
    assert window.parts_ms["send_lag"].min() >= 0
    assert np.all(window.latency_ms >= window.parts_ms["send_lag"] + 0.1)
    assert window.duration_s == pytest.approx(window.arrival_s[-1] + window.latency_ms[-1] / 1e3, abs=0.05)


def test_the_seed_draws_schedule_and_rows() -> None:
    first, again, other = (SimulatedSystem(np.array([1e-5])) for _ in range(3))
    one, three = (measure(system, "server", 50, seed) for system, seed in ((first, 4), (other, 5)))
    two = measure(again, "server", 50, 4, mix=QueryMix())  # which is what it does without one
    np.testing.assert_array_equal(first.asked, again.asked)
    np.testing.assert_allclose(one.arrival_s, two.arrival_s, atol=2e-9)
    assert not np.array_equal(first.asked, other.asked)
    assert not np.allclose(one.arrival_s, three.arrival_s)
    seeds = [
        (w.verdict["schedule_seed"], w.verdict["sample_seed"], w.verdict["library_seed"]) for w in (one, two, three)
    ]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == 3


def test_latency_of_a_stream_is_the_service_time() -> None:
    system = SimulatedSystem(np.array([2e-3]))
    window = measure(system, "single_stream", 50)
    assert (window.queries, window.samples, window.offered_qps, window.parts_ms) == (50, 50, None, {})
    assert window.latency_ms.min() >= 2.0
    assert window.latency_ms.sum() / 1e3 <= window.duration_s
    assert system.calls == 50 + 3  # the three answers that tell LoadGen what to expect


@pytest.mark.parametrize("scenario", ["single_stream", "multi_stream"])
def test_a_stream_that_gets_faster_does_not_run_out_of_queries(scenario: str) -> None:
    window = measure(Wide(np.array([0.05] * 3 + [1e-3] * 5000)), scenario, 1, duration_s=0.5)
    assert window.queries > 20  # which is what LoadGen would have drawn by the first three answers


def test_a_query_of_a_multi_stream_is_eight_neighbours_of_the_library() -> None:
    system = Wide(np.array([1e-4]))
    window = measure(system, "multi_stream", 30)
    assert (window.queries, window.samples, window.padded_samples) == (30, 240, 240)
    assert {len(rows) for rows in system.asked} == {8}


def test_offline_is_one_query_of_all_samples() -> None:
    system = Wide(np.array([1e-3]))
    window = measure(system, "offline", 320)
    assert (window.queries, window.samples, window.padded_samples) == (1, 320, 320)
    assert window.samples_per_s == pytest.approx(window.verdict["samples_per_s"], rel=1e-4)
    assert window.latency_ms[0] == pytest.approx(window.duration_s * 1e3)
    assert window.duration_s >= 10 * 1e-3


@pytest.mark.parametrize("scenario", ["single_stream", "offline"])
def test_a_closed_scenario_lasts_as_long_as_is_asked(scenario: str) -> None:
    window = measure(Wide(np.array([1e-3])), scenario, 1, duration_s=0.3)
    assert 0.3 <= window.duration_s < 3
    assert window.verdict["min_duration_met"]


def test_a_mix_makes_whole_queries_of_the_samples() -> None:
    class Larger(SimulatedSystem):
        buckets = (64, 256)

    system, mix = Larger(np.array([1e-4])), QueryMix(sizes="dlrm_v2")
    window = measure(system, "server", 40, seed=2, rate_qps=200.0, mix=mix)
    library = draw_queries(mix, 4096, 100, 2)
    asked = np.concatenate(system.asked)
    assert (window.queries, window.samples) == (40, len(asked))
    assert window.padded_samples == sum(system.padded(len(rows)) for rows in system.asked)
    starts = {
        tuple(rows[:50]): size
        for rows, size in zip(np.split(library.rows, np.cumsum(library.sizes)[:-1]), library.sizes, strict=True)
    }
    position, sizes = 0, []
    while position < len(asked):  # every query is one of the library, whole
        sizes.append(starts[tuple(asked[position : position + 50])])
        position += sizes[-1]
    assert (position, len(sizes)) == (len(asked), 40)
    assert sum(len(rows) for rows, _ in window.kept_answers) == len(asked)
    for rows, content in window.kept_answers:
        np.testing.assert_array_equal(np.frombuffer(content, rows.dtype), rows * 2)


def test_of_many_batches_some_answers_are_kept_with_their_rows() -> None:
    window = measure(SimulatedSystem(np.array([0.0])), "offline", 1000)
    assert 128 <= len(window.kept_answers) <= 256
    for rows, content in window.kept_answers:
        np.testing.assert_array_equal(np.frombuffer(content, rows.dtype), rows * 2)


# --- what LoadGen says


@pytest.mark.parametrize("scenario", ["server", "single_stream", "multi_stream"])
def test_the_latencies_are_those_of_which_loadgen_gives_percentiles(scenario: str) -> None:
    window = measure(Wide(np.array([1e-4, 3e-4])), scenario, 300)
    ordered = np.sort(window.latency_ms)
    for percent in (50, 90, 99):
        assert window.verdict[f"p{percent}_ms"] == pytest.approx(ordered[300 * percent // 100], abs=1e-6)
    assert window.verdict["queries"] == 300
    assert window.verdict["version"].startswith("6.")


def test_the_verdict_is_loadgens_own() -> None:
    short = measure(SimulatedSystem(np.array([1e-5])), "server", 200).verdict
    assert (short["result"], short["early_stopping_met"], short["min_queries_met"]) == ("INVALID", False, True)
    assert "Would need to run at least 259 more queries" in short["early_stopping"]  # 459 without one over the limit
    assert short["over_limit"] == 0
    long = measure(SimulatedSystem(np.array([1e-5])), "server", 459, rate_qps=2000.0).verdict
    assert (long["result"], long["early_stopping_met"], long["latency_limit_met"]) == ("VALID", True, True)
    late = measure(SimulatedSystem(np.array([2e-3])), "server", 100, rate_qps=100.0, slo_ms=1.0).verdict
    assert (late["result"], late["latency_limit_met"], late["over_limit"]) == ("INVALID", False, 100)


def test_a_server_that_cannot_keep_up_ends_the_window_as_overloaded() -> None:
    window = measure(SimulatedSystem(np.array([5e-3])), "server", 2000, slo_ms=10.0)
    assert window.overloaded
    assert window.unanswered == 2000 - window.queries > 1000
    assert window.verdict["result"] == "INVALID"
    assert not holds_limit(window, 10.0)[0]


def test_logs_stay_where_they_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / mlperf_log.DETAIL).write_text("of an earlier run")
    window = measure(SimulatedSystem(np.array([1e-4])), "single_stream", 20, log_folder=tmp_path / "logs")
    assert mlperf_log.verdict_of(mlperf_log.read_records(tmp_path / "logs"))["p50_ms"] == window.verdict["p50_ms"]
    np.testing.assert_array_equal(mlperf_log.read_latencies(tmp_path / "logs").latency_ms, window.latency_ms)


# --- what must not hang, abort or pass


@pytest.mark.parametrize("scenario", ["server", "single_stream", "multi_stream", "offline"])
def test_an_exception_in_the_system_is_that_exception(scenario: str) -> None:
    class Broken(Wide):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            if self.calls == 5:
                raise ZeroDivisionError("broken")
            return super().answer(rows)

    with pytest.raises(ZeroDivisionError, match="broken"):
        measure(Broken(np.array([1e-3])), scenario, 500)


def test_a_connection_that_the_system_loses_is_its_own() -> None:
    class Remote(SimulatedSystem):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            raise ConnectionResetError("no server any more")

    with pytest.raises(ConnectionResetError, match="no server any more"):
        measure(Remote(np.zeros(1)), "server", 10)


class Sleeping(SimulatedSystem):
    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        if self.calls == 20:
            time.sleep(600)
        return super().answer(rows)


def test_a_query_that_is_never_completed_ends_the_run_and_the_next_one_is_undisturbed() -> None:
    with pytest.raises(LoadGenError, match=r"server run hangs.* 50 samples issued, 20 completed, then nothing for 3 s"):
        measure(Sleeping(np.array([1e-4])), "server", 50, silence_s=3.0)
    assert measure(SimulatedSystem(np.array([1e-4])), "server", 50).queries == 50


@pytest.mark.slow
def test_a_system_that_cannot_be_interrupted_takes_its_process_with_it() -> None:
    """Python's signal handlers do not run while C code waits for a lock: here for one that it holds itself."""
    program = """
import ctypes, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from simulated_systems import SimulatedSystem
from recjax.load.mlperf import measure_with_loadgen
class Stuck(SimulatedSystem):
    def answer(self, rows):
        mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
measure_with_loadgen(Stuck(np.zeros(1)), "server", 10, seed=0, rate_qps=500.0, slo_ms=1e6, silence_s=3.0)
"""
    folder = os.path.dirname(__file__)
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("error: LoadGen's server run hangs and was ended: 10 samples issued, 0 completed")


def test_from_another_thread_it_measures_too() -> None:
    windows: list[LoadGenWindow] = []
    system = SimulatedSystem(np.array([1e-4]))
    thread = threading.Thread(target=lambda: windows.append(measure(system, "single_stream", 20)))
    thread.start()
    thread.join()
    assert windows[0].queries == 20


def test_a_process_of_loadgen_that_has_died_is_an_error() -> None:
    class Killing(SimulatedSystem):
        def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):  # killed already, or another test's
                    if "recjax.load.mlperf_generator" in child.cmdline():
                        child.kill()
            return super().answer(rows)

    with pytest.raises(LoadGenError, match="server run failed: its process has ended with code -9"):
        measure(Killing(np.array([1e-3])), "server", 50)


def test_an_error_that_loadgen_logs_fails_the_run_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system a hundred times faster than LoadGen expects runs out of queries; LoadGen's result is INVALID."""
    monkeypatch.setattr(mlperf, "DRAWN_ANYWAY", 1)
    service_s = np.array([0.05] * 3 + [1e-4] * 10_000)
    with pytest.raises(LoadGenError, match=r"error_runtime: Ending early: Ran out of generated queries"):
        measure(SimulatedSystem(service_s), "single_stream", 1, duration_s=3.0)


def test_a_sample_that_is_completed_twice_is_an_error_of_loadgen_although_its_result_is_valid(tmp_path: Path) -> None:
    program = """
import queue, sys, threading
from mlperf_loadgen import QuerySampleResponse, QuerySamplesComplete
from recjax.load.mlperf_generator import run_loadgen
issued = queue.SimpleQueue()
def complete():
    for number in range(100):
        response = [QuerySampleResponse(issued.get()[0], 0, 0)]
        QuerySamplesComplete(response)
        if number == 7:
            QuerySamplesComplete(response)
threading.Thread(target=complete).start()
run_loadgen("single_stream", {"min_query_count": 100, "min_duration_ms": 0}, lambda ids, rows: issued.put(ids), 10,
            sys.argv[1], trace=True)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    records = mlperf_log.read_records(tmp_path)
    assert mlperf_log.verdict_of(records)["result"] == "VALID"
    assert mlperf_log.logged_problems(records).failures == ("error_runtime: Attempted to complete a sample twice.",)


@pytest.mark.parametrize("scenario", ["server", "single_stream"])
def test_more_answers_than_queries_are_caught(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(socket.socket):
        def sendall(self, content: bytes) -> None:  # type: ignore[override]
            super().sendall(content * 2)

    def answer_twice(connection: socket.socket, *others: Any) -> Any:
        with Twice(fileno=os.dup(connection.fileno())) as twice:
            return serve_until_end(twice, *others)

    monkeypatch.setattr(mlperf_process, "serve_until_end", answer_twice)
    with pytest.raises(LoadGenError, match=r"the system completed \d+ samples more than the \d+ issued"):
        measure(SimulatedSystem(np.array([1e-3])), scenario, 50)


def test_unusable_arguments() -> None:
    system = SimulatedSystem(np.zeros(1))
    with pytest.raises(UserError, match=r"unknown scenario 'serve'.*did you mean 'server'"):
        measure(system, "serve", 10)
    with pytest.raises(UserError, match="slo_ms=None; allowed: both > 0"):
        measure(system, "server", 10, slo_ms=None)
    with pytest.raises(UserError, match="min_queries is 0"):
        measure(system, "offline", 0)


# --- both generators


def replayed(theirs: LoadGenWindow, system: Any, generator: LoadGenerator, folder: Path) -> Window:
    """Returns the window that recjax's generator measures when queries arrive as LoadGen has recorded it.

    On draws of its own the percentiles of so few queries would differ by more than 5% by chance alone.
    """
    n, mean_s = len(theirs.arrival_s), float(theirs.arrival_s[-1]) / (len(theirs.arrival_s) - 1)
    trace = folder / "arrivals.txt"
    trace.write_text("\n".join(map(repr, [-mean_s, *theirs.arrival_s.tolist()])))  # a trace begins after its first gap
    arrivals = Arrivals(kind="trace", trace=str(trace))
    return generator.measure(system, 1 / mean_s, n, slo_ms=NEVER_MS, seed=0, arrivals=arrivals)


def test_recjaxs_generator_can_repeat_loadgens_arrivals(tmp_path: Path) -> None:
    """A burst that both see: what waits is as many milliseconds in both windows."""
    service_s = np.full(60, 4e-3)
    theirs = measure(SimulatedSystem(service_s), "server", 60, rate_qps=400.0)
    with LoadGenerator() as generator:
        ours = replayed(theirs, SimulatedSystem(service_s), generator, tmp_path).latency_ms
    least = lindley_ms(theirs.arrival_s, service_s)
    assert np.all(theirs.latency_ms >= least - 1e-3)
    assert np.all(ours >= least - 1e-3)
    assert least[-1] > 50  # arrivals are faster than services


def test_a_schedule_scales_with_its_rate() -> None:
    slow, fast = (
        measure(SimulatedSystem(np.zeros(1)), "server", 50, rate_qps=rate).arrival_s for rate in (500.0, 5000.0)
    )
    np.testing.assert_allclose(slow, 10 * fast, atol=50 * 10e-9)  # LoadGen cuts each gap to whole nanoseconds


@pytest.mark.timed
def test_both_generators_agree_at_half_of_the_load(tmp_path: Path) -> None:
    """Within 5% on p50 and p99, of each other and of direct computation; a disturbed pair is repeated, at most twice.

    Services begin when they are due or the one before has ended: what else a machine does between two of them would
    otherwise add up while queries wait, and another amount in each window. That hides how late a query was sent, which
    is held to the same 5% of the mean latency. LoadGen's schedule is known from a run at 100 times the rate.
    """
    n, mean_s, percents = 100, 0.08, (50, 99)
    rate_qps, service_s = 0.5 / mean_s, np.random.default_rng(7).exponential(mean_s, n)
    drawn_s = 100 * measure(SimulatedSystem(np.zeros(1)), "server", n, rate_qps=100 * rate_qps).arrival_s
    expected = lindley_ms(drawn_s, service_s)
    with LoadGenerator() as generator:
        for _ in range(3):
            theirs = measure(SimulatedSystem(service_s, drawn_s), "server", n, rate_qps=rate_qps)
            first_gap_s = theirs.arrival_s[-1] / (n - 1)
            ours = replayed(theirs, SimulatedSystem(service_s, drawn_s + first_gap_s), generator, tmp_path)
            p50_and_p99 = [
                np.percentile(ms, percents).round(2) for ms in (theirs.latency_ms, ours.latency_ms, expected)
            ]
            print("p50 and p99 of LoadGen, recjax and direct computation in ms:", *p50_and_p99)
            missed = {
                "LoadGen": misses(theirs, expected, 0.05, percents),
                "recjax": misses(ours, expected, 0.05, percents),
                "recjax by LoadGen": misses(ours, theirs.latency_ms, 0.05, percents),
            }
            if not any(missed.values()):
                return
    skip_if_disturbed()
    assert not any(missed.values()), missed
