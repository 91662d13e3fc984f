import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import ShortTraining, check_int8, check_one_program_a_shape, short_training
from random_variables import random_variables

from recjax.config import Dataset, Experiment, Training
from recjax.data.candidates import CandidatesSchema, SyntheticDLRMv3
from recjax.data.synthetic_dlrm import DLRMv3Options
from recjax.errors import UserError
from recjax.hardware.product_flops import product_flops
from recjax.models.hstu_ranker import HSTURanker, HSTURankerConfig
from recjax.training.pipeline import finalize
from recjax.training.step import init_params
from recjax.transforms.paths import flatten, unflatten_like
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink

B, L, C, D, H, K, W = 4, 6, 5, 8, 2, 3, 5  # W is a head's value dim
SCHEMA = CandidatesSchema(n_users=7, n_items=23, n_categories=3, max_history=L, max_candidates=C)
CONFIG = HSTURankerConfig(
    embedding_dim=D,
    layers=2,
    heads=H,
    key_dim=K,
    value_dim=W,
    hidden_dim=6,
    candidate_dim=9,
    action_dim=4,
    positions=5,
    time_buckets=7,
    input_dropout_rate=0.3,
    dropout_rate=0.2,
)
LENGTHS = np.array([6, 3, 0, 1], np.int32)
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Returns a training batch with histories of 6, 3, no and 1 items."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(0, 3_000, (B, L)), 1)
    columns = {
        "history": rng.integers(SCHEMA.n_items, size=(B, L)),
        "actions": rng.integers(1, 6, (B, L)),
        "times": times,
    }
    used = np.arange(L) < LENGTHS[:, None]
    return {name: np.where(used, column, 0).astype(np.int32) for name, column in columns.items()} | {
        "user": rng.integers(SCHEMA.n_users, size=B).astype(np.int32),
        "lengths": LENGTHS,
        "query_time": (times.max(1) + rng.integers(400_000, size=B)).astype(np.int32),
        "candidates": rng.integers(SCHEMA.n_items, size=(B, C)).astype(np.int32),
        "labels": rng.integers(2, size=(B, C)).astype(np.float32),
        "weight": np.array([1, 1, 1, 0], np.float32),
    }


@pytest.fixture(scope="module")
def model() -> HSTURanker:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def variables(model: HSTURanker, batch: Batch) -> Any:
    return random_variables(model, batch)


@pytest.fixture(scope="module")
def score(model: HSTURanker) -> Any:
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def loss_of(model: HSTURanker) -> Any:
    return jax.jit(lambda variables, batch: model.apply(variables, batch, train=False, method="loss"))


def norm(x: np.ndarray, params: Any = None) -> np.ndarray:
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normed * params["scale"] + params["bias"] if params else normed


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def dense(x: np.ndarray, params: Any) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0)


def mlp(x: np.ndarray, params: Any) -> np.ndarray:
    hidden = dense(x, params["dense_0"])
    hidden = hidden * sigmoid(norm(hidden, params["norm_hidden"]))
    return norm(dense(hidden, params["dense_1"]), params["norm_output"]) if "dense_1" in params else hidden


def category(item: int) -> int:
    return min(item // (SCHEMA.n_items // SCHEMA.n_categories), SCHEMA.n_categories - 1)


def block(x: np.ndarray, n_tokens: int, params: Any) -> np.ndarray:
    """Returns a layer's output for unpadded tokens and the candidates behind them, one pair of positions at a time."""
    gate, value, query, key = np.split(
        dense(norm(x, params["norm_input"]), params["uvqk"]), [H * W, 2 * H * W, H * (2 * W + K)], axis=1
    )
    gate = gate * sigmoid(gate)
    attended = np.zeros((len(x), H * W))
    for i, j, h in np.ndindex(len(x), len(x), H):
        if j == i or j < min(i, n_tokens):  # itself, and what is before it that is no candidate
            product = query[i, h * K : (h + 1) * K] @ key[j, h * K : (h + 1) * K] / np.sqrt(K)
            weight = product * sigmoid(product) / (1 + L + C)
            attended[i, h * W : (h + 1) * W] += weight * value[j, h * W : (h + 1) * W]
    return x + dense(np.concatenate([gate, attended, norm(attended) * gate], 1), params["out"])


def logits(params: Any, batch: Batch, row: int) -> np.ndarray:
    """Returns the [C] logits of a request, in plain NumPy, without any padding."""
    params, n = jax.tree.map(np.asarray, params), batch["lengths"][row]
    table = {name: params[name]["table"] for name in ("items", "categories", "users", "actions", "positions", "times")}
    x = [dense(table["users"][batch["user"][row]], params["user"]) * np.sqrt(D) + table["positions"][0]]
    for j in range(n + C):
        is_candidate = j >= n
        item = batch["candidates"][row, j - n] if is_candidate else batch["history"][row, j]
        action = 0 if is_candidate else batch["actions"][row, j]
        seconds = 0 if is_candidate else batch["query_time"][row] - batch["times"][row, j]
        embedded = (
            mlp(table["items"][item], params["content"])
            + mlp(table["categories"][category(item)], params["category"])
            + mlp(table["actions"][action], params["action"])
        )
        position = 1 if is_candidate else min(n - j + 1, CONFIG.positions - 1)
        bucket = min(int(np.sqrt(seconds / 60)), CONFIG.time_buckets - 1)
        x.append(embedded * np.sqrt(D) + table["positions"][position] + table["times"][bucket])
    x = np.stack(x)
    for i in range(CONFIG.layers):
        x = block(x, 1 + n, params[f"block_{i}"])
    now = batch["query_time"][row]
    hour, day = 2 * np.pi * (now // 3600 % 24) / 24, 2 * np.pi * (now // 86_400 % 7) / 7
    cycles = np.array([np.cos(hour), np.sin(hour), np.cos(day), np.sin(day)])
    state = norm(dense(x[1 + n :], params["state"]) + dense(cycles, params["time"]), params["norm_state"])
    candidates = batch["candidates"][row]
    features = [table["items"][candidates], table["categories"][[category(item) for item in candidates]]]
    item = mlp(np.concatenate(features, 1), params["candidate"])
    return dense(mlp(state * item, params["answer"]), params["logit"])[:, 0]


def test_scores_agree_with_numpy(score: Any, variables: Any, batch: Batch):
    expected = np.stack([logits(variables["params"], batch, row) for row in range(B)])
    scores = score(variables, batch)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_real_requests(loss_of: Any, variables: Any, batch: Batch):
    x = np.stack([logits(variables["params"], batch, row) for row in range(B - 1)])  # the last one is padding
    expected = np.mean(np.log1p(np.exp(x)) - x * batch["labels"][:-1])
    assert loss_of(variables, batch) == pytest.approx(expected, rel=1e-5)


def test_a_candidate_changes_its_own_score_alone(score: Any, variables: Any, batch: Batch):
    before = score(variables, batch)
    for changed in range(C):
        candidates = batch["candidates"].copy()
        candidates[:, changed] = (candidates[:, changed] + 1) % SCHEMA.n_items
        after = score(variables, {**batch, "candidates": candidates})
        others = np.arange(C) != changed
        np.testing.assert_array_equal(after[:, others], before[:, others])
        assert (after[:, changed] != before[:, changed]).all()


def test_candidates_in_another_order_have_their_scores_in_that_order(score: Any, variables: Any, batch: Batch):
    order = np.array([3, 0, 4, 2, 1])
    shuffled = score(variables, {**batch, "candidates": batch["candidates"][:, order]})
    np.testing.assert_allclose(shuffled, score(variables, batch)[:, order], rtol=1e-6, atol=1e-7)


def test_fewer_candidates_have_the_same_scores(score: Any, variables: Any, batch: Batch):
    few = score(variables, {**batch, "candidates": batch["candidates"][:, :2]})
    np.testing.assert_allclose(few, score(variables, batch)[:, :2], rtol=1e-5, atol=1e-6)


def test_every_item_of_the_history_is_seen(score: Any, variables: Any, batch: Batch):
    before = score(variables, batch)
    for row, n in enumerate(LENGTHS):
        for j in range(n):
            history = batch["history"].copy()
            history[row, j] = (history[row, j] + 1) % SCHEMA.n_items
            after = score(variables, {**batch, "history": history})
            others = np.arange(B) != row
            assert (after[row] != before[row]).all()
            np.testing.assert_array_equal(after[others], before[others])


def test_padding_means_nothing(score: Any, variables: Any, batch: Batch):
    used = np.arange(L) < LENGTHS[:, None]
    rng = np.random.default_rng(3)
    junk = {
        "history": rng.integers(SCHEMA.n_items, size=(B, L)),
        "actions": rng.integers(1, 6, (B, L)),
        "times": rng.integers(10_000, size=(B, L)),
    }
    with_junk = {name: np.where(used, batch[name], column).astype(np.int32) for name, column in junk.items()}
    np.testing.assert_array_equal(score(variables, {**batch, **with_junk}), score(variables, batch))
    wider = {name: np.pad(batch[name], ((0, 0), (0, 3))) for name in junk}
    np.testing.assert_allclose(score(variables, {**batch, **wider}), score(variables, batch), rtol=1e-5, atol=1e-6)


def test_one_program_a_shape(model: HSTURanker, variables: Any, batch: Batch):
    check_one_program_a_shape(model, variables, batch)


def test_serve_returns_each_candidates_probability(model: HSTURanker, score: Any, variables: Any, batch: Batch):
    answer = jax.jit(lambda v, b: model.apply(v, b, top_k=3, method="serve"))(variables, batch)
    assert list(answer) == ["probability"]
    assert answer["probability"].shape == (B, C)
    assert answer["probability"].dtype == jnp.float32
    np.testing.assert_allclose(answer["probability"], sigmoid(np.asarray(score(variables, batch))), rtol=1e-5)


@pytest.mark.parametrize("n_candidates", [C, 4 * C])
def test_attention_costs_positions_times_tokens(model: HSTURanker, variables: Any, batch: Batch, n_candidates: int):
    """The count of the model's docstring, with T = 1 + L tokens and S = T + C positions: not S x S."""
    wide = {**batch, "candidates": np.zeros((B, n_candidates), np.int32)}
    traced = jax.jit(model.apply).trace(variables, wide)
    T, S = 1 + L, 1 + L + n_candidates
    layer = S * (D * 2 * H * (W + K) + 3 * H * W * D) + S * T * H * (K + W)
    hidden, wide_hidden, actions = CONFIG.hidden_dim, CONFIG.candidate_dim, 6
    ahead = (S - 1) * 2 * D * hidden + D * D
    shared = SCHEMA.n_categories * 2 * D * hidden + actions * (CONFIG.action_dim * hidden + hidden * D)
    answer = n_candidates * (3 * D * wide_hidden + D * D + D * wide_hidden + wide_hidden) + 4 * D
    expected = 2 * (B * (CONFIG.layers * layer + ahead + answer) + shared)
    assert product_flops(traced, 1) == {"float32": expected}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding_dim": 0}, "HSTURankerConfig.embedding_dim is 0; allowed: >= 1"),
        ({"layers": 0}, "HSTURankerConfig.layers is 0; allowed: >= 1"),
        ({"hidden_dim": 0}, "HSTURankerConfig.hidden_dim is 0; allowed: >= 1"),
        ({"time_buckets": 0}, "HSTURankerConfig.time_buckets is 0; allowed: >= 1"),
        ({"positions": 2}, "HSTURankerConfig.positions is 2; allowed: >= 3"),
        ({"normed_heads": 3}, "HSTURankerConfig.normed_heads is 3; allowed: 0, or at least heads"),
        ({"input_dropout_rate": 1.0}, "HSTURankerConfig.input_dropout_rate is 1.0; allowed: [0, 1)"),
        ({"dropout_rate": -0.1}, "HSTURankerConfig.dropout_rate is -0.1; allowed: [0, 1)"),
    ],
)
def test_config_rejects(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        HSTURankerConfig(**values)
    assert str(error.value) == message


def test_the_defaults_are_mlcommons_sizes():
    c = HSTURankerConfig()
    assert (c.embedding_dim, c.layers, c.heads, c.key_dim, c.value_dim) == (512, 5, 4, 128, 128)


@pytest.fixture(scope="module")
def data() -> SyntheticDLRMv3:
    """Returns requests of few items, so that a model can learn what each is rated."""
    options = DLRMv3Options(
        n_users=9,
        n_items=80,
        n_categories=8,
        n_candidates=12,
        n_periods=10,
        items_a_period=1.0,
        shortest_period=1,
        max_history=8,
    )
    return SyntheticDLRMv3(options=options, n_train=256, n_valid=64, n_test=20, training_candidates=12)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    training = Training(epochs=4, batch_size=32, learning_rate=1e-2)
    return Experiment(
        name="tiny_hstu_ranker",
        dataset=Dataset(source="synthetic-dlrm-v3-1of10000"),
        model=dataclasses.replace(CONFIG, heads=4, dropout_rate=0.0, input_dropout_rate=0.0),
        training=training,
        finetuning=training,
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment, data: SyntheticDLRMv3) -> ShortTraining:
    return short_training(experiment, data)


def test_a_short_training_learns_with_one_program(trained: ShortTraining):
    assert trained.losses[-1] < trained.losses[0] - 0.1
    assert trained.step._cache_size() == 1


def test_int8_answers_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    mlps = [f"{name}/dense_{i}/kernel" for name in ("action", "candidate", "category", "content") for i in (0, 1)]
    blocks = [f"block_{i}/{name}/kernel" for i in (0, 1) for name in ("out", "uvqk")]
    kernels = sorted(
        ["answer/dense_0/kernel", *mlps, *blocks, *(f"{name}/kernel" for name in ("state", "time", "user"))]
    )
    check_int8(experiment, trained, kernels, tolerance=0.1)


def test_int8_with_products_and_bf16_answer_nearly_the_same(experiment: Experiment, trained: ShortTraining):
    request = next(iter(trained.data.eval_batches("test", 16)))
    plain = finalize(experiment, trained.data, trained.params)
    expected = jax.jit(plain.score)(plain.variables, request)
    for transforms in ((quantize(products=True, when="after"),), (bf16(),), (bf16(), quantize(when="after"))):
        label = chain(*transforms).label
        final = finalize(dataclasses.replace(experiment, transforms=transforms), trained.data, trained.params)
        scores = jax.jit(final.score)(final.variables, request)
        assert scores.dtype == jnp.float32, label
        np.testing.assert_allclose(scores, expected, atol=0.15 * np.abs(expected).max(), err_msg=label)


def test_heads_that_are_zero_are_removed_and_nothing_changes(experiment: Experiment, data: SyntheticDLRMv3):
    request = next(data.eval_batches("valid", 16))
    params = random_variables(experiment.model.build(data.schema), request)["params"]
    flat = {path: np.array(leaf) for path, leaf in flatten(params).items()}
    for layer in experiment.model.attention_heads():
        for path, axis, start, width in layer.slices:
            flat[path][(slice(None),) * axis + (slice(start + width, start + 2 * width),)] = 0  # the second head
    masked = unflatten_like(params, {path: jnp.asarray(leaf) for path, leaf in flat.items()})
    transform = shrink(heads=0.25, finetune_epochs=0)
    models = [finalize(dataclasses.replace(experiment, transforms=t), data, masked) for t in ((), (transform,))]
    assert (models[1].config.heads, models[1].config.normed_heads) == (3, 4)
    expected, scores = (np.asarray(jax.jit(m.score)(m.variables, request)) for m in models)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    fresh = jax.eval_shape(lambda: init_params(models[1].config.build(data.schema), request, 0))
    assert jax.tree.map(jnp.shape, models[1].variables["params"]) == jax.tree.map(jnp.shape, fresh)
