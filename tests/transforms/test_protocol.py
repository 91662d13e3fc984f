import dataclasses
import json

import optax
import pytest

from recjax.config import to_dict
from recjax.errors import UserError
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.transforms.compress_embeddings import compress_embeddings
from recjax.transforms.low_rank import low_rank
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Chain, Mode, Stage, Transform, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

FULL = (prune(0.5), shrink(), bf16(), quantize())


@pytest.mark.parametrize(
    ("transforms", "label"),
    [
        ((), "fp32"),
        ((bf16(),), "bf16"),
        ((quantize(),), "int8"),
        ((quantize(backward_bits=8),), "int8 (int8 backward)"),
        ((prune(0.5),), "prune(0.5)"),
        ((prune(0.25, structure="element"),), "prune(0.25, element)"),
        (FULL, "prune(0.5) + shrink + bf16 + int8"),
        ((chain(prune(0.5), shrink()), quantize()), "prune(0.5) + shrink + int8"),
        ((shrink(0.5, heads=0.25, layers=1, distill=0.5),), "shrink(0.5, heads 0.25, layers 1, distill 0.5)"),
        ((prune(0.5), shrink(heads=0.5)), "prune(0.5) + shrink(heads 0.5)"),
    ],
)
def test_legal_chains_and_their_labels(transforms: tuple[Transform, ...], label: str):
    assert chain(*transforms).label == label


def test_chain_is_flat_and_equal_however_it_is_nested():
    assert chain(chain(FULL[0], FULL[1]), chain(FULL[2]), chain(), FULL[3]) == chain(*FULL)
    assert chain(*FULL).members == FULL


P, S, B, Q = prune(0.5), shrink(), bf16(), quantize()


@pytest.mark.parametrize(
    ("transforms", "wrong", "order"),
    [
        ((S, P), "prune(0.5) cannot follow shrink", "prune(0.5) -> shrink"),
        ((B, P), "prune(0.5) cannot follow bf16", "prune(0.5) -> bf16"),
        ((Q, P), "prune(0.5) cannot follow int8", "prune(0.5) -> int8"),
        ((P, B, S), "shrink cannot follow bf16", "prune(0.5) -> shrink -> bf16"),
        ((P, Q, S), "shrink cannot follow int8", "prune(0.5) -> shrink -> int8"),
        ((Q, B), "bf16 cannot follow int8", "bf16 -> int8"),
        ((Q, B, S, P), "bf16 cannot follow int8", "prune(0.5) -> shrink -> bf16 -> int8"),
        ((chain(Q), chain(P)), "prune(0.5) cannot follow int8", "prune(0.5) -> int8"),
    ],
)
def test_illegal_orders_name_the_pair_and_the_order_that_works(
    transforms: tuple[Transform, ...], wrong: str, order: str
):
    with pytest.raises(UserError) as error:
        chain(*transforms)
    assert str(error.value) == f"illegal chain: {wrong}; the order that works: {order}"


@pytest.mark.parametrize(
    ("transforms", "pair"),
    [
        ((P, P), ("prune(0.5)", "prune(0.5)")),
        ((P, S, S), ("shrink", "shrink")),
        ((B, B), ("bf16", "bf16")),
        ((Q, B, quantize(4)), ("int4", "int8")),
        (
            (
                compress_embeddings("hash"),
                low_rank(rank=2, when="start"),
                compress_embeddings("tensor_train"),
            ),
            ("tables(tensor_train rank 16)", "tables(hash 0.1)"),
        ),
    ],
)
def test_two_of_a_kind_are_refused_wherever_they_stand(transforms: tuple[Transform, ...], pair: tuple[str, str]):
    with pytest.raises(UserError) as error:
        chain(*transforms)
    expected = f"illegal chain: {pair[0]} cannot stand beside {pair[1]}: a chain holds one transform of that kind"
    assert str(error.value) == f"{expected}; leave one of them out"


@pytest.mark.parametrize("before", [(), (prune(0.5, structure="element"),)])
def test_shrink_without_emptied_units_is_refused(before: tuple[Transform, ...]):
    with pytest.raises(UserError, match=r"shrink\(\) removes hidden units that pruning emptied.*structure='unit'"):
        chain(*before, shrink(), quantize())


def test_an_order_is_recommended_only_if_it_works():
    with pytest.raises(UserError) as error:
        chain(shrink(), prune(0.5, structure="element"))
    assert "prune(0.5, element) -> shrink" not in str(error.value)  # which chain() refuses, too


def test_trains_and_dot_dtype_come_from_the_members():
    assert [chain(*t).trains for t in ((), (B,), (P,), (Q,), (B, Q))] == [False, False, True, True, True]
    dtypes = [chain(*t).dot_dtype for t in ((), (P,), (B,), (Q,), (B, Q), (P, S, B))]
    assert dtypes == ["float32", "float32", "bfloat16", "int8", "int8", "bfloat16"]


def test_support_is_the_weakest_word_but_shrink_redeems_masks():
    words = [chain(*t).support("tpu:v6e") for t in ((), (Q,), (P,), (P, Q), (P, S), (P, S, B, Q))]
    assert words == ["native", "native", "emulated", "emulated", "native", "native"]


def test_settled_step_is_the_last_members():
    assert chain().settled_step(100) == 0
    assert chain(prune(0.5, end=0.5, update_every=10), Q).settled_step(100) == P.settled_step(100) == 51


def test_json_names_each_transform_and_all_its_values():
    members = [member.to_json() for member in chain(prune(0.25, end=0.75), shrink(), bf16(), quantize()).members]
    assert json.loads(json.dumps(members)) == members
    assert members == [
        {
            "transform": "prune",
            "sparsity": 0.25,
            "structure": "unit",
            "scope": "layer",
            "criterion": "magnitude",
            "schedule": "cubic",
            "begin": 0.0,
            "end": 0.75,
            "update_every": 10,
            "power": 3,
            "include": [".*"],
            "exclude": [],
            "logits": False,
            "seed": 0,
        },
        {"transform": "shrink", **to_dict(shrink())},
        {"transform": "bf16"},
        {"transform": "quantize", **to_dict(quantize())},
    ]


def test_empty_chain_changes_nothing():
    config = DLRMDCNv2Config()
    empty = chain()
    assert empty.rewrite(config) is config
    assert empty.intercept(config, Mode.SERVE) is config
    updates = {"w": 1.0}
    gradient = empty.gradient(config, 10)
    assert isinstance(gradient, optax.GradientTransformation)
    assert gradient.update(updates, gradient.init(updates), updates)[0] == updates


def test_transforms_are_frozen_and_comparable():
    assert prune(0.5) == prune(0.5)
    assert prune(0.5) != prune(0.25)
    assert hash(chain(*FULL)) == hash(chain(*FULL))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prune(0.5).sparsity = 0.1


def test_stages_follow_the_order_of_the_chain():
    assert [member.stage for member in FULL] == [Stage.MASKS, Stage.SHRINK, Stage.PRECISION, Stage.FREEZE]
    assert isinstance(chain(), Chain)
