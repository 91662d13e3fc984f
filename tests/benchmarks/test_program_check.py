"""The check that every quantized row passes, and programs that must fail it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.program_check import quantization_fault
from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.serving.compiled import CompiledModel, compile_final_model
from recjax.training.final_model import FinalModel
from recjax.training.pipeline import finalize
from recjax.transforms import bf16, compress_embeddings, low_rank, quantize
from recjax.transforms.paths import flatten


def model_of(transforms: Any, experiment: Experiment, labelled: LabelledData, params: Any) -> FinalModel:
    return finalize(dataclasses.replace(experiment, transforms=transforms), labelled, params)


@pytest.mark.parametrize(
    "transforms",
    [
        (quantize(),),
        (quantize(4),),
        (quantize("fp8"),),
        (quantize(when="after", weight_only=True),),
        (quantize(activations="static"),),
        (bf16(), quantize(backend="qwix")),
        (low_rank(budget=0.9), quantize()),
        (compress_embeddings("int4"), quantize(logits=True)),
        (),
    ],
)
def test_quantized_programs_pass(
    transforms: Any, dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    model, columns = model_of(transforms, dlrm_experiment, labelled, dlrm_params), labelled.serving_samples()
    for program in compile_final_model(model, columns, (1, 8), 1).programs.values():
        assert quantization_fault(model, program, columns) is None


def test_a_program_that_multiplies_floats_fails(int8_dlrm: FinalModel, labelled: LabelledData):
    columns = labelled.serving_samples()
    module = int8_dlrm.config.build(int8_dlrm.schema)

    def widened(variables: Any, batch: Any) -> Any:
        is_form = lambda x: isinstance(x, dict) and "values" in x  # noqa: E731
        floats = jax.tree.map(
            lambda form: form["values"] * form["scale"] if is_form(form) else form, variables["params"], is_leaf=is_form
        )
        return {"probability": jax.nn.sigmoid(module.apply({"params": floats}, batch))}

    program = CompiledModel(widened, int8_dlrm.variables, columns, (8,)).programs[8]
    fault = quantization_fault(int8_dlrm, program, columns)
    assert fault == "the program has 0 narrow products for 8 quantized kernels"


def test_a_program_that_reads_a_float_copy_fails(int8_dlrm: FinalModel, labelled: LabelledData):
    columns = labelled.serving_samples()
    copy = jnp.ones((13, 17))

    def served(variables: Any, batch: Any) -> Any:
        answer = int8_dlrm.serve({"params": variables["params"]}, batch, top_k=1)
        return {"probability": answer["probability"] + variables["copy"].sum()}

    program = CompiledModel(served, {**int8_dlrm.variables, "copy": copy}, columns, (8,)).programs[8]
    fault = quantization_fault(int8_dlrm, program, columns)
    assert fault == "the program reads f32[13,17] beside the stored variables and the request"


def test_a_kernel_that_is_still_stored_as_floats_fails(int8_dlrm: FinalModel, labelled: LabelledData):
    columns = labelled.serving_samples()
    program = compile_final_model(int8_dlrm, columns, (8,), 1).programs[8]
    kernel = flatten(int8_dlrm.variables["params"])["top_mlp/dense_0/kernel/values"].astype(jnp.float32)
    top = {**int8_dlrm.variables["params"]["top_mlp"], "dense_0": {"kernel": kernel}}
    floats = dataclasses.replace(int8_dlrm, variables={"params": {**int8_dlrm.variables["params"], "top_mlp": top}})
    fault = quantization_fault(floats, program, columns)
    assert fault == "top_mlp/dense_0/kernel should be quantized and is stored as floats"
