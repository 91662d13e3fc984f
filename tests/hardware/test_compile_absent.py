import json
import subprocess
import sys
from pathlib import Path

import pytest

from recjax.hardware import compile_absent
from recjax.hardware.compile_absent import Answer, Request, compile_in_child, compiler_error

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = str(CONFIGS / "logistic_regression_movielens_small.py")
DLRM = str(CONFIGS / "dlrm_dcnv2_movielens_small.py")


def request(**changes: object) -> Request:
    values = {"config": CONFIG, "overrides": (), "target": "v5e:2x2", "mesh": {"data": -1}, "program": "serve"}
    return Request(**{**values, **changes})  # type: ignore[arg-type]


def in_place_of_the_child(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every child run that code, which finds its request and answer as the real one does."""
    run = subprocess.run

    def other(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-c", code, *command[-2:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(compile_absent, "missing_compiler", lambda platform: None)
    monkeypatch.setattr(subprocess, "run", other)


def test_what_ends_the_compiler_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; print('F1128 07:00 Check failed: x', file=sys.stderr); sys.stderr.flush(); os.abort()"
    in_place_of_the_child(code, monkeypatch)
    answer = compile_in_child(request())
    assert answer == Answer(reason="the compiler ended its process: SIGABRT: F1128 07:00 Check failed: x")


def test_an_exception_that_nobody_foresaw_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_the_child("raise KeyError('lost')", monkeypatch)
    assert compile_in_child(request()).reason == "the compiler ended its process: exit code 1: KeyError: 'lost'"


def test_a_compiler_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_the_child("import time; time.sleep(60)", monkeypatch)
    assert compile_in_child(request(), timeout_s=0.3).reason == "compiling took more than 0.3 s and was ended"


def test_the_child_has_the_environment_of_its_target_and_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, os, sys\n"
        "seen = [os.environ.get(k) for k in ('JAX_PLATFORMS', 'TPU_SKIP_MDS_QUERY', 'JAX_COMPILATION_CACHE_DIR')]\n"
        "json.dump({'reason': repr(seen)}, open(sys.argv[2], 'w'))"
    )
    in_place_of_the_child(code, monkeypatch)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert compile_in_child(request()).reason == "['cpu', '1', None]"


def test_a_compiler_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_absent, "missing_compiler", lambda platform: f"no {platform} compiler")
    assert compile_in_child(request(target="h200:8")).reason == "no cuda compiler"


def test_a_compiler_that_has_too_little_memory_says_how_much() -> None:
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (762.94G) exceeds available HBM (15.75G). HLO module: jit_f.\nSee https://openxla.org"
    )
    answer = compiler_error(message)
    assert answer.reason == "needs 762.94 GiB of a device's memory, which has 15.75 GiB for a program"
    assert answer.needed_bytes == int(762.94 * (1 << 30))


def test_another_error_is_told_in_one_short_line() -> None:
    answer = compiler_error("INTERNAL: first\n  second " + "x" * 1000)
    assert answer.reason is not None
    assert answer.reason.startswith("INTERNAL: first second xxx")
    assert len(answer.reason) == 300
    assert answer.needed_bytes is None


@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "serve"])
@pytest.mark.parametrize("target", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "v7x:2x2x1"])
def test_a_tpu_compiler_compiles(target: str, program: str) -> None:
    check(compile_in_child(request(target=target, program=program)))


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5p:2x2x1", "v6e:2x2", "v7x:2x2x1"])
def test_a_step_with_tables_on_sparsecores_compiles(target: str) -> None:
    overrides = ("training.table_optimizer=rowwise_adagrad", "training.batch_size=64")
    answer = compile_in_child(request(config=DLRM, target=target, program="sparsecore", overrides=overrides))
    assert answer.reason is None
    assert answer.costs is not None
    assert (answer.costs["traffic_bytes"], answer.costs["collective_bytes"]) == (None, None)
    assert answer.costs["flops"]["float32"] > 0
    assert answer.costs["alias_bytes"] > 0  # tables are updated where they lie


@pytest.mark.sparsecore_library
@pytest.mark.tpu_compiler
@pytest.mark.slow
def test_a_chip_without_sparsecores_has_no_step_with_tables_on_them() -> None:
    overrides = ("training.table_optimizer=sgd",)
    answer = compile_in_child(request(config=DLRM, target="v5e:2x2", program="sparsecore", overrides=overrides))
    assert answer.reason is not None
    assert answer.reason == "TPU v5 lite has no SparseCore; plan --program=train there, or this on v5p, v6e or v7x"


@pytest.mark.gpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "serve"])
@pytest.mark.parametrize("target", ["a100-40gb:4", "a100-80gb:4", "h100:4", "h200:4", "b200:4"])
def test_a_gpu_compiler_compiles(target: str, program: str) -> None:
    check(compile_in_child(request(target=target, program=program)))


def check(answer: Answer) -> None:
    assert answer.reason is None
    assert answer.costs is not None
    assert answer.mesh in ({"data": 4, "model": 1}, {"data": 8, "model": 1})
    assert answer.costs["argument_bytes"] > 0
    assert answer.costs["traffic_bytes"] > 0
    json.dumps(answer.costs)


@pytest.mark.tpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 5}, "--batch-size is 5, which data=4 devices cannot share evenly"),
        ({"mesh": {"data": 3}}, "mesh data=3 does not make 4 devices; allowed: sizes that multiply to 4"),
        ({"target": "v5e:3x3"}, "the compiler does not know v5e:3x3: INVALID_ARGUMENT: Topology"),
    ],
)
def test_what_cannot_be_compiled_says_why(changes: dict, reason: str) -> None:
    answer = compile_in_child(request(**changes))
    assert answer.reason is not None
    assert answer.reason.startswith(reason)
    assert "\n" not in answer.reason
