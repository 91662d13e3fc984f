"""Sparse steps against dense ones, and the compiled program: nothing in it is of a table's size but the table."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.config import Experiment, Training
from recjax.data.batches import PADDING_ID
from recjax.data.features import Field, LabelledSchema
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.data.top_n import TopNSchema
from recjax.errors import UserError
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.ials import IALSConfig
from recjax.models.irgan import IRGANConfig
from recjax.training.optimizer import ROW_UPDATES, TableOptimizer, make_optimizer, make_table_optimizer
from recjax.training.pipeline import train
from recjax.training.row_updates import sgd
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import TrainState, init_params, init_state, make_train_step
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize

B, V_LONG, V_BAG, D = 16, 977, 463, 4  # no other array of the step has 977 or 463 rows
SCHEMA = LabelledSchema(2, (Field("long", V_LONG), Field("bag", V_BAG, 3), Field("day", 7)))
CONFIG = DLRMDCNv2Config(
    embedding_dim=D, bottom_mlp=(8,), cross_ranks=(4,), top_mlp=(16,), dropout_rate=0.2, embedding_dropout_rate=0.1
)
SPARSE = tuple(ROW_UPDATES)


def batch(seed: int) -> dict[str, np.ndarray]:
    """Returns ids from few rows, so that they repeat; bags with padding; the last four samples padding themselves."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 9, (B, 1)), rng.integers(0, 9, (B, 3)), rng.integers(0, 7, (B, 1))]
    ids[1][rng.random((B, 3)) < 0.4] = PADDING_ID
    return {
        "dense": rng.normal(size=(B, 2)).astype(np.float32),
        "sparse_ids": np.concatenate(ids, 1).astype(np.int32),
        "labels": rng.integers(0, 2, B).astype(np.float32),
        "weight": (np.arange(B) < B - 4).astype(np.float32),
    }


@pytest.fixture(scope="module")
def module() -> Any:
    return CONFIG.build(SCHEMA)


@pytest.fixture(scope="module")
def params(module: Any) -> Any:
    return init_params(module, batch(0), 0)


@pytest.fixture(scope="module", params=SPARSE)
def made(request: pytest.FixtureRequest, module: Any, params: Any) -> tuple[Callable[[], TrainState], Any]:
    """Returns, for each optimizer of rows, what makes a fresh state, and the compiled step."""
    training = Training(table_optimizer=request.param, learning_rate=0.1)
    optimizer = make_optimizer(training, chain(), CONFIG, 10)
    tables = make_table_optimizer(training, 10)
    assert tables is not None
    fresh = functools.partial(init_sparse_state, params, optimizer, tables)
    return fresh, make_sparse_train_step(module, optimizer, tables, 0).lower(fresh(), batch(0)).compile()


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_sparse_gradient_descent_is_dense_gradient_descent(module: Any, params: Any, max_grad_norm: float):
    clip = optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity()
    dense_optimizer, optimizer = optax.chain(clip, optax.sgd(0.3)), optax.sgd(0.3)
    tables = TableOptimizer(sgd(), lambda step: 0.3, max_grad_norm)
    dense_step = make_train_step(module, dense_optimizer, 0)
    step = make_sparse_train_step(module, optimizer, tables, 0)
    expected, state = init_state(params, dense_optimizer), init_sparse_state(params, optimizer, tables)
    for seed in range(5):
        expected, expected_loss = dense_step(expected, batch(seed))
        state, loss = step(state, batch(seed))
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), state.params, expected.params)
    moved = np.abs(expected.params["table_long"]["table"] - params["table_long"]["table"]).max()
    assert moved > 1e-3  # so that the comparison can fail


def test_rows_that_are_not_looked_up_keep_every_bit(made: Any, params: Any):
    fresh, step = made
    state = fresh()
    before = jax.tree.map(np.array, params)
    used: set[int] = set()
    for seed in range(3):
        used |= set(batch(seed)["sparse_ids"][: B - 4, 0].tolist())
        state, _ = step(state, batch(seed))
    table, start = np.asarray(state.params["table_long"]["table"]), before["table_long"]["table"]
    changed = np.flatnonzero((table != start).any(1))
    assert set(changed.tolist()) == used
    for slot in state.opt_state.slots["table_long/table"].values():
        assert set(np.flatnonzero(np.asarray(slot).reshape(V_LONG, -1).any(1)).tolist()) == used
    jax.tree.map(np.testing.assert_array_equal, params, before)  # steps donate the state, not the start


def test_padding_changes_nothing(made: Any):
    fresh, step = made
    state, other = fresh(), fresh()
    for seed in range(3):  # later steps are those in which a moment could leak into a row that padding looked up
        junk = dict(batch(seed))
        for name in ("dense", "labels", "sparse_ids"):
            junk[name] = junk[name].copy()
            junk[name][B - 4 :] = 0
        (state, loss), (other, other_loss) = step(state, batch(seed)), step(other, junk)
        assert loss == other_loss
    jax.tree.map(np.testing.assert_array_equal, other.params, state.params)


def test_nothing_in_the_compiled_program_is_of_a_tables_size(made: Any):
    fresh, compiled = made
    state = fresh()
    text = compiled.as_text()
    opcodes = set()
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (\(?[a-z]\w*\[[^=]*?) ([a-z][\w-]*)\(", line)
        if found and re.search(rf"\[({V_LONG}|{V_BAG})[\],]", found[1]):
            opcodes.add(found[2])
    assert "scatter" in opcodes or "dynamic-update-slice" in opcodes
    # A fusion of that shape can only be one around a scatter: what is inside it is in `opcodes` too.
    in_place = {"parameter", "scatter", "dynamic-update-slice", "fusion", "while", "tuple", "get-tuple-element"}
    assert opcodes <= in_place, opcodes - in_place
    assert " all-gather(" not in text

    table_bytes = sum(4 * rows * D for rows in (V_LONG, V_BAG))
    memory = compiled.memory_analysis()
    donated = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= donated  # tables and slots are updated where they lie
    aliases = text.splitlines()[0].count("-alias)")
    assert aliases == len(jax.tree.leaves(state))
    assert donated > table_bytes


def test_temporaries_do_not_grow_with_the_table():
    sizes = []
    for rows in (5_003, 500_003):
        module = CONFIG.build(LabelledSchema(2, (Field("long", rows), Field("bag", rows, 3), Field("day", 7))))
        shapes = jax.eval_shape(lambda module=module: init_params(module, batch(0), 0))
        training = Training(table_optimizer="lazy_adam", max_grad_norm=1.0)
        optimizer, tables = make_optimizer(training, chain(), CONFIG, 10), make_table_optimizer(training, 10)
        assert tables is not None
        state = jax.eval_shape(lambda o=optimizer, t=tables, s=shapes: init_sparse_state(_zeros(s), o, t))
        compiled = make_sparse_train_step(module, optimizer, tables, 0).lower(state, batch(0)).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] == sizes[0]


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


@pytest.mark.parametrize("kind", SPARSE)
def test_a_tiny_dlrm_learns(dlrm_experiment: Experiment, labelled: LabelledData, kind: str):
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer=kind, table_learning_rate=0.1, epochs=6)
    result = train(dataclasses.replace(dlrm_experiment, training=training), labelled)
    losses = [record.train_loss for record in result.history]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("transforms", [(bf16(),), (prune(0.5, update_every=1), quantize())])
def test_transforms_train_with_sparse_tables(
    dlrm_experiment: Experiment, labelled: LabelledData, transforms: tuple[Any, ...]
):
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer="rowwise_adagrad", epochs=2)
    experiment = dataclasses.replace(dlrm_experiment, training=training, transforms=transforms)
    result = train(experiment, labelled)
    assert result.history[-1].train_loss < result.history[0].train_loss
    if len(transforms) == 2:
        kernel = result.params["top_mlp"]["dense_0"]["kernel"]
        assert (np.asarray(kernel) == 0).all(0).sum() == kernel.shape[1] // 2


class StoppedError(Exception):
    """Stands for a killed run."""


@pytest.mark.parametrize(
    "kind", ["lazy_adam", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sgd", "rowwise_adagrad"))]
)
def test_a_resumed_run_repeats_the_unbroken_one_bit_for_bit(
    dlrm_experiment: Experiment, labelled: LabelledData, kind: str, tmp_path: Any
):
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer=kind, epochs=3)
    experiment = dataclasses.replace(dlrm_experiment, training=training)

    def stop(record: Any, epochs: int) -> None:
        if record.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(experiment, labelled, folder=tmp_path / "run", on_epoch=stop)
    epochs: list[int] = []
    result = train(experiment, labelled, folder=tmp_path / "run", on_epoch=lambda r, _: epochs.append(r.epoch))
    unbroken = train(experiment, labelled)
    assert epochs == [3]
    assert result.history == unbroken.history
    jax.tree.map(np.testing.assert_array_equal, result.params, unbroken.params)


def test_a_model_that_uses_its_whole_table_is_refused_by_name(sasrec_experiment: Experiment, next_item: NextItemData):
    training = dataclasses.replace(sasrec_experiment.training, table_optimizer="sgd")
    with pytest.raises(UserError) as error:
        train(dataclasses.replace(sasrec_experiment, training=training), next_item)
    assert str(error.value) == (
        "SASRec uses the whole of items/table in its loss, so the gradient is dense and row updates would be wrong; "
        "set training.table_optimizer=dense"
    )


def test_a_model_without_tables_is_refused():
    tables = TableOptimizer(sgd(), lambda step: 0.1)
    with pytest.raises(UserError) as error:
        init_sparse_state({"dense": {"kernel": jnp.zeros((2, 2))}}, optax.sgd(0.1), tables)
    assert str(error.value) == (
        "training.table_optimizer needs a model with an embedding table; set training.table_optimizer=dense"
    )


def test_a_model_that_is_solved_is_refused_by_name():
    module = IALSConfig(embedding_dim=4).build(TopNSchema(n_users=3, n_items=5, max_history=2))
    with pytest.raises(UserError) as error:
        make_sparse_train_step(module, optax.sgd(0.1), TableOptimizer(sgd(), lambda step: 0.1), 0)
    assert str(error.value) == (
        "IALS is solved and has no gradient whose rows could be taken; set training.table_optimizer=dense"
    )


def test_a_loss_knows_the_number_of_the_step():
    """IRGAN's policy starts after some steps; its whole table is refused, which the loss only tells when it can run."""
    module = IRGANConfig(embedding_dim=4).build(TopNSchema(n_users=3, n_items=5, max_history=2))
    columns = {"user": np.arange(2), "history": np.array([[0, 1], [2, -1]]), "weight": np.ones(2, np.float32)}
    tables = TableOptimizer(sgd(), lambda step: 0.1)
    state = init_sparse_state(init_params(module, columns, 0), optax.sgd(0.1), tables)
    with pytest.raises(UserError, match="IRGAN uses the whole of "):
        make_sparse_train_step(module, optax.sgd(0.1), tables, 0)(state, columns)
