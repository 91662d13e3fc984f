from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.timing import CompileCounter
from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.serving.compiled import CompiledModel, compile_final_model
from recjax.training.final_model import FinalModel
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize

BUCKETS = (1, 4, 8)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((11, 5)).astype(np.float32), "ids": rng.integers(0, 7, 11).astype(np.int32)}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "kernel": rng.standard_normal((5, 3)).astype(np.float32),
        "table": rng.standard_normal((7, 3)).astype(np.float32),
    }


def answer(variables: Any, batch: Any) -> dict[str, jax.Array]:
    mixed = jnp.tanh(batch["x"] @ variables["kernel"]) + variables["table"][batch["ids"]]
    return {"mixed": mixed, "best": jnp.argmax(mixed, axis=-1)}


@pytest.fixture(scope="module")
def compiled(columns: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> CompiledModel:
    return CompiledModel(answer, weights, columns, BUCKETS)


@pytest.fixture(scope="module")
def served_int8(int8_sasrec: FinalModel, next_item: NextItemData) -> CompiledModel:
    return compile_final_model(int8_sasrec, next_item.serving_samples(), BUCKETS, top_k=4)


@pytest.fixture(scope="module")
def compilations() -> CompileCounter:
    return CompileCounter()


@pytest.mark.parametrize(("n", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 8), (8, 8)])
def test_bucket_is_the_smallest_that_holds_the_requests(compiled: CompiledModel, n: int, bucket: int) -> None:
    assert compiled.bucket_of(n) == bucket


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8])
def test_answers_are_those_of_numpy_and_in_order(
    compiled: CompiledModel, columns: dict[str, np.ndarray], weights: dict[str, np.ndarray], n: int
) -> None:
    rows = np.random.default_rng(n).permutation(11)[:n]
    outputs = compiled(columns, rows)
    expected = np.tanh(columns["x"][rows] @ weights["kernel"]) + weights["table"][columns["ids"][rows]]
    np.testing.assert_allclose(outputs["mixed"], expected, atol=1e-5)
    np.testing.assert_array_equal(outputs["best"], expected.argmax(axis=-1))


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_padding_changes_no_answer(compiled: CompiledModel, columns: dict[str, np.ndarray], n: int) -> None:
    rows = np.arange(n)
    together = compiled(columns, rows)
    alone = [compiled(columns, rows[i : i + 1]) for i in range(n)]
    np.testing.assert_allclose(together["mixed"], np.concatenate([one["mixed"] for one in alone]), atol=1e-6)
    np.testing.assert_array_equal(together["best"], np.concatenate([one["best"] for one in alone]))


def test_the_same_row_may_be_asked_for_twice(compiled: CompiledModel, columns: dict[str, np.ndarray]) -> None:
    outputs = compiled(columns, np.array([3, 3, 9]))["mixed"]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_allclose(outputs[2], compiled(columns, np.array([9]))["mixed"][0], atol=1e-6)


def test_outputs_are_numpy_arrays_of_the_requests_alone(
    compiled: CompiledModel, columns: dict[str, np.ndarray]
) -> None:
    outputs = compiled(columns, np.arange(3))
    assert {name: type(value) for name, value in outputs.items()} == {"mixed": np.ndarray, "best": np.ndarray}
    assert (outputs["mixed"].shape, outputs["best"].shape) == ((3, 3), (3,))


def test_more_requests_than_the_largest_bucket_are_refused(
    compiled: CompiledModel, columns: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UserError, match="9 requests in one call; allowed: at most the largest bucket, 8"):
        compiled(columns, np.arange(9))


def test_answering_compiles_nothing(
    compilations: CompileCounter, compiled: CompiledModel, columns: dict[str, np.ndarray]
) -> None:
    before = compilations.count
    for n in range(1, 9):
        compiled(columns, np.arange(n))
    assert compilations.count == before


def test_the_counter_sees_a_compilation_and_not_a_second_call(compilations: CompileCounter) -> None:
    function, x = jax.jit(lambda x: x * 3 + 1), np.arange(13)
    before = compilations.count
    function(x)
    assert compilations.count == before + 1
    function(x)
    assert compilations.count == before + 1


def test_every_bucket_is_one_compilation(compilations: CompileCounter, columns: dict[str, np.ndarray]) -> None:
    before = compilations.count
    CompiledModel(lambda variables, batch: {"y": batch["x"] + variables}, np.float32(2), columns, (2, 3, 6))
    assert compilations.count == before + 3


def test_a_programs_figures_by_hand() -> None:
    requests = {"x": np.ones((2, 16), np.float32)}
    model = CompiledModel(lambda kernel, batch: {"y": batch["x"] @ kernel}, np.ones((16, 8), "f4"), requests, (1, 32))
    for size, program in model.programs.items():
        assert program.batch_size == size
        assert program.flops == 2 * size * 16 * 8  # a multiply-add counts two
        touched = 4 * (size * 16 + 16 * 8 + size * 8)  # float32: requests, kernel, answers
        assert program.memory_bytes is not None
        assert program.memory_bytes >= touched
        assert program.bytes_accessed is not None
        assert program.bytes_accessed >= touched
        assert 0 < program.compile_s < 60


def uncompiled(model: FinalModel, columns: Mapping[str, np.ndarray], rows: np.ndarray, top_k: int) -> Any:
    batch = {name: jnp.asarray(column[rows]) for name, column in columns.items()}
    return model.serve(model.variables, batch, top_k=top_k)


def test_a_served_model_answers_as_the_uncompiled_one(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
) -> None:
    model = finalize(sasrec_experiment, next_item, trained_sasrec.params)
    columns, rows = next_item.serving_samples(), np.array([7, 2, 11, 5, 0])
    outputs = compile_final_model(model, columns, (8,), top_k=4)(columns, rows)
    expected = uncompiled(model, columns, rows, 4)
    assert set(outputs) == set(expected)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_served_models_padding_changes_no_answer(served_int8: CompiledModel, next_item: NextItemData) -> None:
    columns = next_item.serving_samples()
    alone = [served_int8(columns, np.array([row])) for row in range(5)]
    together = served_int8(columns, np.arange(5))
    for name, value in together.items():
        np.testing.assert_allclose(value, np.concatenate([one[name] for one in alone]), atol=1e-5, err_msg=name)


def test_a_served_binary_model_pads_too(int8_dlrm: FinalModel, labelled: LabelledData) -> None:
    columns = labelled.serving_samples()
    served = compile_final_model(int8_dlrm, columns, (3, 8), top_k=1)
    (exact,), (padded,) = (served(columns, np.arange(n)).values() for n in (3, 5))
    assert np.all((exact > 0) & (exact < 1))
    np.testing.assert_allclose(padded[:3], exact, atol=1e-6)


def test_a_served_binary_model_answers_as_the_uncompiled_one(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
) -> None:
    model = finalize(dlrm_experiment, labelled, dlrm_params)
    columns, rows = labelled.serving_samples(), np.array([4, 1, 3])
    outputs = compile_final_model(model, columns, (4,), top_k=1)(columns, rows)
    expected = uncompiled(model, columns, rows, 1)
    assert set(outputs) == set(expected) == {"probability"}
    np.testing.assert_allclose(outputs["probability"], expected["probability"], atol=1e-6)
