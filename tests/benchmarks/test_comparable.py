import dataclasses
from typing import Any

import numpy as np
import pytest
from compared_runs import make_row

from benchmarks.comparable import no_process_held, other_differences, rate_held, why_not_comparable

LATENCIES = np.linspace(1.0, 2.0, 2_000)


def changed(**changes: Any) -> Any:
    return dataclasses.replace(make_row(LATENCIES), **changes)


def environment(**changes: Any) -> dict[str, Any]:
    return make_row(LATENCIES).environment | changes


def test_rows_of_one_kind_are_comparable() -> None:
    assert why_not_comparable(make_row(LATENCIES), make_row(LATENCIES)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "BERT4Rec"}, "another model (A SASRec, B BERT4Rec)"),
        ({"model_config": {"embedding_dim": 16}}, "another model_config.embedding_dim (A 8, B 16)"),
        ({"transforms": [{"transform": "quantize", "bits": 4}]}, "another transforms.0.bits (A 8, B 4)"),
        ({"transforms": []}, "another transforms (A [{'transform': 'quantize', 'bits': 8}], B [])"),
        ({"dataset": "large"}, "another dataset (A tiny, B large)"),
        ({"protocol": "tiny/valid"}, "another protocol (A tiny/test, B tiny/valid)"),
        ({"slo_ms": 20.0}, "another slo_ms (A None, B 20.0)"),
        ({"load": {"loop": "open"}}, "another load.loop (A closed, in the process of the system, B open)"),
        ({"environment": environment(cpu="another")}, "another environment.cpu (A a CPU, B another)"),
        (
            {"environment": environment(flags={"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_dump_to=a"})},
            "another number of threads (A not set, B --xla_cpu_multi_thread_eigen=false)",
        ),
        ({"environment": environment(flags={"OMP_NUM_THREADS": "1"})}, "another number of threads (A not set, B OMP_"),
        ({"valid": False, "invalid_reason": "it leaks"}, "B is invalid: it leaks"),
        ({"processes": 2}, "measured in 2 processes; 3 on each side tell their noise (benchmarks.run --processes=3)"),
        ({"processes": None}, "measured in 1 process; "),
    ],
)
def test_what_makes_rows_incomparable(changes: dict[str, Any], reason: str) -> None:
    found = why_not_comparable(make_row(LATENCIES), changed(**changes))
    assert found is not None
    assert found.startswith(reason)


def test_a_kind_of_device_and_several_reasons_are_told() -> None:
    other = changed(device={"platform": "gpu", "kind": "a GPU", "count": 1, "mesh": None})
    assert why_not_comparable(make_row(LATENCIES), other) == (
        "another device.platform (A cpu, B gpu); another device.kind (A a CPU, B a GPU)"
    )


def test_an_invalid_row_of_a_is_named() -> None:
    invalid = changed(valid=False, invalid_reason="it is late")
    assert why_not_comparable(invalid, make_row(LATENCIES)) == "A is invalid: it is late"


def test_a_searched_rate_has_no_interval() -> None:
    a = changed(scenario="server", target_qps=810.0, search={"failed_at_qps": 900.0})
    b = changed(scenario="server", target_qps=1200.0, search={"failed_at_qps": None})
    words = "a searched rate has no interval; B/A 1.481, A held 810, failed 900; B held 1,200, failed nowhere queries/s"
    assert why_not_comparable(a, b) == words
    assert why_not_comparable(a, a) is None


@pytest.mark.parametrize(
    ("search", "none_held"),
    [
        ({"confirmed": False, "held_processes": 0}, True),
        ({"confirmed": False, "held_processes": 1}, False),
        ({"confirmed": False, "held_processes": 0, "late_generator": "it fell behind"}, False),
        ({"confirmed": True, "held_processes": 3}, False),
        ({"confirmed": False, "confirmations": 1}, False),  # of before version 5
        (None, False),
    ],
)
def test_that_no_process_held_a_rate(search: dict[str, Any] | None, none_held: bool) -> None:
    row = changed(scenario="server", search=search)
    assert no_process_held(row) == none_held
    assert not (none_held and rate_held(row))


def test_numbers_of_the_load_and_what_one_side_does_not_know_of_forbid_nothing() -> None:
    other = changed(
        load={"windows": 3, "loop": "closed, in the process of the system", "queries": "1 a query"},
        model_config={"embedding_dim": 8, "head_dim": 4},
        environment=environment(versions={"jax": "0.12.1"}, ceilings={"bytes_per_s": 2e9}, load=0.5),
    )
    row = make_row(LATENCIES)
    assert why_not_comparable(row, other) is None
    assert other_differences([(row, other), (row, other)]) == [
        ("model_config.head_dim", "-", 4),
        ("versions.jax", "0.12.0", "0.12.1"),
    ]


def test_only_the_version_of_loadgens_verdict_forbids_a_comparison() -> None:
    def of_loadgen(**verdict: str) -> Any:
        known = {"version": "6.0", "result": "VALID", "early_stopping": "Processed at least 64 queries (80)."}
        load = (make_row(LATENCIES).load or {}) | {"verdict": known | verdict}
        return changed(load=load, scenario="single_stream")

    a = of_loadgen()
    assert why_not_comparable(a, of_loadgen(early_stopping="Processed at least 64 queries (97).")) is None
    assert why_not_comparable(a, of_loadgen(version="7.0")) == "another load.verdict.version (A 6.0, B 7.0)"


def test_another_experiment_is_told_once_and_forbids_nothing() -> None:
    a = [changed(environment=environment(command={"experiment_digest": digest})) for digest in ("a1", "a2")]
    b = [changed(environment=environment(command={"experiment_digest": digest})) for digest in ("b1", "b2")]
    assert why_not_comparable(a[0], b[0]) is None
    assert other_differences(zip(a, b, strict=True)) == [("command.experiment_digest", "a1", "b1")]
