import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.training.final_model import FinalModel
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize
from recjax.transforms.paths import flatten
from recjax.transforms.precision import bf16


@pytest.fixture(scope="module")
def bf16_dlrm(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any) -> FinalModel:
    return finalize(dataclasses.replace(dlrm_experiment, transforms=(bf16(),)), labelled, dlrm_params)


@pytest.fixture(scope="module")
def bf16_sasrec(sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult) -> FinalModel:
    return finalize(dataclasses.replace(sasrec_experiment, transforms=(bf16(),)), next_item, trained_sasrec.params)


def test_rewrite_changes_the_computation_type_alone(dlrm_experiment: Experiment):
    rewritten = bf16().rewrite(dlrm_experiment.model)
    assert rewritten == dataclasses.replace(dlrm_experiment.model, dtype="bfloat16")


def test_every_parameter_is_stored_rounded_to_bfloat16(bf16_dlrm: FinalModel, dlrm_params: Any):
    stored, original = flatten(bf16_dlrm.variables["params"]), flatten(dlrm_params)
    assert stored.keys() == original.keys()
    for path, leaf in stored.items():
        assert leaf.dtype == jnp.bfloat16
        # 8 bits of significand: half a unit in the last place is at most 2^-8 of the value.
        np.testing.assert_allclose(leaf.astype(jnp.float32), original[path], rtol=2**-8)
    assert bf16_dlrm.parameter_bytes() == 2 * sum(leaf.size for leaf in original.values())
    assert bf16_dlrm.report.details == {"bf16": {"stored_dtype": "bfloat16"}}


def test_dlrm_logits_are_float32_and_close(
    bf16_dlrm: FinalModel, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    batch = next(labelled.eval_batches("valid", 32))
    expected = jax.jit(dlrm_experiment.model.build(labelled.schema).apply)({"params": dlrm_params}, batch)
    scores = jax.jit(bf16_dlrm.score)(bf16_dlrm.variables, batch)
    assert scores.dtype == jnp.float32
    # Seven layers in a row, each rounded to 8 bits.
    np.testing.assert_allclose(scores, expected, atol=7 * 2**-8 * np.abs(expected).max())
    assert (scores != expected).any()


def test_sasrec_scores_are_float32_and_close(
    bf16_sasrec: FinalModel, sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    batch = next(next_item.eval_batches("valid", 16))
    expected = jax.jit(sasrec_experiment.model.build(next_item.schema).apply)({"params": trained_sasrec.params}, batch)
    scores = jax.jit(bf16_sasrec.score)(bf16_sasrec.variables, batch)
    assert scores.dtype == jnp.float32
    # About ten roundings to 8 bits in a row.
    np.testing.assert_allclose(scores, expected, atol=10 * 2**-8 * np.abs(expected).max())


def test_dots_run_in_bfloat16_and_the_catalogue_sums_in_float32(bf16_sasrec: FinalModel, next_item: NextItemData):
    batch = next(next_item.eval_batches("valid", 4))
    dots = [
        line
        for line in jax.jit(bf16_sasrec.score).lower(bf16_sasrec.variables, batch).as_text().splitlines()
        if "stablehlo.dot_general" in line
    ]
    assert all(line.count("xbf16>") >= 2 for line in dots)
    V = next_item.schema.n_items
    catalogue = [line for line in dots if f"-> tensor<4x{V}xf32>" in line]
    assert len(catalogue) == 1


def test_a_model_without_a_computation_type_is_refused_by_name():
    with pytest.raises(UserError, match="bf16"):
        bf16().rewrite(LogisticRegressionConfig())
