import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import check_one_program_a_shape, short_training
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.interactions import KnowledgeGraph
from recjax.data.sources import load_interactions
from recjax.data.top_n import TopNData, TopNSchema, top_n_data
from recjax.errors import UserError
from recjax.models.cke import CKE, CKEConfig
from recjax.training.pipeline import load_data

U, V, N_ENTITIES, N_RELATIONS, D, P = 3, 5, 9, 2, 4, 3
CONFIG = CKEConfig(embedding_dim=D, relation_dim=P, negatives=2, triples=6, knowledge_weight=0.7, l2=0.02)
SCHEMA = TopNSchema(n_users=U, n_items=V, max_history=2, n_entities=N_ENTITIES, n_relations=N_RELATIONS)


@pytest.fixture(scope="module")
def model() -> CKE:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    graph = {"head": [0, 1, 6, 2], "relation": [0, 1, 1, 0], "tail": [5, 7, 3, 8]}
    columns = {
        "user": np.array([2, 0], np.int32),
        "item": np.array([4, 1], np.int32),
        "negatives": np.array([[0, 3], [2, 2]], np.int32),
        "history": np.array([[4, -1], [0, 1]], np.int32),
        "weight": np.ones(2, np.float32),
        "context": {name: np.array(column, np.int32) for name, column in graph.items()},
    }
    return jax.tree.map(jnp.asarray, columns)


@pytest.fixture(scope="module")
def variables(model: CKE, batch: dict[str, Any]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def tables(variables: Any) -> dict[str, np.ndarray]:
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    return {name: leaf["table"] if isinstance(leaf, dict) else leaf for name, leaf in params.items()}


def distance(tables: dict[str, np.ndarray], head: int, relation: int, tail: int) -> float:
    projection = tables["projections"][relation]
    gap = tables["entities"][head] @ projection + tables["relations"][relation] - tables["entities"][tail] @ projection
    return float((gap**2).sum())


def test_scores_agree_with_numpy(model: CKE, variables: Any, tables: dict[str, np.ndarray], batch: dict[str, Any]):
    items = tables["items"] + tables["entities"][:V]
    expected = tables["users"][batch["user"]] @ items.T + tables["item_biases"][:, 0]
    scores = model.apply(variables, {name: batch[name] for name in ("user", "history")})
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_distances_are_those_of_projected_entities(model: CKE, variables: Any, tables: dict[str, np.ndarray]):
    head, relation, tails = [0, 6, 8], [1, 0, 1], [[5, 0], [2, 6], [8, 7]]
    expected = [[distance(tables, h, r, t) for t in ts] for h, r, ts in zip(head, relation, tails, strict=True)]
    found = model.apply(variables, *(jnp.array(x, jnp.int32) for x in (head, relation, tails)), method="distances")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_loss_agrees_with_numpy(model: CKE, variables: Any, tables: dict[str, np.ndarray], batch: dict[str, Any]):
    items, losses = tables["items"] + tables["entities"][:V], []
    for user, item, negatives in zip(batch["user"], batch["item"], batch["negatives"], strict=True):
        rows = [item, *negatives]
        score = items[rows] @ tables["users"][user] + tables["item_biases"][rows, 0]
        squares = (tables["users"][user] ** 2).sum()
        squares += (tables["items"][rows] ** 2).sum() + (tables["entities"][rows] ** 2).sum()
        losses.append(np.log1p(np.exp(score[1:] - score[0])).mean() + CONFIG.l2 * squares)

    # What is drawn is the model's to say: the draws are repeated here, the arithmetic is not.
    triple_key, tail_key = jax.random.split(jax.random.key(0))
    drawn = np.asarray(jax.random.randint(triple_key, (CONFIG.triples,), 0, 4))
    corrupted = np.asarray(jax.random.randint(tail_key, (CONFIG.triples,), 0, N_ENTITIES))
    of_triples = []
    for row, other in zip(drawn, corrupted, strict=True):
        head, relation, tail = (int(batch["context"][name][row]) for name in ("head", "relation", "tail"))
        gap = distance(tables, head, relation, int(other)) - distance(tables, head, relation, tail)
        squares = (tables["entities"][[head, tail, other]] ** 2).sum() + (tables["relations"][relation] ** 2).sum()
        of_triples.append(np.log1p(np.exp(-gap)) + CONFIG.l2 * squares)
    expected = np.mean(losses) + CONFIG.knowledge_weight * np.mean(of_triples)
    loss = jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))
    assert float(loss(variables, batch)) == pytest.approx(expected, rel=1e-5)


def test_other_triples_are_drawn_at_every_step(model: CKE, variables: Any, batch: dict[str, Any]):
    loss = jax.jit(lambda v, b, key: model.apply(v, b, train=True, method="loss", rngs={"dropout": key}))
    first = loss(variables, batch, jax.random.key(0, impl="unsafe_rbg"))
    assert loss(variables, batch, jax.random.key(0, impl="unsafe_rbg")) == first
    assert loss(variables, batch, jax.random.key(1, impl="unsafe_rbg")) != first


def test_the_graph_moves_items_that_no_batch_holds(model: CKE, variables: Any, batch: dict[str, Any]):
    gradient = jax.grad(lambda v: model.apply(v, batch, train=False, method="loss"))(variables)["params"]
    assert (gradient["entities"]["table"][5:] != 0).any()
    assert (gradient["projections"] != 0).any()
    absent = dataclasses.replace(CONFIG, knowledge_weight=0.0).build(SCHEMA)
    gradient = jax.grad(lambda v: absent.apply(v, batch, train=False, method="loss"))(variables)["params"]
    assert not (gradient["entities"]["table"][5:] != 0).any()


def test_padding_rows_add_nothing(model: CKE, variables: Any, batch: dict[str, Any]):
    padded = {name: np.pad(x, [(0, 2)] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items() if name != "context"}
    loss = jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))
    expected = float(loss(variables, batch))
    assert float(loss(variables, padded | {"context": batch["context"]})) == pytest.approx(expected, rel=1e-6)


def test_one_program_a_shape(model: CKE, variables: Any, batch: dict[str, Any]):
    check_one_program_a_shape(model, variables, batch)


def test_serve_leaves_out_the_history(model: CKE, variables: Any, batch: dict[str, Any]):
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=2, method="serve"))(variables, batch)
    scores = np.array(model.apply(variables, batch))
    for row, history in enumerate(batch["history"]):
        scores[row, history[history >= 0]] = -np.inf
        assert answer["items"][row].tolist() == np.argsort(-scores[row], kind="stable")[:2].tolist()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("embedding_dim", 0, ">= 1"),
        ("relation_dim", 0, ">= 1"),
        ("negatives", 0, ">= 1"),
        ("triples", 0, ">= 1"),
        ("knowledge_weight", -1.0, ">= 0"),
        ("l2", -0.1, ">= 0"),
        ("table_deviation", 0.0, "> 0"),
    ],
)
def test_bad_values_are_refused(field: str, value: float, allowed: str):
    with pytest.raises(UserError) as raised:
        CKEConfig(**{field: value})
    assert str(raised.value) == f"CKEConfig.{field} is {value!r}; allowed: {allowed}"


@pytest.fixture(scope="module")
def experiment(ratings_file: Path) -> Experiment:
    training = Training(epochs=5, batch_size=64, learning_rate=3e-2)
    return Experiment(
        name="tiny",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=CKEConfig(embedding_dim=8, relation_dim=4, triples=32),
        training=training,
        finetuning=training,
    )


@pytest.fixture(scope="module")
def data(experiment: Experiment) -> TopNData:
    interactions = load_interactions(experiment.dataset)
    n_items, rng = interactions.n_items, np.random.default_rng(0)
    graph = KnowledgeGraph(
        head=rng.integers(n_items, size=60).astype(np.int32),
        relation=rng.integers(2, size=60).astype(np.int32),
        tail=(n_items + rng.integers(4, size=60)).astype(np.int32),
        n_entities=n_items + 4,
        n_relations=2,
    )
    interactions = dataclasses.replace(interactions, knowledge=graph)
    return top_n_data(interactions, experiment.dataset, experiment.model.samples())


def test_data_without_a_graph_are_refused(experiment: Experiment):
    with pytest.raises(UserError, match="the model needs a knowledge graph and tiny has none; use ml-100k"):
        load_data(experiment)


def test_training_lowers_the_loss_with_one_program(experiment: Experiment, data: TopNData):
    trained = short_training(experiment, data)
    assert trained.losses[-1] < 0.9 * trained.losses[0]
    assert trained.step._cache_size() == 1
