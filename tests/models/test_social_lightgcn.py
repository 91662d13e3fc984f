import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, check_serve, short_training
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.sources import load_interactions
from recjax.data.top_n import TopNSchema, top_n_data
from recjax.errors import UserError
from recjax.models.contract import precomputed
from recjax.models.lightgcn import LightGCNConfig
from recjax.models.social_lightgcn import SocialLightGCN, SocialLightGCNConfig
from recjax.training.pipeline import load_data

U, V, D, LAYERS, SHARE = 4, 3, 5, 2, 0.3
SCHEMA = TopNSchema(n_users=U, n_items=V, max_history=2)
CONFIG = SocialLightGCNConfig(embedding_dim=D, layers=LAYERS, trust_share=SHARE)
CONTEXT = {
    "train_user": np.array([0, 0, 1, 2], np.int32),
    "train_item": np.array([0, 1, 1, 2], np.int32),
    "truster": np.array([0, 0, 1, 3], np.int32),  # user 2 trusts nobody; user 3 has no item
    "trustee": np.array([1, 2, 2, 0], np.int32),
    "item_counts": np.array([1, 2, 1], np.float32),
}


@pytest.fixture(scope="module")
def model() -> SocialLightGCN:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    return {
        "user": np.array([2, 0], np.int32),
        "item": np.array([2, 1], np.int32),
        "negatives": np.array([[0], [2]], np.int32),
        "history": np.array([[2, -1], [0, 1]], np.int32),
        "weight": np.ones(2, np.float32),
        "context": jax.tree.map(jnp.asarray, CONTEXT),
    }


@pytest.fixture(scope="module")
def variables(model: SocialLightGCN, batch: dict[str, Any]) -> Any:
    return random_variables(model, batch)


def reference(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the users' and items' vectors, edge by edge."""
    degree_user, degree_item = np.array([2, 1, 1, 0]), np.array([1, 2, 1])
    out_degree, in_degree = np.array([2, 1, 0, 1]), np.array([1, 1, 2, 0])
    user, item = (np.asarray(params[name]["table"], np.float64) for name in ("users", "items"))
    user_sum, item_sum = user.copy(), item.copy()
    for _ in range(LAYERS):
        from_items, from_trusted, new_item = np.zeros_like(user), np.zeros_like(user), np.zeros_like(item)
        for u, i in zip(CONTEXT["train_user"], CONTEXT["train_item"], strict=True):
            weight = 1 / np.sqrt(degree_user[u] * degree_item[i])
            from_items[u] += weight * item[i]
            new_item[i] += weight * user[u]
        for truster, trustee in zip(CONTEXT["truster"], CONTEXT["trustee"], strict=True):
            from_trusted[truster] += user[trustee] / np.sqrt(out_degree[truster] * in_degree[trustee])
        share = SHARE * (out_degree > 0)[:, None]
        user, item = (1 - share) * from_items + share * from_trusted, new_item
        user_sum, item_sum = user_sum + user, item_sum + item
    return user_sum / (LAYERS + 1), item_sum / (LAYERS + 1)


def test_propagated_vectors_and_scores_agree_with_numpy(model: SocialLightGCN, variables: Any, batch: dict[str, Any]):
    users, items = reference(variables["params"])
    shared = precomputed(model, variables, batch["context"])
    np.testing.assert_allclose(shared["precomputed"]["users"], users, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shared["precomputed"]["items"], items, rtol=1e-5, atol=1e-6)
    scores = model.apply(variables, {name: batch[name] for name in ("user", "history")} | shared)
    np.testing.assert_allclose(scores, users[batch["user"]] @ items.T, rtol=1e-5, atol=1e-6)


def test_loss_agrees_with_numpy_and_padding_rows_add_nothing(model: SocialLightGCN, variables: Any, batch: Any):
    users, items = reference(variables["params"])
    user_table, item_table = (np.asarray(variables["params"][name]["table"]) for name in ("users", "items"))
    losses = []
    for user, item, (negative,) in zip(batch["user"], batch["item"], batch["negatives"], strict=True):
        squares = (user_table[user] ** 2).sum() + (item_table[[item, negative]] ** 2).sum()
        losses.append(np.log1p(np.exp(-users[user] @ (items[item] - items[negative]))) + CONFIG.l2 * squares)
    loss_of = jax.jit(lambda variables, batch: model.apply(variables, batch, train=True, method="loss"))
    assert float(loss_of(variables, batch)) == pytest.approx(np.mean(losses), rel=1e-5)
    padded = {name: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items() if name != "context"}
    assert float(loss_of(variables, padded | {"context": batch["context"]})) == pytest.approx(np.mean(losses), rel=1e-5)


def test_serve_returns_the_best_unseen_items_in_order(model: SocialLightGCN, variables: Any, batch: dict[str, Any]):
    check_serve(model, variables, batch, top_k=1)
    check_serve(model, variables, batch | precomputed(model, variables, batch["context"]), top_k=1)


def test_one_program_a_shape(model: SocialLightGCN, variables: Any, batch: dict[str, Any]):
    check_one_program_a_shape(model, variables, batch)


def test_without_a_share_it_is_lightgcn(variables: Any, batch: dict[str, Any]):
    plain = LightGCNConfig(embedding_dim=D, layers=LAYERS).build(SCHEMA)
    social = dataclasses.replace(CONFIG, trust_share=0.0).build(SCHEMA)
    np.testing.assert_allclose(social.apply(variables, batch), plain.apply(variables, batch), rtol=1e-6, atol=1e-7)


def test_what_a_trusted_user_has_moves_only_those_who_trust(variables: Any, batch: dict[str, Any]):
    one_layer = dataclasses.replace(CONFIG, layers=1).build(SCHEMA)
    changed = jax.tree.map(jnp.array, variables)
    table = changed["params"]["users"]["table"]
    changed["params"]["users"]["table"] = table.at[1].add(1.0)  # user 1, whom user 0 trusts, and nobody else
    before, after = (precomputed(one_layer, v, batch["context"])["precomputed"]["users"] for v in (variables, changed))
    assert np.flatnonzero(np.any(np.asarray(before) != np.asarray(after), axis=1)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trust_share": -0.1}, "SocialLightGCNConfig.trust_share is -0.1; allowed: [0, 1]"),
        ({"trust_share": 1.1}, "SocialLightGCNConfig.trust_share is 1.1; allowed: [0, 1]"),
        ({"layers": -1}, "SocialLightGCNConfig.layers is -1; allowed: >= 0"),
    ],
)
def test_bad_values_are_refused(values: dict[str, float], message: str):
    with pytest.raises(UserError) as raised:
        SocialLightGCNConfig(**values)
    assert str(raised.value) == message


@pytest.fixture(scope="module")
def experiment(ratings_file: Path) -> Experiment:
    training = Training(epochs=6, batch_size=64, learning_rate=1e-1)
    return Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=SocialLightGCNConfig(embedding_dim=8, layers=2),
        training=training,
        finetuning=training,
    )


def test_data_without_trust_are_refused(experiment: Experiment):
    with pytest.raises(UserError, match="the model needs trust edges and tiny has none; use filmtrust or epinions"):
        load_data(experiment)


def test_training_lowers_the_loss_with_one_program(experiment: Experiment):
    interactions = load_interactions(experiment.dataset)
    edges = np.random.default_rng(0).integers(interactions.n_users, size=(2, 40)).astype(np.int32)
    interactions = dataclasses.replace(interactions, trust=edges)
    data = top_n_data(interactions, experiment.dataset, experiment.model.samples())
    trained = short_training(experiment, data)
    assert trained.losses[-1] < 0.75 * trained.losses[0]
    assert trained.step._cache_size() == 1
