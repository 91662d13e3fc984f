import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.config import Training
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.training.optimizer import make_optimizer, make_table_optimizer
from recjax.transforms.protocol import Transform, chain


def step_sizes(training: Training, total_steps: int, transform: Transform | None = None) -> np.ndarray:
    """Returns how far each step moves a parameter whose gradient is always 1: Adam's step is the learning rate."""
    optimizer = make_optimizer(training, transform or chain(), LogisticRegressionConfig(), total_steps)
    params = {"w": jnp.zeros(1)}
    state, sizes = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(total_steps):
        updates, state = update({"w": jnp.ones(1)}, state, params)
        sizes.append(-updates["w"].item())
    return np.array(sizes)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1]),
        ({"decay": "cosine"}, [(1 + np.cos(np.pi * i / 6)) / 2 for i in range(6)]),
        ({"decay": "cosine", "warmup_steps": 2}, [0, 1 / 2, 1] + [(1 + np.cos(np.pi * i / 4)) / 2 for i in (1, 2, 3)]),
    ],
)
def test_learning_rate_follows_its_schedule(options: dict, expected: list[float]):
    sizes = step_sizes(Training(learning_rate=0.5, **options), 6)
    np.testing.assert_allclose(sizes, 0.5 * np.array(expected), rtol=1e-4, atol=1e-7)


def test_weight_decay_is_decoupled():
    optimizer = make_optimizer(Training(learning_rate=0.5, weight_decay=0.1), chain(), LogisticRegressionConfig(), 5)
    params = {"w": jnp.array([4.0])}
    updates, _ = optimizer.update({"w": jnp.zeros(1)}, optimizer.init(params), params)
    assert updates["w"].item() == pytest.approx(-0.5 * 0.1 * 4)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    optimizer = make_optimizer(Training(max_grad_norm=1.0), chain(), LogisticRegressionConfig(), 5)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    moments = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose([moments["a"].item(), moments["b"].item()], [0.1 * 3 / 5, 0.1 * 4 / 5], rtol=1e-5)


def test_the_transform_has_the_last_word():
    class Halt(Transform):
        def gradient(self, model_config: object, total_steps: int) -> optax.GradientTransformation:
            return optax.set_to_zero()

    assert not step_sizes(Training(weight_decay=0.1), 3, Halt()).any()


def test_tables_share_the_schedule_at_their_own_peak():
    options = {"warmup_steps": 2, "decay": "cosine", "learning_rate": 0.5}
    assert make_table_optimizer(Training(**options), 6) is None
    tables = make_table_optimizer(Training(**options, table_optimizer="sgd", table_learning_rate=3.0), 6)
    assert tables is not None
    expected = [0, 1 / 2, 1] + [(1 + np.cos(np.pi * i / 4)) / 2 for i in (1, 2, 3)]
    rates = [float(tables.learning_rate(jnp.int32(step))) for step in range(6)]
    np.testing.assert_allclose(rates, 3 * np.array(expected), rtol=1e-5, atol=1e-7)
    inherited = make_table_optimizer(Training(**options, table_optimizer="sgd"), 6)
    assert inherited is not None
    assert float(inherited.learning_rate(jnp.int32(2))) == 0.5


def test_where_tables_have_their_own_optimizer_it_does_the_clipping():
    training = Training(max_grad_norm=1.0, table_optimizer="sgd")
    optimizer, tables = (
        make_optimizer(training, chain(), LogisticRegressionConfig(), 5),
        make_table_optimizer(training, 5),
    )
    params = {"w": jnp.zeros(1)}
    _, state = optimizer.update({"w": jnp.array([5.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, "mu")["w"], [0.1 * 5.0], rtol=1e-5)
    assert tables is not None
    assert tables.max_grad_norm == 1.0
