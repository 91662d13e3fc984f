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
from recjax.transforms.low_rank import low_rank
from recjax.transforms.paths import flatten
from recjax.transforms.protocol import Finalization, chain
from recjax.transforms.prune import Prune, PruneState, prune
from recjax.transforms.units import unit_norms

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


def test_one_shot_waits_for_the_end():
    transform = prune(0.5, end=0.6, schedule="one_shot")
    shares = [float(transform.sparsity_at(jnp.asarray(step), 100)) for step in (0, 30, 59, 60, 99)]
    assert shares == [0, 0, 0, 0.5, 0.5]


def test_power_one_is_linear():
    transform = prune(0.8, begin=0.1, end=0.6, schedule="polynomial", power=1)
    assert float(transform.sparsity_at(jnp.asarray(25), 100)) == pytest.approx(0.8 * (25 - 10) / (60 - 10))
    linear = dataclasses.replace(transform, schedule="linear", power=3)
    assert linear.sparsity_at(jnp.asarray(25), 100) == transform.sparsity_at(jnp.asarray(25), 100)


@pytest.mark.parametrize(
    ("transform", "label"),
    [
        (prune(0.9, structure="element"), "prune(0.9, element)"),
        (prune(structure="2:4", criterion="movement"), "prune(2 of 4, movement)"),
        (
            prune(0.5, criterion="random", begin=0.1, end=0.9, update_every=5, seed=3),
            "prune(0.5, random, from 0.1, until 0.9, every 5, seed 3)",
        ),
        (prune(0.5, scope="global", schedule="polynomial", power=2), "prune(0.5, global, power 2)"),
        (
            prune(0.5, structure="element", exclude=("cross/.*",), logits=True),
            "prune(0.5, element, some layers, logits)",
        ),
    ],
)
def test_label_says_what_differs_from_the_default(transform: Prune, label: str):
    assert transform.label == label


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
    for path in flat:
        before, after = np.asarray(flat[path]), np.asarray(flat_pruned[path])
        if not path.endswith("kernel") or path == "logit/kernel":  # tables, biases and the answer's own layer
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
    flat = flatten(pruned)
    owned = {path for layer in CONFIG.hidden_units() for path, _ in layer.slices}
    assert report.details["total_values"] == sum(flat[path].size for path in owned)
    assert report.details["kept_values"] == sum(int((flat[path] != 0).sum()) for path in owned)


def test_a_model_without_hidden_layers_is_refused():
    with pytest.raises(UserError, match=r"prune\(0.5\) has nothing to prune: LogisticRegressionConfig"):
        prune(0.5).rewrite(LogisticRegressionConfig())
    with pytest.raises(UserError, match=r"prune cannot be applied: LogisticRegressionConfig has no dense layer"):
        prune(0.5, structure="element").start(LogisticRegressionConfig(), {"weights": {"table": jnp.ones(3)}}, 0, dict)


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.0},
        {"sparsity": 1.0},
        {"structure": "row"},
        {"begin": 0.6, "end": 0.5},
        {"end": 1.5},
        {"update_every": 0},
        {"schedule": "polynomial", "power": 0},
        {"power": 2},
        {"seed": -1},
        {"structure": "4:2"},
        {"structure": "2:4", "scope": "global"},
        {"logits": True},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]):
    with pytest.raises(UserError, match="allowed: "):
        dataclasses.replace(prune(0.5), **options)


def test_a_group_decides_the_sparsity():
    assert prune(structure="2:4").share == prune(0.5, structure="2:4").share == 0.5
    assert prune(structure="1:4").share == 0.75
    with pytest.raises(UserError, match=r"prune sparsity of 2:4 is 0.6; allowed: 0.5, which may be left out"):
        prune(0.6, structure="2:4")
    with pytest.raises(UserError, match=r"prune sparsity is None; allowed: \(0, 1\)"):
        prune(structure="element")


@pytest.mark.parametrize("bad", ["(", "nowhere"])
def test_patterns_that_match_nothing_are_refused(bad: str, dlrm_params: Any):
    with pytest.raises(UserError, match=r"prune pattern|no regular expression"):
        prune(0.5, structure="element", exclude=(bad,)).start(CONFIG, dlrm_params, 0, dict)
    with pytest.raises(UserError, match=r"prune pattern|no regular expression"):
        prune(0.5, include=(bad,)).rewrite(CONFIG)


def test_two_of_four_weights_stay_in_every_kernel(dlrm_params: Any):
    pruned, _ = apply(prune(structure="2:4"), dlrm_params, total_steps=40, n_steps=40)
    kernel = np.asarray(flatten(pruned)["top_mlp/dense_1/kernel"])  # [16, 8]
    np.testing.assert_array_equal((kernel.reshape(4, 4, 8) != 0).sum(1), np.full((4, 8), 2))
    assert (np.asarray(flatten(pruned)["logit/kernel"]) != 0).all()


def test_layers_can_be_named(dlrm_params: Any):
    units, _ = apply(prune(0.5, include=(r"top_mlp\[\d\]",), exclude=(r"top_mlp\[1\]",)), dlrm_params, 40, 40)
    assert empty_units(units) == [0, 0, 0, 8, 0]
    weights, state = apply(prune(0.5, structure="element", include=("cross/.*",)), dlrm_params, 40, 40)
    assert sorted(state.masks) == [f"cross/{layer}/kernel" for layer in ("down_0", "down_1", "up_0", "up_1")]
    assert (np.asarray(flatten(weights)["top_mlp/dense_0/kernel"]) != 0).all()


def test_a_global_share_is_of_all_weights_together(dlrm_params: Any):
    # One kernel a hundred times smaller than the others loses first, but never its last weight.
    top = dlrm_params["top_mlp"]
    small = {**dlrm_params, "top_mlp": {**top, "dense_1": {**top["dense_1"], "kernel": top["dense_1"]["kernel"] / 100}}}
    pruned, state = apply(prune(0.25, structure="element", scope="global"), small, 40, 40)
    sizes = {path: mask.size for path, mask in state.masks.items()}
    zeros = {path: int((np.asarray(flatten(pruned)[path]) == 0).sum()) for path in sizes}
    assert sum(zeros.values()) == int(0.25 * sum(sizes.values()))
    assert zeros["top_mlp/dense_1/kernel"] == sizes["top_mlp/dense_1/kernel"] - 1


def test_a_global_share_of_units_goes_by_the_mean_square(dlrm_params: Any):
    pruned, _ = apply(prune(0.5, scope="global"), dlrm_params, 40, 40)
    emptied = empty_units(pruned)
    assert sum(emptied) == (8 + 4 + 6 + 16 + 8) // 2
    assert emptied != [4, 2, 3, 8, 4]


@pytest.mark.parametrize("structure", ["unit", "element"])
def test_random_masks_only_grow(structure: str, dlrm_params: Any):
    transform = prune(0.6, structure=structure, criterion="random", update_every=1, seed=3)
    _, early = apply(transform, dlrm_params, 40, 8)
    _, late = apply(transform, dlrm_params, 40, 40)
    _, other = apply(dataclasses.replace(transform, seed=4), dlrm_params, 40, 40)
    assert sum(int((~mask).sum()) for mask in early.masks.values()) > 0
    for path, mask in early.masks.items():
        assert not (late.masks[path] & ~mask).any()
    assert any((late.masks[path] != other.masks[path]).any() for path in late.masks)


def test_movement_keeps_weights_that_move_away_from_zero(dlrm_params: Any):
    # Every value grows by 0.01: positive weights move away from 0, negative ones towards it.
    transform = prune(0.5, structure="element", criterion="movement", schedule="one_shot")
    pruned, state = apply(transform, dlrm_params, 40, transform.settled_step(40), update=0.01)
    before, after = flatten(dlrm_params), flatten(pruned)
    for path, mask in state.masks.items():
        start = np.asarray(before[path])
        n_kept = mask.size - mask.size // 2
        kept = np.sort(start.ravel())[-n_kept:]  # the score is the sum of 0.01 x value, which orders as the values do
        np.testing.assert_array_equal(np.sort(start[np.asarray(mask)]), kept)
        assert not np.asarray(after[path])[~np.asarray(mask)].any()


def test_units_are_scored_by_the_movement_of_all_they_own(dlrm_params: Any):
    transform = prune(0.5, criterion="movement", schedule="one_shot", include=(r"bottom_mlp\[0\]",))
    pruned, _ = apply(transform, dlrm_params, 40, transform.settled_step(40), update=0.01)
    layer, flat = CONFIG.hidden_units()[0], flatten(dlrm_params)
    moved = sum(np.moveaxis(np.asarray(flat[path]), axis, 0).reshape(8, -1).sum(1) for path, axis in layer.slices)
    empty = np.flatnonzero(np.asarray(unit_norms(layer, flatten(pruned))) == 0)
    np.testing.assert_array_equal(empty, np.sort(np.argsort(moved)[:4]))


def test_factors_and_recurrent_kernels_are_pruned_too(dlrm_params: Any):
    factored = low_rank(budget=0.9, when="start", include=("top_mlp/dense_0",)).start(CONFIG, dlrm_params, 0, dict)
    _, state = apply(prune(0.5, structure="element"), factored, 40, 1)
    assert {"top_mlp/dense_0/kernel/down", "top_mlp/dense_0/kernel/up"} <= set(state.masks)
    units, _ = apply(prune(0.5, include=(r"top_mlp\[0\]",)), factored, 40, 40)
    up = np.asarray(flatten(units)["top_mlp/dense_0/kernel/up"])
    assert ((up == 0).all(0)).sum() == 16 / 2
    recurrent = {"user_branch": {"input": {"kernel": jnp.ones((4, 8))}, "state_kernel": jnp.ones((2, 8))}}
    assert sorted(prune(0.5, structure="element").gradient(CONFIG, 10).init(recurrent).masks) == [
        "user_branch/input/kernel",
        "user_branch/state_kernel",
    ]
