import dataclasses
import inspect
import json
from typing import Any

import pytest

import recjax.transforms
from recjax.errors import UserError
from recjax.models.sasrec import SASRecConfig
from recjax.transforms.compress_embeddings import compress_embeddings
from recjax.transforms.distill import distill
from recjax.transforms.low_rank import low_rank
from recjax.transforms.mixed_precision import mixed_precision
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Chain, Transform, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.serialised import KNOWN, from_json
from recjax.transforms.shrink import shrink
from recjax.transforms.sparse_layout import sparse_layout

CHAINS = (
    chain(),
    chain(bf16()),
    chain(prune(0.5, begin=0.0, end=1.0), shrink(finetune_epochs=0, multiple_of=1)),
    chain(
        prune(0.25, structure="element", update_every=3, schedule="polynomial", power=1),
        sparse_layout(min_sparsity=0.2, exclude=("logit",)),
    ),
    chain(low_rank(rank=4)),
    chain(low_rank(energy=0.9, finetune_epochs=2)),
    chain(low_rank(budget=0.5, when="start", include=("top_mlp/.*", "logit"), exclude=(), logits=True, states=True)),
    chain(mixed_precision("float16", policy=((".*/dense_0", "float32"), ("logit", "bfloat16")), loss_scale=1024)),
    chain(mixed_precision(loss_scale=None)),
    chain(compress_embeddings("int8", tables=("items", "table_.*"), through_training=True)),
    chain(compress_embeddings("hash", ratio=0.2, min_rows=5), compress_embeddings("prune_rows", share=0.25)),
    chain(compress_embeddings("mixed_dimension", blocks=3, alpha=1.0)),
    chain(distill(mlp_dims=(32, 16), dtype="bfloat16", dropout_rate=0.5, weight=1.0, temperature=4.0)),
    chain(quantize(8)),
    chain(quantize("fp8", backward_bits="fp8", stochastic_rounding=False, backend="qwix")),
    chain(
        quantize(
            4,
            activation_bits=8,
            activations="static",
            calibration_batches=2,
            when="after",
            layer_bits=(("logit", 8), ("cross/.*", 4)),
            exclude=("bottom_mlp/.*",),
            logits=True,
            products=True,
            states=True,
        )
    ),
    chain(prune(0.5), shrink(), low_rank(rank=2), bf16(), compress_embeddings("int4"), quantize(8, per_tensor=True)),
)


@pytest.mark.parametrize("original", CHAINS, ids=lambda original: original.label)
def test_a_chain_survives_json(original: Chain):
    text = json.dumps([member.to_json() for member in original.members])
    assert from_json(json.loads(text)) == original
    assert hash(from_json(json.loads(text))) == hash(original)  # no list is left in it


def test_a_student_is_rebuilt_with_tuples():
    rebuilt = from_json(json.loads(json.dumps([distill(mlp_dims=(32,)).to_json()])))
    assert rebuilt.rewrite(SASRecConfig()).mlp_dims == (32,)


def test_fields_that_are_left_out_have_their_defaults():
    assert from_json([{"transform": "prune", "sparsity": 0.5}, {"transform": "shrink"}]) == chain(prune(0.5), shrink())


def test_every_public_transform_is_known():
    made = [getattr(recjax.transforms, name) for name in recjax.transforms.__all__]
    made = [function for function in made if function not in (chain, recjax.transforms.explain, from_json)]
    classes = {
        function if inspect.isclass(function) else inspect.signature(function).return_annotation for function in made
    }
    assert set(KNOWN.values()) == classes
    assert all(issubclass(cls, Transform) for cls in classes)
    in_chains = {type(member): member for original in CHAINS for member in original.members}
    assert {member.to_json()["transform"]: cls for cls, member in in_chains.items()} == KNOWN


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"transform": "prunes", "sparsity": 0.5}], "unknown transform 'prunes'.*did you mean 'prune'"),
        ([{"transform": "chain", "members": []}], "unknown transform 'chain'"),
        (
            [{"transform": "prune", "sparsty": 0.5, "sparsity": 0.5}],
            "unknown Prune key 'sparsty'.*did you mean 'sparsity'",
        ),
        ([{"transform": "prune"}], r"prune sparsity is None; allowed: \(0, 1\)"),
        ([{"transform": "prune", "sparsity": "much"}], "Prune: Input should be a valid number"),
        ([{"transform": "prune", "sparsity": 2.0}], r"prune sparsity is 2.0; allowed: \(0, 1\)"),
        ([{"transform": "prune", "sparsity": 0.5, "structure": "units"}], "structure|Input should be"),
        ([{"transform": "quantize", "layer_bits": [["logit"]]}], "Quantize: Field required"),
        ([{"sparsity": 0.5}], "is no transform; it is a dict with its name at 'transform'"),
        (["bf16"], "'bf16' is no transform"),
        ([{"transform": ["bf16"]}], "is no transform"),
        ({"transform": "bf16"}, "allowed: a list of what to_json gives"),
        ([{"transform": "quantize"}, {"transform": "bf16"}], "illegal chain: bf16 cannot follow int8"),
    ],
)
def test_what_is_no_chain_is_one_line(values: Any, message: str):
    with pytest.raises(UserError, match=message) as error:
        from_json(values)
    assert "\n" not in str(error.value)


def test_defaults_of_every_class_are_plain_values():
    for cls in KNOWN.values():
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            assert field.default is dataclasses.MISSING or from_text(field.default) == field.default


def from_text(value: Any) -> Any:
    decoded = json.loads(json.dumps(value))
    return tuple(decoded) if isinstance(decoded, list) else decoded
