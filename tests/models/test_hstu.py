import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import (
    ShortTraining,
    check_int8,
    check_one_program_a_shape,
    check_serve,
    short_training,
)
from random_variables import random_variables

from recjax.config import Experiment, Training
from recjax.data.next_item import NextItemSchema
from recjax.errors import UserError
from recjax.models.hstu import HSTU, HSTUConfig, query_times
from recjax.training.pipeline import load_data

B, L, D, H, K, W, V = 4, 6, 8, 2, 3, 5, 11  # W is a head's value dim
CONFIG = HSTUConfig(embedding_dim=D, heads=H, key_dim=K, value_dim=W, dropout_rate=0.3, temperature=0.5, loss_chunk=5)
LENGTHS = np.array([6, 3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Returns a training batch."""
    rng = np.random.default_rng(0)
    used = np.arange(L) < LENGTHS[:, None]
    items = rng.integers(V, size=(B, L + 1))
    times = 1_000_000_000 + np.cumsum(rng.integers(0, 10 ** rng.integers(1, 7, (B, L + 1))), 1)
    windows = {"history": items[:, :-1], "labels": items[:, 1:], "times": times[:, :-1], "label_times": times[:, 1:]}
    windows = {name: np.where(used, column, 0).astype(np.int32) for name, column in windows.items()}
    return windows | {"lengths": LENGTHS, "weight": np.ones(B, np.float32)}


@pytest.fixture(scope="module")
def request_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what is scored: the same histories, with the time after each last item."""
    target_time = np.take_along_axis(batch["label_times"], LENGTHS[:, None] - 1, 1)[:, 0]
    return {name: batch[name] for name in ("history", "times", "lengths")} | {"target_time": target_time}


@pytest.fixture(scope="module", params=[True, False], ids=["request_time", "item_time"])
def model(request: pytest.FixtureRequest) -> HSTU:
    # Plain products in one case, cosines in the other.
    config = dataclasses.replace(CONFIG, request_time=request.param, temperature=0.5 if request.param else 0.0)
    return config.build(NextItemSchema(n_items=V, max_history=L))


@pytest.fixture(scope="module")
def variables(model: HSTU, batch: dict[str, np.ndarray]) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: HSTU) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def loss_of(model: HSTU) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def logits(config: HSTUConfig, params: Any, history: np.ndarray, times: np.ndarray, label_times: np.ndarray) -> Any:
    """Returns the [n, V] scores after each of n items, in plain NumPy."""
    params, n = jax.tree.map(np.asarray, params), len(history)
    x = params["items"]["table"][history] * np.sqrt(D) + params["positions"]["table"][:n]
    asked = label_times if config.request_time else times
    for index in range(config.layers):
        block = params[f"block_{index}"]
        normed = norm(x) * block["norm_input"]["scale"] + block["norm_input"]["bias"]
        gate, value, query, key = np.split(
            silu(normed @ block["uvqk"]["kernel"]), [H * W, 2 * H * W, H * (2 * W + K)], axis=1
        )
        attended = np.zeros((n, H * W))
        for i, h in np.ndindex(n, H):
            for j in range(i + 1):
                bucket = int(np.log2(1 + asked[i] - times[j]))
                bias = block["distance_bias"]["table"][i - j, 0] + block["time_bias"]["table"][bucket, 0]
                weight = silu(query[i, h * K : (h + 1) * K] @ key[j, h * K : (h + 1) * K] + bias) / L
                attended[i, h * W : (h + 1) * W] += weight * value[j, h * W : (h + 1) * W]
        x = x + (norm(attended) * gate) @ block["out"]["kernel"] + block["out"]["bias"]
    table = params["items"]["table"]
    if not config.temperature:
        return (norm(x) * params["norm"]["scale"] + params["norm"]["bias"]) @ table.T
    cosines = x @ table.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(table, axis=1)
    return cosines / config.temperature


def test_scores_agree_with_numpy(
    model: HSTU,
    score: Any,
    variables: Any,
    batch: dict[str, np.ndarray],
    request_batch: dict[str, np.ndarray],
):
    expected = [
        logits(model.config, variables["params"], *(batch[k][row, :n] for k in ("history", "times", "label_times")))[-1]
        for row, n in enumerate(LENGTHS)
    ]
    scores = score(variables, request_batch)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_loss_agrees_with_numpy(model: HSTU, loss_of: Any, variables: Any, batch: dict[str, np.ndarray]):
    losses = []
    for row, n in enumerate(LENGTHS):
        columns = (batch[k][row, :n] for k in ("history", "times", "label_times"))
        of_history = logits(model.config, variables["params"], *columns)
        losses.append(np.log(np.exp(of_history).sum(1)) - of_history[np.arange(n), batch["labels"][row, :n]])
    assert loss_of(variables, batch) == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)


def test_query_times_of_a_request_are_those_of_training(
    batch: dict[str, np.ndarray], request_batch: dict[str, np.ndarray]
):
    used = np.arange(L) < LENGTHS[:, None]
    asked = query_times(jax.tree.map(jnp.asarray, request_batch), request_time=True)
    np.testing.assert_array_equal(np.where(used, asked, 0), batch["label_times"])
    own = query_times(jax.tree.map(jnp.asarray, request_batch), request_time=False)
    np.testing.assert_array_equal(own, batch["times"])


def test_later_events_never_change_earlier_positions(model: HSTU, variables: Any, batch: dict[str, np.ndarray]):
    """What follows item i is its label, whose time alone, and only if the model reads it, may be known at i."""
    encode = jax.jit(lambda variables, batch: model.apply(variables, batch, method="encode"))
    start = batch | {"lengths": np.full(B, L, np.int32)}
    before = encode(variables, start)
    for changed in range(1, L):
        other = {name: column.copy() for name, column in start.items()}
        other["history"][:, changed:] = (other["history"][:, changed:] + 1) % V
        other["labels"][:, changed - 1 :] = (other["labels"][:, changed - 1 :] + 1) % V
        other["times"][:, changed:] += 86_400
        other["label_times"][:, changed:] += 86_400
        after = encode(variables, other)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert (after[:, changed] != before[:, changed]).any()


def test_the_time_of_the_target_is_read_only_as_the_time_of_the_request(
    model: HSTU, score: Any, variables: Any, request_batch: dict[str, np.ndarray]
):
    later = request_batch | {"target_time": request_batch["target_time"] + 30 * 86_400}
    same = (score(variables, later) == score(variables, request_batch)).all()
    assert same == (not model.config.request_time)


def test_padding_means_nothing(
    loss_of: Any,
    score: Any,
    variables: Any,
    batch: dict[str, np.ndarray],
    request_batch: dict[str, np.ndarray],
):
    used = np.arange(L) < LENGTHS[:, None]
    junk = np.random.default_rng(3).integers(1, V, size=(B, L)).astype(np.int32)

    def with_junk(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(used, c, junk) if c.ndim == 2 else c for name, c in columns.items()}

    np.testing.assert_array_equal(score(variables, with_junk(request_batch)), score(variables, request_batch))
    assert loss_of(variables, with_junk(batch)) == loss_of(variables, batch)
    padded = {name: np.pad(column, [(0, 2)] + [(0, 0)] * (column.ndim - 1)) for name, column in batch.items()}
    assert loss_of(variables, padded) == pytest.approx(float(loss_of(variables, batch)), rel=1e-6)


def test_one_program_a_shape(
    model: HSTU, variables: Any, batch: dict[str, np.ndarray], request_batch: dict[str, np.ndarray]
):
    check_one_program_a_shape(model, variables, batch, request_batch)


def test_serve_returns_the_best_unseen_items_in_order(
    model: HSTU, variables: Any, request_batch: dict[str, np.ndarray]
):
    check_serve(model, variables, request_batch, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "HSTUConfig.embedding_dim is 0; allowed: >= 1"),
        ({"layers": 0}, "HSTUConfig.layers is 0; allowed: >= 1"),
        ({"heads": 0}, "HSTUConfig.heads is 0; allowed: >= 1"),
        ({"key_dim": 0}, "HSTUConfig.key_dim is 0; allowed: >= 1"),
        ({"value_dim": 0}, "HSTUConfig.value_dim is 0; allowed: >= 1"),
        ({"buckets_per_doubling": 0}, "HSTUConfig.buckets_per_doubling is 0; allowed: >= 1"),
        ({"temperature": -1.0}, "HSTUConfig.temperature is -1.0; allowed: >= 0"),
        ({"dropout_rate": 1.0}, "HSTUConfig.dropout_rate is 1.0; allowed: [0, 1)"),
        ({"loss_chunk": 0}, "HSTUConfig.loss_chunk is 0; allowed: >= 1"),
    ],
)
def test_config_rejects(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        HSTUConfig(**values)
    assert str(error.value) == message


@pytest.fixture(scope="module")
def experiment(sasrec_experiment: Experiment) -> Experiment:
    return dataclasses.replace(
        sasrec_experiment,
        name="tiny_hstu",
        model=HSTUConfig(embedding_dim=8, layers=1, key_dim=4, value_dim=4, temperature=0.2, loss_chunk=32),
        training=Training(epochs=6, batch_size=16, learning_rate=2e-2),
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment) -> ShortTraining:
    return short_training(experiment, load_data(experiment))


def test_a_short_training_learns_with_one_program(trained: ShortTraining):
    assert trained.losses[-1] < trained.losses[0] - 0.2
    assert trained.step._cache_size() == 1


def test_int8_answers_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    check_int8(experiment, trained, ["block_0/out/kernel", "block_0/uvqk/kernel"], tolerance=0.1)
