"""Every model, in float32, bfloat16, int8, pruned and shrunk, lowers for CPU, CUDA and TPU.

Serving and the training step are exported with `jax.export` for all three platforms at once, which refuses a custom
call that is not stable. Nothing is left out silently: `INSTEAD` lists every model that cannot have a variant's own
transform, what it has instead, and the test asserts that the transform is refused, and why.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from portable_programs import (
    RECIPES,
    Program,
    experiments,
    final_model,
    serving_program,
    training_program,
)

from recjax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
WHY = {  # what the refusal of a variant's own transform says
    "bf16": "has no dtype",
    "int8": "has no dense layer beside those that give the answer",
    "pruned": "has no hidden layer",
    "shrunk": "has no hidden layer",
}
# Models without the variant's own transform -> the recipe that they have instead, None if there is none.
INSTEAD: dict[str, dict[str, str | None]] = {
    "popularity": {"bf16": None, "int8": None, "pruned": None, "shrunk": None},  # counts
    "item_knn": {"bf16": None, "int8": None, "pruned": None, "shrunk": None},  # a matrix of similarities
    "ease": {"bf16": "products", "pruned": "weights", "shrunk": None},  # one matrix, items by items
    "matrix_factorization": {"bf16": "tables", "int8": "tables", "pruned": "rows", "shrunk": None},
    "bpr": {"bf16": "tables", "int8": "tables", "pruned": "rows", "shrunk": None},
    "ials": {"bf16": "tables", "int8": "tables", "pruned": None, "shrunk": None},  # looks no row up by id
    "autorec_items": {"bf16": "products"},
    "autorec_users": {"bf16": "products"},
    "mult_vae": {"bf16": "products", "pruned": "weights", "shrunk": None},  # as configured: no hidden layer
    "mult_dae": {"bf16": "products"},
    "cdae": {"bf16": "products"},
    "cfgan": {"bf16": "products"},
    "irgan": {"bf16": "tables", "int8": "tables", "pruned": None, "shrunk": None},  # looks no row up by id
    "logistic_regression": {"bf16": None, "int8": "answer", "pruned": None, "shrunk": None},  # one layer, the answer
    "lstm_two_branch": {"bf16": "products"},
    "gru4rec": {"pruned": "weights", "shrunk": None},
    "hstu": {"pruned": "weights", "shrunk": "heads"},
    "two_tower": {"bf16": "products"},
    "lightgcn": {"bf16": "tables", "int8": "tables", "pruned": "rows", "shrunk": None},
    "social_lightgcn": {"bf16": "tables", "int8": "tables", "pruned": "rows", "shrunk": None},
    "cke": {"bf16": "tables", "int8": "tables", "pruned": "rows", "shrunk": None},
    "hstu_ranker": {"pruned": "weights", "shrunk": "heads"},
}
# Types that stand in the program of a variant or in what is stored (LightGCN serves from float32 vectors that it
# precomputed from its tables), and in neither of another variant.
TYPES = {"bf16": ("bf16>", "bfloat16"), "int8": ("i8>", "int8")}
# The models that the TPU's own compiler is asked about, with their serving and training programs.
COMPILED = ("sasrec", "hstu", "dlrm_dcnv2", "mult_vae")


def export(program: Program) -> jax.export.Exported:
    return jax.export.export(program.function, platforms=PLATFORMS)(*program.arguments)


def test_every_model_has_an_experiment():
    assert len(experiments()) == 30  # 29 models; AutoRec by users and by items
    assert set(INSTEAD) <= set(experiments())
    for name, instead in INSTEAD.items():
        for variant, recipe in instead.items():
            assert recipe in (None, *list(RECIPES[variant])[1:]), (name, variant)


def check_portable(name: str, variant: str) -> None:
    """Asserts that both programs lower for every platform, or that the model is refused as `INSTEAD` says."""
    recipes = RECIPES[variant]
    own = next(iter(recipes))
    recipe = INSTEAD.get(name, {}).get(variant, own)
    if recipe != own:
        with pytest.raises(UserError, match=WHY[variant]):
            final_model(name, recipes[own])
    if recipe is None:
        for other in list(recipes.values())[1:]:
            with pytest.raises(UserError):
                final_model(name, other)
        return
    model = final_model(name, recipes[recipe])
    serving, training = export(serving_program(name, model)), export(training_program(name, recipes[recipe]))
    assert serving.platforms == training.platforms == PLATFORMS
    served = serving.mlir_module()
    stored = " ".join(str(leaf.dtype) for leaf in jax.tree.leaves(model.variables["params"]))
    for of_variant, (in_program, in_store) in TYPES.items():
        assert (in_program in served or in_store in stored) == (variant == of_variant), of_variant
    if variant == "shrunk":
        assert model.parameter_bytes() < final_model(name, RECIPES["fp32"]["plain"]).parameter_bytes()


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("name", list(experiments()))
def test_programs_lower_for_every_platform(name: str, variant: str):
    check_portable(name, variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bf16", "pruned", "shrunk"])
@pytest.mark.parametrize("name", list(experiments()))
def test_other_programs_lower_for_every_platform(name: str, variant: str):
    check_portable(name, variant)


@pytest.mark.slow
@pytest.mark.tpu_compiler
@pytest.mark.parametrize("target", ["v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize("name", COMPILED)
def test_main_models_compile_for_a_tpu_that_is_not_there(name: str, target: str):
    script = Path(__file__).with_name("portable_programs.py")
    cases = [f"{name}:{variant}" for variant in ("fp32", "int8")]
    command = [sys.executable, str(script), target, *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["case"], line["program"]) for line in said] == [(c, p) for c in cases for p in ("serve", "train")]
    assert [line["error"] for line in said if "error" in line] == []
    for line in said:
        assert line["device"] == {"v5e:2x2": "TPU v5 lite", "v6e:2x2": "TPU v6 lite"}[target]
        assert line["flops"] > 0
        assert line["argument_bytes"] > 0
