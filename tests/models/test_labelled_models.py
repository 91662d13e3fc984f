"""Wide & Deep, DeepFM, DLRM and DIN against plain NumPy, one example and one bag at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, check_padding_rows, compiled
from random_variables import random_variables

from recjax.config import Experiment
from recjax.data.batches import PADDING_ID
from recjax.data.features import Field, LabelledSchema
from recjax.data.labelled import LabelledData
from recjax.errors import UserError
from recjax.models.deepfm import DeepFMConfig
from recjax.models.din import DINConfig
from recjax.models.dlrm import DLRMConfig
from recjax.models.wide_and_deep import WideAndDeepConfig
from recjax.training.pipeline import load_data, train
from recjax.transforms.paths import flatten

B, N, D = 4, 3, 4
P = PADDING_ID
FIELDS = (
    Field("user", 6),
    Field("item", 7),
    Field("tags", 5, length=3),
    Field("sizes", 4, length=2, combiner="sum"),
    Field("history", 7, length=3),
)
SCHEMA = LabelledSchema(n_dense=N, fields=FIELDS)
RATES = {"dropout_rate": 0.3, "embedding_dropout_rate": 0.2}
CONFIGS = {
    "wide_and_deep": WideAndDeepConfig(embedding_dim=D, deep_mlp=(8, 5), **RATES),
    "deepfm": DeepFMConfig(embedding_dim=D, deep_mlp=(8, 5), **RATES),
    "dlrm": DLRMConfig(embedding_dim=D, bottom_mlp=(6,), top_mlp=(8, 5), **RATES),
    "din": DINConfig(embedding_dim=D, attention_mlp=(6, 3), top_mlp=(8, 5), **RATES),
}
IDS = [
    [0, 1, 4, P, 3, P, 2, 6, 1, P],
    [5, 2, 2, 2, 0, 1, 0, P, P, P],
    [3, 6, P, P, P, P, P, 0, 3, 5],
    [1, 0, P, P, 2, 2, 3, 4, P, P],
]


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    columns = {
        "dense": rng.standard_normal((B, N)).astype(np.float32),
        "sparse_ids": np.array(IDS, np.int32),
        "labels": np.array([1, 0, 0, 1], np.float32),
        "weight": np.ones(B, np.float32),
    }
    return {name: jnp.asarray(column) for name, column in columns.items()}


@pytest.fixture(scope="module")
def variables(batch: dict[str, jax.Array]) -> dict[str, Any]:
    return {name: random_variables(config.build(SCHEMA), batch) for name, config in CONFIGS.items()}


def dense(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"] + layer.get("bias", 0)


def mlp(layers: Any, x: np.ndarray) -> np.ndarray:
    """Returns what dense layers make of x, each with a ReLU, or with the PReLU that stands beside it."""
    for index in range(sum(name.startswith("dense") for name in layers)):
        x = dense(layers[f"dense_{index}"], x)
        x = np.where(x >= 0, x, layers.get(f"prelu_{index}", {}).get("negative_slope", 0) * x)
    return x


def bags(tables: Any, prefix: str, row: int, fields: tuple[Field, ...] = FIELDS) -> list[np.ndarray]:
    """Returns the combined vector of each field of one example."""
    vectors, start = [], 0
    for field in FIELDS:
        bag = np.array(IDS[row][start : start + field.length])
        start += field.length
        if field in fields:
            table = tables[f"{prefix}_{field.name}"]["table"]
            used = table[bag[bag != P]]
            whole = used.sum(0) if field.combiner == "sum" else used.sum(0) / max(len(used), 1)
            vectors.append(whole if len(used) else np.zeros(table.shape[1], np.float32))
    return vectors


def wide_and_deep(p: Any, x: np.ndarray, row: int) -> float:
    wide = sum(bags(p["wide"], "weight", row)) + dense(p["wide_dense"], x)
    deep = mlp(p["deep_mlp"], np.concatenate([x, *bags(p["fields"], "table", row)]))
    return (wide + dense(p["logit"], deep))[0]


def deepfm(p: Any, x: np.ndarray, row: int) -> float:
    first = sum(bags(p["first_order"], "weight", row)) + dense(p["first_order_dense"], x)
    vectors = bags(p["fields"], "table", row) + [
        value * vector for value, vector in zip(x, p["dense_vectors"], strict=True)
    ]
    second = sum(vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i))
    return (first + second + dense(p["logit"], mlp(p["deep_mlp"], np.concatenate(vectors))))[0]


def dlrm(p: Any, x: np.ndarray, row: int) -> float:
    bottom = mlp(p["bottom_mlp"], x)
    vectors = [bottom, *bags(p["fields"], "table", row)]
    dots = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)]
    return dense(p["logit"], mlp(p["top_mlp"], np.concatenate([bottom, dots])))[0]


def din(p: Any, x: np.ndarray, row: int) -> float:
    items = p["table_item"]["table"]
    candidate, interest = items[IDS[row][1]], np.zeros(D, np.float32)
    for item in IDS[row][7:]:
        if item != P:
            pair = np.concatenate([candidate, items[item], candidate - items[item], candidate * items[item]])
            interest = interest + dense(p["attention"], mlp(p["attention_mlp"], pair)) * items[item]
    others = bags(p, "table", row, (FIELDS[0], FIELDS[2], FIELDS[3]))
    return dense(p["logit"], mlp(p["top_mlp"], np.concatenate([x, candidate, interest, *others])))[0]


REFERENCES = {"wide_and_deep": wide_and_deep, "deepfm": deepfm, "dlrm": dlrm, "din": din}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree_with_numpy(name: str, variables: dict[str, Any], batch: dict[str, jax.Array]):
    params = jax.tree.map(np.asarray, variables[name]["params"])
    dense_features = np.asarray(batch["dense"])
    expected = [REFERENCES[name](params, dense_features[row], row) for row in range(B)]
    actual = CONFIGS[name].build(SCHEMA).apply(variables[name], batch)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_slopes_of_negative_values_are_learned_by_din_alone(name: str, variables: dict[str, Any]):
    slopes = [path for path in flatten(variables[name]["params"]) if path.endswith("/negative_slope")]
    parts = ("attention_mlp", "top_mlp") if name == "din" else ()
    assert slopes == [f"{part}/prelu_{index}/negative_slope" for part in parts for index in (0, 1)]


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_is_the_logloss_of_rows_that_count(name: str, variables: dict[str, Any], batch: dict[str, jax.Array]):
    params = jax.tree.map(np.asarray, variables[name]["params"])
    p = [1 / (1 + np.exp(-REFERENCES[name](params, np.asarray(batch["dense"])[row], row))) for row in range(B)]
    weight = np.array([1, 1, 0, 1], np.float32)
    model = CONFIGS[name].build(SCHEMA)
    loss = model.apply(variables[name], batch | {"weight": jnp.asarray(weight)}, train=False, method="loss")
    assert loss == pytest.approx(-(np.log(p[0]) + np.log(1 - p[1]) + np.log(p[3])) / 3, rel=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_place_of_padding_and_order_of_bags_mean_nothing(
    name: str, variables: dict[str, Any], batch: dict[str, jax.Array]
):
    ids = np.array(batch["sparse_ids"])
    ids[:, 2:5], ids[:, 7:10] = ids[:, [4, 2, 3]], ids[:, [9, 8, 7]]
    model = CONFIGS[name].build(SCHEMA)
    score = compiled(model)
    whole = score(variables[name], batch)
    np.testing.assert_allclose(
        score(variables[name], batch | {"sparse_ids": jnp.asarray(ids)}), whole, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_rows_change_neither_loss_nor_gradient(
    name: str, variables: dict[str, Any], batch: dict[str, jax.Array]
):
    check_padding_rows(CONFIGS[name].build(SCHEMA), variables[name], batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_program_a_shape(name: str, variables: dict[str, Any], batch: dict[str, jax.Array]):
    check_one_program_a_shape(CONFIGS[name].build(SCHEMA), variables[name], batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_zeroing_all_slices_of_a_unit_equals_removing_it(
    name: str, variables: dict[str, Any], batch: dict[str, jax.Array]
):
    layers = CONFIGS[name].hidden_units()
    assert len(layers) == {"wide_and_deep": 2, "deepfm": 2, "dlrm": 3, "din": 4}[name]
    zeroed, removed = (jax.tree.map(np.array, variables[name]["params"]) for _ in range(2))
    widths: dict[str, list[int]] = {}
    for layer in layers:
        for path, axis in layer.slices:
            *parents, leaf = path.split("/")
            first, second = zeroed, removed
            for key in parents:
                first, second = first[key], second[key]
            first[leaf][(slice(None),) * axis + (1,)] = 0
            second[leaf] = np.delete(second[leaf], 1, axis)
        widths.setdefault(layer.field, list(getattr(CONFIGS[name], layer.field)))[layer.index] -= 1
    smaller = dataclasses.replace(CONFIGS[name], **{field: tuple(values) for field, values in widths.items()})
    np.testing.assert_allclose(
        smaller.build(SCHEMA).apply(jax.tree.map(jnp.asarray, {"params": removed}), batch),
        CONFIGS[name].build(SCHEMA).apply(jax.tree.map(jnp.asarray, {"params": zeroed}), batch),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_serve_returns_probabilities(name: str, variables: dict[str, Any], batch: dict[str, jax.Array]):
    model = CONFIGS[name].build(SCHEMA)
    answer = model.apply(variables[name], batch, top_k=3, method="serve")
    logits = np.asarray(model.apply(variables[name], batch))
    np.testing.assert_allclose(answer["probability"], 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_learns_its_examples(name: str, logistic_experiment: Experiment):
    experiment = dataclasses.replace(
        logistic_experiment,
        model=dataclasses.replace(CONFIGS[name], dropout_rate=0.0, embedding_dropout_rate=0.0),
        training=dataclasses.replace(logistic_experiment.training, epochs=12, learning_rate=0.03, patience=0),
    )
    data = load_data(experiment)
    assert isinstance(data, LabelledData)
    assert any(field.name == "history" for field in data.schema.fields) == (name == "din")
    result = train(experiment, data)
    assert result.history[-1].train_loss < 0.5 * result.history[0].train_loss


@pytest.mark.parametrize("kind", [type(config) for config in CONFIGS.values()])
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embedding_dim", 0, ">= 1"),
        ("dropout_rate", 1.0, "[0, 1)"),
        ("embedding_dropout_rate", -0.1, "[0, 1)"),
    ],
)
def test_config_rejects(kind: type, field: str, value: float, allowed: str):
    with pytest.raises(UserError) as error:
        kind(**{field: value})
    assert str(error.value) == f"{kind.__name__}.{field} is {value!r}; allowed: {allowed}"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (WideAndDeepConfig, "deep_mlp"),
        (DeepFMConfig, "deep_mlp"),
        (DLRMConfig, "bottom_mlp"),
        (DLRMConfig, "top_mlp"),
        (DINConfig, "attention_mlp"),
        (DINConfig, "top_mlp"),
    ],
)
def test_config_rejects_empty_widths(kind: type, field: str):
    with pytest.raises(UserError, match=rf"{kind.__name__}.{field} is \(\); allowed: one or more widths >= 1"):
        kind(**{field: ()})
