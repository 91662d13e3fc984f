import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.errors import UserError
from recjax.evaluation import Quality
from recjax.nn.dots import FLOAT, SPARSE_ROUTINE, multiply
from recjax.serving.compiled import compile_final_model
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.pipeline import finalize, train
from recjax.transforms.paths import flatten, set_path
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink
from recjax.transforms.sparse_layout import compressed, sparse_layout

MASKS = prune(0.75, structure="element")
SPARSE = ("bottom_mlp/dense_0", "cross/down_1", "top_mlp/dense_0")  # of which three quarters are zeros below


def with_transforms(experiment: Experiment, *transforms: Any) -> Experiment:
    return dataclasses.replace(experiment, transforms=transforms)


def n_calls(function: Callable, *arguments: Any) -> int:
    """Returns how often the compiled program calls the sparse routine."""
    return jax.jit(function).lower(*arguments).compile().as_text().count(f'custom_call_target="{SPARSE_ROUTINE}"')


@pytest.fixture(scope="module")
def pruned_params(dlrm_params: Any) -> Any:
    """Returns parameters of which some kernels have three quarters of zeros."""
    params = dlrm_params
    for path in SPARSE:
        kernel = np.array(flatten(params)[f"{path}/kernel"])
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.75)] = 0
        params = set_path(params, f"{path}/kernel", jnp.asarray(kernel))
    return params


@pytest.fixture(scope="module")
def sparse_dlrm(dlrm_experiment: Experiment, labelled: LabelledData, pruned_params: Any) -> FinalModel:
    experiment = with_transforms(dlrm_experiment, MASKS, sparse_layout(min_sparsity=0.7))
    return finalize(experiment, labelled, pruned_params)


def test_compressed_rows_by_hand():
    kernel_IO = np.array([[0, 1, 0], [2, 0, 0], [3, 4, 0]], np.float32)  # its transpose: [0 2 3], [1 0 4], [0 0 0]
    form = compressed(kernel_IO)
    np.testing.assert_array_equal(form["data"], [2, 3, 1, 4])
    np.testing.assert_array_equal(form["indices"], [1, 2, 0, 2])
    np.testing.assert_array_equal(form["indptr"], [0, 2, 4, 4])
    assert form["indices"].dtype == form["indptr"].dtype == jnp.int32


@pytest.mark.parametrize("kernel_IO", [np.zeros((3, 4), np.float32), np.eye(5, dtype=np.float32)[:, :1]])
def test_products_of_kernels_of_zeros_or_one_output(kernel_IO: np.ndarray):
    x = jnp.arange(2.0 * len(kernel_IO)).reshape(2, -1)
    form = compressed(kernel_IO)
    assert min(part.size for part in form.values()) > 0  # what checkpoints ask of an array
    np.testing.assert_array_equal(multiply(FLOAT, x, form, "layer"), x @ kernel_IO)


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_agree_with_dense_ones_and_run_in_the_routine(batch: tuple[int, ...], dtype: str):
    rng = np.random.default_rng(0)
    kernel_IO = (rng.normal(size=(12, 20)) * (rng.random((12, 20)) < 0.3)).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(*batch, 12)), dtype)

    def product(x: Any, form: Any) -> Any:
        return multiply(FLOAT, x, form, "layer")

    form = compressed(kernel_IO)
    y = jax.jit(product)(x, form)
    assert y.dtype == x.dtype
    tolerance = 1e-5 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(
        y.astype(jnp.float32), np.asarray(x, np.float32) @ kernel_IO, rtol=tolerance, atol=tolerance
    )
    assert n_calls(product, x, form) == 1
    compiled = jax.jit(product).lower(x, form).compile().as_text()
    assert not re.search(r"= \S+ (dot|scatter|gather)\(", compiled)  # no dense kernel is made of it


def test_compiled_model_calls_the_routine_once_a_sparse_kernel(
    sparse_dlrm: FinalModel, labelled: LabelledData, dlrm_experiment: Experiment, pruned_params: Any
):
    batch = next(labelled.eval_batches("valid", 16))
    assert n_calls(sparse_dlrm.score, sparse_dlrm.variables, batch) == len(SPARSE)
    dense = finalize(dlrm_experiment, labelled, pruned_params)
    assert n_calls(dense.score, dense.variables, batch) == 0
    scores = jax.jit(sparse_dlrm.score)(sparse_dlrm.variables, batch)
    np.testing.assert_allclose(scores, jax.jit(dense.score)(dense.variables, batch), rtol=1e-5, atol=1e-5)


def test_report_has_the_zeros_and_bytes_of_every_layer(sparse_dlrm: FinalModel, pruned_params: Any):
    details = sparse_dlrm.report.details["sparse_layout(0.7)"]
    assert details["layers"].keys() == set(SPARSE)
    flat, stored = flatten(pruned_params), flatten(sparse_dlrm.variables["params"])
    for path, of_layer in details["layers"].items():
        kernel = np.asarray(flat[f"{path}/kernel"])
        n_kept, n_outputs = np.count_nonzero(kernel), kernel.shape[1]
        assert of_layer["zeros"] == pytest.approx(1 - n_kept / kernel.size, abs=1e-4)
        assert of_layer["bytes"] == [4 * kernel.size, 8 * n_kept + 4 * (n_outputs + 1)]
        assert f"{path}/kernel" not in stored
    assert details["left_dense"]["top_mlp/dense_1"] == 0
    assert "logit" in details["left_dense"]


def test_a_sparse_model_is_stored_and_loaded(
    sparse_dlrm: FinalModel, dlrm_experiment: Experiment, labelled: LabelledData, tmp_path: Path
):
    experiment = with_transforms(dlrm_experiment, MASKS, sparse_layout(min_sparsity=0.7))
    sparse_dlrm.save(tmp_path / "model", experiment, Quality("p", {}, 1, {}))
    loaded = load_final_model(tmp_path / "model", experiment, labelled)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, sparse_dlrm.variables)


def test_a_served_program_claims_no_count_of_operations(sparse_dlrm: FinalModel, labelled: LabelledData):
    compiled = compile_final_model(sparse_dlrm, labelled.serving_samples(), (2,), 1)
    assert (compiled.programs[2].flops, compiled.programs[2].bytes_accessed) == (None, None)


def test_a_training_with_masks_ends_in_sparse_kernels(dlrm_experiment: Experiment, labelled: LabelledData):
    experiment = with_transforms(
        dlrm_experiment, prune(0.75, structure="element", update_every=1), bf16(), sparse_layout(min_sparsity=0.7)
    )
    model = finalize(experiment, labelled, train(experiment, labelled).params)
    layers = model.report.details["sparse_layout(0.7)"]["layers"]
    assert {"top_mlp/dense_0", "top_mlp/dense_1"} <= layers.keys()
    stored = flatten(model.variables["params"])
    assert stored["top_mlp/dense_0/kernel/data"].dtype == jnp.float32  # rounded to bfloat16 before
    batch = next(labelled.eval_batches("valid", 16))
    assert n_calls(model.score, model.variables, batch) == len(layers)


def test_without_enough_zeros_the_error_names_the_most_and_a_remedy(
    dlrm_experiment: Experiment, labelled: LabelledData, pruned_params: Any
):
    experiment = with_transforms(dlrm_experiment, MASKS, sparse_layout(min_sparsity=0.95))
    with pytest.raises(
        UserError, match=r"sparse_layout\(0.95\) found no kernel .* has the most, 0.7.*; lower min_sparsity, or prune"
    ):
        finalize(experiment, labelled, pruned_params)
    patterned = with_transforms(dlrm_experiment, MASKS, sparse_layout(include=("mlp",)))
    with pytest.raises(UserError, match="sparse_layout pattern 'mlp' matches no layer of DLRMDCNv2Config; its layers"):
        finalize(patterned, labelled, pruned_params)


def test_devices_without_a_routine_are_refused(
    dlrm_experiment: Experiment, labelled: LabelledData, monkeypatch: pytest.MonkeyPatch
):
    words = [chain(MASKS, sparse_layout()).support(platform) for platform in ("cpu", "cuda:9.0", "tpu:v6e")]
    assert words == ["native", "none", "none"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"sparse_layout\(0.8\) has no routine on 'gpu'.*; run with --device=cpu"):
        train(
            with_transforms(dlrm_experiment, MASKS, sparse_layout()),
            labelled,
            on_epoch=lambda *_: pytest.fail("training must not begin"),
        )


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ((sparse_layout(),), r"stores what pruning of single weights left, and there is none; write chain\(prune\(0.9"),
        ((prune(0.5), shrink(), sparse_layout()), r"stores what pruning of single weights left"),
        ((sparse_layout(), MASKS), r"prune\(0.75, element\) cannot follow sparse_layout\(0.8\); the order that works"),
        ((MASKS, sparse_layout(), quantize()), r"sparse_layout\(0.8\) and int8 both store kernels in their own"),
        ((MASKS, quantize(), sparse_layout()), r"sparse_layout\(0.8\) and int8 both store kernels in their own"),
        ((MASKS, sparse_layout(), sparse_layout()), r"sparse_layout\(0.8\) cannot stand beside sparse_layout\(0.8\)"),
    ],
)
def test_chains_without_single_masks_or_with_other_frozen_kernels_are_refused(transforms: Any, message: str):
    with pytest.raises(UserError, match=message) as error:
        chain(*transforms)
    assert str(error.value).startswith("illegal chain: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"min_sparsity": 0.0}, {"min_sparsity": 1.0}, {"include": ("(",)}, {"sparsity": 0.5}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]):
    with pytest.raises(UserError, match=r"sparse_layout|SparseLayout"):
        sparse_layout(**options)
