import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_hidden_units, check_one_program_a_shape, check_padding_ids, short_training
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.top_n import TopNData, TopNSchema
from recjax.errors import UserError
from recjax.models.contract import precomputed
from recjax.models.two_tower import TwoTower, TwoTowerConfig
from recjax.training.pipeline import finalize, load_data
from recjax.training.step import init_params
from recjax.transforms.quantize import quantize

U, V, D, L, T, CORRECTION = 4, 7, 5, 3, 0.5, 0.8
CONFIG = TwoTowerConfig(embedding_dim=D, user_mlp=(6, 4), item_mlp=(3,), temperature=T, correction=CORRECTION)
SCHEMA = TopNSchema(n_users=U, n_items=V, max_history=L)
COUNTS = np.array([3, 0, 5, 1, 1, 2, 4], np.float32)


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    columns = {
        "user": np.array([2, 0, 1, 3], np.int32),
        "item": np.array([3, 0, 3, 6], np.int32),  # rows 0 and 2 hit the same item
        "history": np.array([[2, 3, 6], [0, 1, -1], [3, -1, -1], [5, 6, 0]], np.int32),  # row 0 knows row 3's item
        "weight": np.ones(4, np.float32),
        "context": {"item_counts": COUNTS},
    }
    return jax.tree.map(jnp.asarray, columns)


@pytest.fixture(scope="module")
def variables(model: TwoTower, batch: dict[str, Any]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def loss_of(model: TwoTower) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def tower(layers: Any, x: np.ndarray, normalize: bool = True) -> np.ndarray:
    for index in range(len(layers)):
        x = x @ layers[f"dense_{index}"]["kernel"] + layers[f"dense_{index}"]["bias"]
        if index < len(layers) - 1:
            x = np.maximum(x, 0)
    return x / np.sqrt((x**2).sum() + 1e-12) if normalize else x


def user_vector(params: Any, user: int, history: list[int], normalize: bool = True) -> np.ndarray:
    params = jax.tree.map(np.asarray, params)
    mean = params["items"]["table"][history].mean(0) if history else np.zeros(D)
    return tower(params["user_tower"], np.concatenate([params["users"]["table"][user], mean]), normalize)


def item_vector(params: Any, item: int, normalize: bool = True) -> np.ndarray:
    params = jax.tree.map(np.asarray, params)
    return tower(params["item_tower"], params["items"]["table"][item], normalize)


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_agree_with_numpy(variables: Any, batch: dict[str, Any], normalize: bool):
    model = dataclasses.replace(CONFIG, normalize=normalize).build(SCHEMA)
    shared = precomputed(model, variables, batch["context"])
    request = {name: batch[name] for name in ("user", "history")} | shared
    params = variables["params"]
    for user, history, scores in zip(batch["user"], batch["history"], model.apply(variables, request), strict=True):
        vector = user_vector(params, int(user), [item for item in history.tolist() if item >= 0], normalize)
        expected = [vector @ item_vector(params, item, normalize) for item in range(V)]
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask_known", [True, False])
def test_loss_agrees_with_numpy(variables: Any, batch: dict[str, Any], mask_known: bool):
    model = dataclasses.replace(CONFIG, mask_known=mask_known).build(SCHEMA)
    params, losses = variables["params"], []
    log_share = np.log(np.maximum(COUNTS, 1) / COUNTS.sum())
    for user, item, history in zip(batch["user"], batch["item"].tolist(), batch["history"].tolist(), strict=True):
        vector = user_vector(params, int(user), [other for other in history if other not in (-1, item)])
        others = [other for other in batch["item"].tolist() if other != item and not (mask_known and other in history)]
        logits = [vector @ item_vector(params, x) / T - CORRECTION * log_share[x] for x in (item, *others)]
        losses.append(np.log(np.exp(logits).sum()) - logits[0])
    loss = jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))
    assert float(loss(variables, batch)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_positive_item_is_hidden_from_the_history(loss_of: Any, variables: Any, batch: dict[str, Any]):
    without = jnp.where(batch["history"] == batch["item"][:, None], -1, batch["history"])
    assert float(loss_of(variables, batch | {"history": without})) == float(loss_of(variables, batch))


def test_padding_of_histories_changes_nothing(model: TwoTower, variables: Any, batch: dict[str, Any]):
    check_padding_ids(model, variables, batch)


def test_one_program_a_shape(model: TwoTower, variables: Any, batch: dict[str, Any]):
    check_one_program_a_shape(model, variables, batch)


def test_padding_rows_add_nothing(loss_of: Any, variables: Any, batch: dict[str, Any]):
    padded = {name: np.pad(x, [(0, 2)] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items() if name != "context"}
    padded |= {"context": batch["context"]}
    assert float(loss_of(variables, padded)) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_a_vector_of_zeros_has_a_finite_gradient(model: TwoTower, variables: Any, batch: dict[str, Any]):
    zeros = jax.tree.map(jnp.zeros_like, variables)
    gradient = jax.grad(lambda v: model.apply(v, batch, train=False, method="loss"))(zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_serve_leaves_out_the_history(model: TwoTower, variables: Any, batch: dict[str, Any]):
    request = {name: batch[name] for name in ("user", "history")} | precomputed(model, variables, batch["context"])
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, request)
    scores = np.array(model.apply(variables, request))
    for row, history in enumerate(batch["history"]):
        scores[row, history[history >= 0]] = -np.inf
        assert answer["items"][row].tolist() == np.argsort(-scores[row], kind="stable")[:3].tolist()


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)
    assert [layer.name for layer in CONFIG.hidden_units()] == ["user_mlp[0]", "user_mlp[1]", "item_mlp[0]"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embedding_dim", 0, ">= 1"),
        ("user_mlp", (), "one or more widths >= 1"),
        ("item_mlp", (8, 0), "one or more widths >= 1"),
        ("temperature", 0.0, "> 0"),
        ("correction", 1.5, "[0, 1]"),
        ("dropout_rate", 1.0, "[0, 1)"),
        ("table_deviation", 0.0, "> 0"),
    ],
)
def test_bad_values_are_refused(field: str, value: Any, allowed: str):
    with pytest.raises(UserError) as raised:
        TwoTowerConfig(**{field: value})
    assert str(raised.value) == f"TwoTowerConfig.{field} is {value!r}; allowed: {allowed}"


@pytest.fixture(scope="module")
def experiment(ratings_file: Path) -> Experiment:
    training = Training(epochs=5, batch_size=64, learning_rate=1e-2)
    return Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=TwoTowerConfig(embedding_dim=8, user_mlp=(16,), item_mlp=(16,), dropout_rate=0.1),
        training=training,
        finetuning=training,
    )


@pytest.fixture(scope="module")
def data(experiment: Experiment) -> TopNData:
    return load_data(experiment)


def test_training_lowers_the_loss_with_one_program(experiment: Experiment, data: TopNData):
    trained = short_training(experiment, data)
    assert trained.losses[-1] < 0.95 * trained.losses[0]
    assert trained.step._cache_size() == 1


def test_frozen_to_int8_it_answers_much_the_same_from_one_program(experiment: Experiment, data: TopNData):
    batch = {**next(data.train_batches(64, 0, 1)), "context": dict(data.context)}
    params = init_params(experiment.model.build(data.schema), batch, 0)
    whole = finalize(experiment, data, params)
    frozen = finalize(dataclasses.replace(experiment, transforms=(quantize(),)), data, params)
    kernels = set(frozen.report.details["int8"]["kernels"])
    assert kernels == {f"{side}_tower/dense_{i}/kernel" for side in ("user", "item") for i in (0, 1)}
    request, traces = jax.tree.map(jnp.asarray, {k: v[:4] for k, v in data.serving_samples().items()}), []

    @jax.jit
    def scores(variables: Any, batch: Any) -> jax.Array:
        traces.append(batch)
        return frozen.score(variables, batch)

    rounded = scores(frozen.variables, request)
    np.testing.assert_allclose(rounded, jax.jit(whole.score)(whole.variables, request), atol=0.1)  # of cosines
    scores(frozen.variables, jax.tree.map(jnp.zeros_like, request))
    assert len(traces) == 1
