import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.errors import UserError
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.logistic_regression import LogisticRegressionConfig
from recjax.training.checkpoint import Checkpoints
from recjax.training.optimizer import make_optimizer
from recjax.transforms.paths import flatten
from recjax.transforms.protocol import Finalization, chain
from recjax.transforms.prune import Prune, PruneState, prune, unit_norms

CONFIG = DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(8,), cross_ranks=(4, 6), top_mlp=(16, 8))  # as in conftest


def apply(transform: Prune, params: Any, total_steps: int, n_steps: int, update: float = 0.0) -> tuple[Any, PruneState]:
    """Returns parameters and state after `n_steps` steps, each of which adds `update` to every value."""
    gradient = transform.gradient(CONFIG, total_steps)

    @jax.jit
    def step(params: Any, state: PruneState) -> tuple[Any, PruneState]:
        updates, state = gradient.update(jax.tree.map(lambda x: jnp.full_like(x, update), params), state, params)
        return optax.apply_updates(params, updates), state

    state = gradient.init(params)
    for _ in range(n_steps):
        params, state = step(params, state)
    return params, state


def empty_units(params: Any) -> list[int]:
    flat = flatten(params)
    return [int((np.asarray(unit_norms(layer, flat)) == 0).sum()) for layer in CONFIG.hidden_units()]


def test_schedule_by_hand():
    transform = prune(0.5, begin=0.2, end=0.6)  # of 100 steps: from step 20 to step 60, cubic
    expected = {0: 0, 20: 0, 30: 0.5 * (1 - 0.75**3), 40: 0.5 * (1 - 0.5**3), 60: 0.5, 99: 0.5}
    for step, share in expected.items():
        assert float(transform.sparsity_at(jnp.asarray(step), 100)) == pytest.approx(share, abs=1e-7)


def test_power_one_is_linear():
    transform = prune(0.8, begin=0.1, end=0.6, power=1)
    assert float(transform.sparsity_at(jnp.asarray(25), 100)) == pytest.approx(0.8 * (25 - 10) / (60 - 10))


@pytest.mark.parametrize(
    ("end", "update_every", "total_steps", "settled"),
    [
        (0.5, 10, 100, 51),  # the update at step 50 reaches the full share; 51 steps are then done
        (0.55, 10, 100, 56),  # the last update keeps its own step, between those at 50 and 60
        (0.0, 10, 100, 1),
        (1.0, 10, 100, 100),
        (0.5, 10, 8, 5),
    ],
)
def test_settled_step_by_hand(end: float, update_every: int, total_steps: int, settled: int):
    assert prune(0.5, end=end, update_every=update_every).settled_step(total_steps) == settled


@pytest.mark.parametrize(
    ("options", "total_steps"),
    [
        ({"end": 0.5, "update_every": 10}, 8),  # over before the second update
        ({"end": 1.0, "update_every": 10}, 40),  # no update at the last step
        ({"begin": 0.5, "end": 0.5, "update_every": 10}, 40),  # all at once
    ],
)
def test_asked_share_is_removed_by_the_settled_step_or_refused(
    dlrm_params: Any, options: dict[str, Any], total_steps: int
):
    transform = prune(0.5, **options)
    try:
        pruned, _ = apply(transform, dlrm_params, total_steps, n_steps=transform.settled_step(total_steps))
    except UserError:
        return
    assert empty_units(pruned) == [8 / 2, 4 / 2, 6 / 2, 16 / 2, 8 / 2]


def test_exactly_the_smallest_units_become_exactly_zero(dlrm_params: Any):
    flat = flatten(dlrm_params)
    pruned, _ = apply(prune(0.5, end=0.5), dlrm_params, total_steps=40, n_steps=40)
    flat_pruned = flatten(pruned)
    assert empty_units(pruned) == [8 / 2, 4 / 2, 6 / 2, 16 / 2, 8 / 2]
    first = CONFIG.hidden_units()[0]  # no neighbour shares its slices, so that norms change all at once
    norms, after = np.asarray(unit_norms(first, flat)), np.asarray(unit_norms(first, flat_pruned))
    np.testing.assert_array_equal(np.flatnonzero(after), np.sort(np.argsort(norms)[4:]))
    np.testing.assert_array_equal(after[after > 0], norms[after > 0])  # the kept ones are untouched
    untouched = set(flat) - {path for layer in CONFIG.hidden_units() for path, _ in layer.slices}
    assert "logit/bias" in untouched
    assert "table_user/table" in untouched
    for path in untouched:
        np.testing.assert_array_equal(flat_pruned[path], flat[path])


def test_number_of_removed_units_is_rounded_down(dlrm_params: Any):
    pruned, _ = apply(prune(0.3), dlrm_params, total_steps=40, n_steps=40)
    assert empty_units(pruned) == [2, 1, 1, 4, 2]  # of 8, 4, 6, 16, 8: 2.4, 1.2, 1.8, 4.8, 2.4


def test_masked_weights_stay_zero_whatever_the_gradient(dlrm_params: Any):
    pruned, state = apply(prune(0.5), dlrm_params, total_steps=40, n_steps=40, update=0.01)
    flat = flatten(pruned)
    for path, mask in state.masks.items():
        assert not np.asarray(flat[path])[~np.asarray(mask)].any()
        assert np.asarray(flat[path])[np.asarray(mask)].all()
    assert empty_units(pruned) == [4, 2, 3, 8, 4]


def test_nothing_is_zero_before_begin(dlrm_params: Any):
    early, _ = apply(prune(0.5, begin=0.5, end=0.75), dlrm_params, total_steps=40, n_steps=20)
    assert empty_units(early) == [0] * 5


def test_element_structure_removes_the_smallest_weights_of_each_kernel(dlrm_params: Any):
    transform = prune(0.25, structure="element")
    pruned, _ = apply(transform, dlrm_params, total_steps=40, n_steps=40)
    flat, flat_pruned = flatten(dlrm_params), flatten(pruned)
    for path in {path for layer in CONFIG.hidden_units() for path, _ in layer.slices}:
        before, after = np.asarray(flat[path]), np.asarray(flat_pruned[path])
        if path.endswith("bias"):
            np.testing.assert_array_equal(after, before)
            continue
        smallest = np.argsort(np.abs(before).ravel(), kind="stable")[: before.size // 4]
        np.testing.assert_array_equal(np.sort(np.flatnonzero(after == 0)), np.sort(smallest))
        np.testing.assert_array_equal(after[after != 0], before[after != 0])


def test_masks_live_in_the_optimizers_state_and_survive_a_checkpoint(
    dlrm_experiment: Experiment, dlrm_params: Any, tmp_path: Path
):
    optimizer = make_optimizer(dlrm_experiment.training, chain(prune(0.5)), CONFIG, 40)
    step = jax.jit(optimizer.update)
    params, state = dlrm_params, optimizer.init(dlrm_params)
    for _ in range(25):
        updates, state = step(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    pruning = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, PruneState)) if hasattr(s, "masks")]
    assert len(pruning) == 1
    assert int(pruning[0].step) == 25
    assert sum(int((~np.asarray(mask)).sum()) for mask in pruning[0].masks.values()) > 0
    checkpoints = Checkpoints(tmp_path / "run", {"name": "a"})
    checkpoints.save(1, {"state": state}, [])
    restored, _ = checkpoints.restore({"state": optimizer.init(dlrm_params)})
    jax.tree.map(np.testing.assert_array_equal, restored["state"], state)
    assert jax.tree.structure(restored["state"]) == jax.tree.structure(state)
    next_update, next_restored = (step(params, s, params)[0] for s in (state, restored["state"]))
    jax.tree.map(np.testing.assert_array_equal, next_restored, next_update)


def test_finalize_reports_the_share_of_zeros(dlrm_params: Any, labelled: LabelledData):
    transform = prune(0.5)
    pruned, _ = apply(transform, dlrm_params, total_steps=40, n_steps=40)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("pruning trains nothing at the end")

    hooks = ("build", "batches", "retrain", "validate", "counts", "shapes")
    context = Finalization(**dict.fromkeys(hooks, forbidden))
    config, variables, report = transform.finalize(CONFIG, {"params": pruned}, context)
    assert config is CONFIG
    jax.tree.map(np.testing.assert_array_equal, variables, {"params": pruned})
    # bottom_mlp[0] owns whole rows and columns, half of them zero; others also lose what their neighbours do.
    assert report.details["zero_share"]["bottom_mlp[0]"] == 0.5
    assert set(report.details["zero_share"]) == {layer.name for layer in CONFIG.hidden_units()}


def test_a_model_without_hidden_layers_is_refused():
    with pytest.raises(UserError, match=r"prune\(0.5\) has nothing to prune: LogisticRegressionConfig"):
        prune(0.5).gradient(LogisticRegressionConfig(), 10)


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.0},
        {"sparsity": 1.0},
        {"structure": "row"},
        {"begin": 0.6, "end": 0.5},
        {"end": 1.5},
        {"update_every": 0},
        {"power": 0},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]):
    with pytest.raises(UserError, match="allowed: "):
        dataclasses.replace(prune(0.5), **options)
