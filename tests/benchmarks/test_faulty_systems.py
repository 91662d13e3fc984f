"""Systems that leak, compile while they serve, answer from a cache or answer late: their rows are invalid."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import NULL_RATE_QPS, Place, measure_case
from benchmarks.measured import Measured
from benchmarks.prepared import PreparedVariant
from benchmarks.results import Row, check_row
from benchmarks.row_fields import ProcessFacts, Rowed
from benchmarks.rows import make_row
from benchmarks.suite import Measurement
from recjax.config import Serving
from recjax.load import rate_search
from recjax.load.client import LoadGenerator
from recjax.load.mlperf_log import LoadGenError
from recjax.serving.compiled import Stamps

SERVICE_S = 2e-4
SERVING = Serving(buckets=(1, 8), slo_ms=40.0)
SETTINGS = Measurement(
    scenarios=("single_stream", "server"),
    rounds=6,
    window_s=0.05,
    min_queries=20,
    probe_s=0.2,
    search_steps=2,
    curve=(),
)
SETTINGS_CLOSED = Measurement(scenarios=("single_stream",), rounds=6, window_s=0.05, min_queries=20)


class HonestSystem:
    """Takes a known time for every batch."""

    buckets: Sequence[int] = (1, 8)
    n_rows = 2_000

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        self.work(rows)
        now = time.perf_counter()
        return {"row": rows * 2.0}, Stamps(now, now, now, now)

    def work(self, rows: np.ndarray) -> None:
        end = time.perf_counter() + SERVICE_S
        while time.perf_counter() < end:
            pass

    def padded(self, n: int) -> int:
        return next(size for size in self.buckets if size >= n)


class LeakingSystem(HonestSystem):
    """Keeps 2 MiB of every batch: more than 1% of what a process holds that has compiled many programs."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def work(self, rows: np.ndarray) -> None:
        super().work(rows)
        self.kept.append(np.ones(262_144))


class RecompilingSystem(HonestSystem):
    """Compiles for every batch: a new function is a new program."""

    def work(self, rows: np.ndarray) -> None:
        offset = float(np.random.default_rng().random())
        jax.block_until_ready(jax.jit(lambda x: x + offset)(jnp.asarray(rows, jnp.float32)))


class CachingSystem(HonestSystem):
    """Answers a query that it has seen without doing the work."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def work(self, rows: np.ndarray) -> None:
        if rows.tobytes() not in self.seen:
            self.seen.add(rows.tobytes())
            super().work(rows)


class LateSystem(HonestSystem):
    """Answers one batch of forty 0.1 s late."""

    calls = 0

    def work(self, rows: np.ndarray) -> None:
        self.calls += 1
        super().work(rows)
        if self.calls % 40 == 0:
            time.sleep(0.1)


class StoppingSystem(HonestSystem):
    """Stops the process of the generator that asks it for 0.2 s, once, from the first query of its window on."""

    generator: LoadGenerator | None = None

    def start_generator(self) -> LoadGenerator:
        self.generator = LoadGenerator()
        return self.generator

    def work(self, rows: np.ndarray) -> None:
        super().work(rows)
        if self.generator is not None:
            pid, self.generator = self.generator._process.pid, None
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(0.2, os.kill, (pid, signal.SIGCONT)).start()


class LyingSystem(HonestSystem):
    """Answers wrongly what it has not been asked before: right again when it is checked."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def answer(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Stamps]:
        answers, stamps = super().answer(rows)
        known = rows.tobytes() in self.seen
        self.seen.add(rows.tobytes())
        return (answers if known else {"row": answers["row"] + 1}), stamps


@pytest.fixture(scope="module", autouse=True)
def few_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (measure, rate_search):
            patch.setattr(module, "MIN_PROBE_QUERIES", 460)
            patch.setattr(module, "MIN_CONFIRMING_QUERIES", 460)
        patch.setattr(rate_search, "MAX_LOWERED", 2)
        yield


def rows_of(system: HonestSystem, settings: Measurement = SETTINGS) -> dict[str, Row]:
    """Returns the rows of a system by scenario, measured in this process."""
    contestant: Any = SimpleNamespace(label="fp32", system=system, is_null=False)
    place = Place(process=0, platform="cpu", n_devices=1, name="faulty")
    groups = [records[0] for records in measure_case([contestant], settings, SERVING, place, {})]
    return {record.scenario: row_of(record, groups) for record in groups}


def row_of(record: Measured, *of_processes: list[Measured]) -> Row:
    program = {
        "compile_s": 1.0,
        "flops": None,
        "bytes_accessed": None,
        "memory_bytes": 1,
        "products": {},
        "fault": None,
    }
    facts = ProcessFacts(
        process=0,
        device={"platform": "cpu", "kind": "a CPU", "count": 1, "mesh": None},
        device_kind="cpu",
        programs={"fp32": {"1": program, "8": program}},
        environment={"ceilings": {"flops_per_s": {}, "bytes_per_s": 1.0}},
        peak_host_bytes=1,
    )
    fields = ("protocol", "support", "quality", "quality_metric", "quality_reference", "quality_retained", "train_s")
    fields += ("quality_retained_ci95", "validation_quality", "dense_layer_bytes", "checkpoint_bytes", "table_bytes")
    fields += ("masked_share", "realised_share", "train_samples_per_s", "train_speedup")
    known = {"model": "Known", "model_config": {}, "transforms": [], "transform_report": {}, "parameter_bytes": 0}
    variant = PreparedVariant(
        label="fp32",
        row=known | dict.fromkeys(fields),
        reasons=dict.fromkeys(fields, "not trained"),
        dot_dtype="float32",
        masks=False,
        realises_masks=False,
        masked_label="fp32",
        below_floor=None,
    )
    case: Any = SimpleNamespace(
        experiment=SimpleNamespace(name="faulty", serving=SERVING, dataset=SimpleNamespace(source="none"))
    )
    records = Rowed(of_variant=[record], of_fp32=[record], of_masked=None, of_all=of_processes)
    row = make_row(case, variant, records, [facts], {"run_id": "r", "suite": "s", "command": {}}, {}, SETTINGS)
    check_row(row)
    return row


def test_an_honest_system_is_valid_in_closed_loops() -> None:
    row = rows_of(HonestSystem(), SETTINGS_CLOSED)["single_stream"]
    assert (row.valid, row.invalid_reason) == (True, None)
    assert row.latency_ms["p50"] >= SERVICE_S * 1e3
    assert row.memory_growth is not None
    assert row.memory_growth["leaking"] is False
    assert row.answer_caching is not None


def test_a_leaking_system_is_caught() -> None:
    row = rows_of(LeakingSystem(), SETTINGS_CLOSED)["single_stream"]
    assert not row.valid
    assert row.invalid_reason is not None
    assert row.invalid_reason.startswith("the system leaks host memory: ")
    assert row.memory_growth is not None
    assert row.memory_growth["bytes_per_query"] == pytest.approx(2_097_152, rel=0.3)


@pytest.mark.parametrize(("growing", "leaking"), [(1, False), (2, True), (3, True)])
def test_a_leak_shows_in_most_processes(growing: int, leaking: bool) -> None:
    contestant: Any = SimpleNamespace(label="fp32", system=HonestSystem(), is_null=False)
    place = Place(process=0, platform="cpu", n_devices=1, name="faulty")
    [[measured]] = measure_case([contestant], SETTINGS_CLOSED, SERVING, place, {})
    steady, grows = (
        dataclasses.replace(measured, host_growth_bytes=[step] * len(measured.windows)) for step in (0, 20 * 2**20)
    )
    row = row_of(measured, *[[grows]] * growing, *[[steady]] * (3 - growing))
    assert row.memory_growth is not None
    assert (row.memory_growth["leaking"], row.memory_growth["leaking_processes"]) == (leaking, growing)
    assert row.valid is not leaking


def test_a_rate_that_the_load_generator_set_is_no_rate_of_the_system() -> None:
    contestant: Any = SimpleNamespace(label="fp32", system=HonestSystem(), is_null=False)
    place = Place(process=0, platform="cpu", n_devices=1, name="faulty")
    [[measured]] = measure_case([contestant], SETTINGS_CLOSED, SERVING, place, {})
    of_server = {"offered_qps": 900.0, "verdict": None, "unanswered": 0, "generator_cpu_share": 0.9, "privileges": None}
    windows = [
        window | of_server | {"send_lag_ms": {"p50": 1.0, "p99": 9.0, "max": 9.0}} for window in measured.windows
    ]
    search = {"confirmed": True, "held_at_qps": 900.0, "failed_at_qps": 1000.0, "cannot_hold": None, "lowered": 1}

    def row(late_generator: str | None) -> Row:
        found = search | {"probes": 3, "confirmations": 3, "late_generator": late_generator}
        return row_of(dataclasses.replace(measured, scenario="server", windows=windows, search=found), [measured])

    assert row(None).valid
    late = row("the load generator fell behind")
    assert not late.valid
    assert late.invalid_reason == (
        "the rate is that of the load generator: at 1,000 queries/s the load generator fell behind"
    )


def test_a_generator_that_was_stopped_leaves_an_invalid_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the one window of the null model, which is asked at a set rate; a search takes such a window again."""
    system = StoppingSystem()
    monkeypatch.setattr(measure, "LoadGenerator", system.start_generator)
    fp32: Any = SimpleNamespace(label="fp32", system=HonestSystem(), is_null=False)
    null: Any = SimpleNamespace(label="null", system=system, is_null=True)
    place = Place(process=0, platform="cpu", n_devices=1, name="faulty")
    serving = dataclasses.replace(SERVING, slo_ms=400.0)  # five times as long as it is stopped, and more
    *_, [_, measured] = measure_case([fp32, null], SETTINGS, serving, place, {"fp32": NULL_RATE_QPS})
    row = row_of(measured, [measured])
    assert row.load is not None
    assert row.load["send_lag_ms"]["p99"] > 100
    assert not row.valid
    assert row.invalid_reason is not None
    assert row.invalid_reason.startswith("the load generator fell behind: it sent queries late by ")
    assert row.invalid_reason.endswith(" ms (p99), more than 10% of the limit of 400 ms")


def test_a_recompiling_system_is_caught() -> None:
    row = rows_of(RecompilingSystem(), SETTINGS_CLOSED)["single_stream"]
    assert row.recompiles_in_window >= 6 * 20
    assert row.invalid_reason == f"{row.recompiles_in_window} programs were compiled inside the timed windows"


def test_a_caching_system_is_caught() -> None:
    for row in rows_of(CachingSystem(), SETTINGS_CLOSED).values():
        assert not row.valid
        assert row.invalid_reason is not None
        assert "answers are cached" in row.invalid_reason


def test_answers_that_loadgen_keeps_do_not_look_like_a_leak() -> None:
    pytest.importorskip("mlperf_loadgen")
    settings = dataclasses.replace(SETTINGS_CLOSED, loadgen="mlperf", window_s=0.01)
    window = measure._closed_window(HonestSystem(), "offline", 8, settings, 0)  # type: ignore[arg-type]
    assert window.samples >= 8
    assert len(window.kept_answers) == 0


def test_a_loadgen_that_fails_leaves_invalid_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise LoadGenError("LoadGen logged an error")

    monkeypatch.setattr(measure, "measure_with_loadgen", fail)
    rows = rows_of(HonestSystem(), dataclasses.replace(SETTINGS, loadgen="mlperf"))
    assert set(rows) == {"single_stream", "server"}
    for row in rows.values():
        assert (row.valid, row.invalid_reason) == (False, "LoadGen logged an error")
        assert row.latency_ms["p50"] is None


@pytest.mark.timed
def test_a_late_system_is_caught() -> None:
    row = rows_of(LateSystem())["server"]
    assert not row.valid
    assert row.invalid_reason is not None
    assert row.invalid_reason.startswith(("p99 did not hold 40 ms at any rate", "p99 cannot hold 40 ms at any rate"))


@pytest.mark.timed
def test_a_system_that_answers_otherwise_under_load_is_caught() -> None:
    row = rows_of(LyingSystem())["server"]
    assert row.invalid_reason is not None
    assert "was answered differently under load" in row.invalid_reason
