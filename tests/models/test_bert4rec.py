import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
    ShortTraining,
    check_hidden_units,
    check_int8,
    check_one_program_a_shape,
    check_serve,
    short_training,
)
from random_variables import random_variables

from recjax.config import Experiment, Training
from recjax.data.next_item import NextItemSchema
from recjax.errors import UserError
from recjax.models.bert4rec import BERT4Rec, BERT4RecConfig, draw_masked
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import load_data
from recjax.training.step import init_state
from recjax.transforms.protocol import chain

B, L, D, H, V = 4, 6, 8, 2, 11
CONFIG = BERT4RecConfig(embedding_dim=D, heads=H, mlp_dims=(12, 5), dropout_rate=0.3, mask_rate=0.4, loss_chunk=3)
LENGTHS = np.array([6, 3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def model() -> BERT4Rec:
    return CONFIG.build(NextItemSchema(n_items=V, max_history=L))


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    used = np.arange(L) < LENGTHS[:, None]
    items = rng.integers(V, size=(B, L + 1))
    history = np.where(used, items[:, :-1], 0).astype(np.int32)
    labels = np.where(used, items[:, 1:], 0).astype(np.int32)
    return {"history": history, "labels": labels, "lengths": LENGTHS, "weight": np.ones(B, np.float32)}


@pytest.fixture(scope="module")
def variables(model: BERT4Rec, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: BERT4Rec) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def loss_of(model: BERT4Rec) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def logits(params: Any, sequence: np.ndarray) -> np.ndarray:
    """Returns the [T, V] scores at each position of a sequence in which V is the mask, in plain NumPy."""
    params = jax.tree.map(np.asarray, params)

    def dense(layer: Any, x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer: Any, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    x = params["items"]["table"][sequence] * np.sqrt(D) + params["positions"]["table"][: len(sequence)]
    for index in range(len(CONFIG.mlp_dims)):
        block = params[f"block_{index}"]
        normed = norm(block["norm_attention"], x)
        query, key, value = (dense(block["attention"][name], normed) for name in ("query", "key", "value"))
        heads = []
        for columns in np.split(np.arange(D), H):
            weights = np.exp(query[:, columns] @ key[:, columns].T / np.sqrt(D / H))
            heads.append(weights / weights.sum(1, keepdims=True) @ value[:, columns])
        x = x + dense(block["attention"]["out"], np.concatenate(heads, 1))
        mlp = block["mlp"]
        x = x + dense(mlp["dense_1"], np.maximum(dense(mlp["dense_0"], norm(block["norm_mlp"], x)), 0))
    return norm(params["norm"], x) @ params["items"]["table"][:V].T


def test_scores_are_those_of_a_mask_after_the_last_item(score: Any, variables: Any, batch: dict[str, np.ndarray]):
    expected = [
        logits(variables["params"], np.append(history[:length], V))[-1]  # no padding at all
        for history, length in zip(batch["history"], LENGTHS, strict=True)
    ]
    scores = score(variables, batch)
    assert scores.shape == (B, V)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_loss_is_over_the_masked_items_and_no_others(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    draw = jax.jit(draw_masked, static_argnums=(2, 3, 4))
    masked, counts = draw(jax.random.key(0), LENGTHS + 1, L + 1, CONFIG.mask_rate, CONFIG.last_only_rate)
    losses = []
    for row, length in enumerate(LENGTHS):
        sequence = np.append(batch["history"][row, :length], batch["labels"][row, length - 1])
        positions = np.asarray(masked[row])[np.asarray(counts[row])]
        hidden = sequence.copy()
        hidden[positions] = V
        at_masked = logits(variables["params"], hidden)[positions]
        losses.append(np.log(np.exp(at_masked).sum(1)) - at_masked[np.arange(len(positions)), sequence[positions]])
    assert loss_of(variables, batch) == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)


def test_what_stands_under_a_mask_is_seen_by_no_position(
    model: BERT4Rec, draw: Any, variables: Any, batch: dict[str, np.ndarray]
):
    def hidden(batch: dict[str, np.ndarray]) -> np.ndarray:
        kept = {"capture_intermediates": lambda module, _: module.name == "norm"}
        _, state = jax.jit(lambda v, b: model.apply(v, b, train=False, method="loss", **kept))(variables, batch)
        return np.asarray(state["intermediates"]["norm"]["__call__"][0])

    masked, counts = map(
        np.asarray, draw(jax.random.key(0), LENGTHS + 1, L + 1, CONFIG.mask_rate, CONFIG.last_only_rate)
    )
    other, before = {name: column.copy() for name, column in batch.items()}, hidden(batch)
    for row, length in enumerate(LENGTHS):
        for position in masked[row][counts[row]]:
            name, at = ("labels", length - 1) if position == length else ("history", position)
            other[name][row, at] = (other[name][row, at] + 1) % V
    np.testing.assert_array_equal(hidden(other), before)
    seen = next(position for position in range(L) if position not in masked[0][counts[0]])
    other["history"][0, seen] = (other["history"][0, seen] + 1) % V
    assert (hidden(other)[0] != before[0]).any(1).all()


@pytest.fixture(scope="module")
def draw() -> Any:
    return jax.jit(draw_masked, static_argnums=(2, 3, 4))


LONG = np.array([7, 4, 2, 0, 1], np.int32)


def test_masks_are_a_share_of_a_sequence_and_at_least_one_item(draw: Any):
    for seed in range(20):
        positions, counts = map(np.asarray, draw(jax.random.key(seed), LONG, 7, 0.4, 0.0))
        assert positions.shape == (5, 3)  # round(0.4 * 7)
        assert counts.sum(1).tolist() == [3, 2, 1, 0, 1]  # 2.8, 1.6, 0.8, none of none, at least one
        for row, length in enumerate(LONG):
            chosen = positions[row][counts[row]]
            assert len(set(chosen.tolist())) == len(chosen)
            assert (chosen < length).all()


def test_every_item_is_masked_equally_often(draw: Any):
    drawn = jax.vmap(lambda key: draw(key, LONG, 7, 0.4, 0.0)[0][0])(jax.random.split(jax.random.key(0), 4_000))
    share = np.bincount(np.asarray(drawn).ravel(), minlength=7) / 4_000
    np.testing.assert_allclose(share, 3 / 7, atol=0.04)  # five deviations of a share of 4,000


def test_last_only_masks_the_last_item_alone(draw: Any):
    positions, counts = map(np.asarray, draw(jax.random.key(0), LONG, 7, 0.4, 1.0))
    assert counts.sum(1).tolist() == [1, 1, 1, 0, 1]
    assert positions[[0, 1, 2, 4], 0].tolist() == [6, 3, 1, 0]


def test_both_neighbours_of_a_mask_are_read(model: BERT4Rec, variables: Any):
    encode = jax.jit(lambda *inputs: model.apply(variables, *inputs, method="encode"))
    sequence, lengths = np.array([[3, V, 5, 0, 0, 0, 0]], np.int32), np.array([3], np.int32)
    before = encode(sequence, lengths)
    for changed in (0, 2):
        other = sequence.copy()
        other[0, changed] = 7
        assert (encode(other, lengths)[0, 1] != before[0, 1]).any()
    other = sequence.copy()
    other[0, 3:] = 7  # padding
    np.testing.assert_array_equal(encode(other, lengths)[0, :3], before[0, :3])


def test_padding_means_nothing(loss_of: Any, score: Any, variables: Any, batch: dict[str, np.ndarray]):
    used = np.arange(L) < LENGTHS[:, None]
    junk = np.random.default_rng(3).integers(1, V, size=(B, L)).astype(np.int32)
    other = batch | {name: np.where(used, batch[name], junk) for name in ("history", "labels")}
    np.testing.assert_array_equal(score(variables, other), score(variables, batch))
    assert loss_of(variables, other) == loss_of(variables, batch)


def test_a_padding_row_adds_nothing_to_the_loss(loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    cut = batch | {"lengths": np.array([6, 3, 0, 0], np.int32)}
    junk = cut | {name: np.where(np.arange(B)[:, None] < 2, batch[name], 1) for name in ("history", "labels")}
    assert loss_of(variables, junk) == pytest.approx(float(loss_of(variables, cut)), rel=1e-6)
    assert loss_of(variables, cut) != loss_of(variables, batch)


def test_one_program_a_shape(model: BERT4Rec, variables: Any, batch: dict[str, np.ndarray]):
    check_one_program_a_shape(model, variables, batch)


def test_serve_returns_the_best_unseen_items_in_order(model: BERT4Rec, variables: Any, batch: dict[str, np.ndarray]):
    check_serve(model, variables, batch, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "BERT4RecConfig.embedding_dim is 0; allowed: >= 1"),
        ({"heads": 3}, "BERT4RecConfig.heads is 3; allowed: a divisor of embedding_dim"),
        ({"mlp_dims": ()}, "BERT4RecConfig.mlp_dims is (); allowed: one width >= 1 a block"),
        ({"dropout_rate": -0.1}, "BERT4RecConfig.dropout_rate is -0.1; allowed: [0, 1)"),
        ({"mask_rate": 0.0}, "BERT4RecConfig.mask_rate is 0.0; allowed: (0, 1]"),
        ({"last_only_rate": 1.1}, "BERT4RecConfig.last_only_rate is 1.1; allowed: [0, 1]"),
        ({"loss_chunk": 0}, "BERT4RecConfig.loss_chunk is 0; allowed: >= 1"),
    ],
)
def test_config_rejects(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        BERT4RecConfig(**values)
    assert str(error.value) == message


def test_hidden_units_name_real_parameters_of_the_stated_width(variables: Any):
    check_hidden_units(CONFIG, variables)


@pytest.fixture(scope="module")
def experiment(sasrec_experiment: Experiment) -> Experiment:
    return dataclasses.replace(
        sasrec_experiment,
        name="tiny_bert4rec",
        model=BERT4RecConfig(embedding_dim=8, heads=2, mlp_dims=(16,), dropout_rate=0.1, loss_chunk=32),
        training=Training(epochs=12, batch_size=16, learning_rate=2e-2),
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment) -> ShortTraining:
    return short_training(experiment, load_data(experiment))


def test_a_short_training_learns_with_one_program(trained: ShortTraining):
    assert trained.losses[-1] < trained.losses[0] - 0.2
    assert trained.step._cache_size() == 1


def test_int8_answers_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    layers = [f"attention/{name}" for name in ("key", "out", "query", "value")] + ["mlp/dense_0", "mlp/dense_1"]
    check_int8(experiment, trained, [f"block_0/{layer}/kernel" for layer in layers], tolerance=0.1)


def test_every_step_masks_other_items(trained: ShortTraining):
    batch, optimizer = next(trained.data.train_batches(16, 0, 1)), make_optimizer(Training(), chain(), CONFIG, 10)
    losses = []
    for number in (0, 0, 1):
        state = init_state(trained.params, optimizer)
        losses.append(float(trained.step(state._replace(step=state.step + number), batch)[1]))
    assert losses[0] == losses[1] != losses[2]
