"""What the host does for SparseCores is held to plain NumPy and to recjax's own tables.

SparseCores themselves are not there. A reference in NumPy looks rows up, and adds gradients up, from the buffers that
the host prepared and the layout of the tables alone, as a SparseCore would; the results must be those of recjax's
Embedding. That the programs compile is in test_sparsecore_memory.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from random_variables import random_variables

from recjax.data.features import Field, LabelledSchema
from recjax.errors import DeviceError, UserError
from recjax.models.deepfm import DeepFMConfig
from recjax.models.dlrm import DLRMConfig
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.nn.embedding import Embedding
from recjax.parallel import sparsecore
from recjax.parallel.sparsecore_inputs import measure_limits, preprocess
from recjax.parallel.sparsecore_library import SLOTS, adagrad_update
from recjax.parallel.sparsecore_limits import StackLimits
from recjax.parallel.sparsecore_step import init_sparsecore_state, loss_given_bags, tables_by_field
from recjax.training import row_updates
from recjax.transforms.paths import flatten

pytestmark = pytest.mark.sparsecore_library

SCHEMA = LabelledSchema(
    2, (Field("a", 30, 3, "mean"), Field("b", 50, 2, "mean"), Field("c", 7, 1, "sum"), Field("d", 100, 4, "sum"))
)
B, D, DEVICES, CORES = 32, 6, 4, 2
S = DEVICES * CORES


def mesh_of(devices: int) -> Mesh:
    """Returns a mesh of one CPU device again and again: the host's work depends on the number alone."""
    return Mesh(np.array([jax.devices()[0]] * devices), ("data",), axis_types=(AxisType.Auto,))


def make(**options: Any) -> sparsecore.SparseCoreTables:
    given = {"sparsecores": CORES, "learning_rate": 0.1, **options}
    return sparsecore.make_sparsecore_tables(SCHEMA, D, mesh_of(DEVICES), B, **given)


@pytest.fixture(scope="module")
def tables() -> sparsecore.SparseCoreTables:
    return make()


def draw_ids(seed: int) -> np.ndarray:
    """Returns ids with short, empty and repeating bags."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(-1, field.vocab_size, (B, field.length)) for field in SCHEMA.fields]
    ids = np.concatenate(columns, 1).astype(np.int32)
    ids[3, :3] = -1
    ids[5, :3] = [2, 2, 3]
    return ids


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return draw_ids(0)


@pytest.fixture(scope="module")
def by_field() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {field.name: rng.normal(size=(field.vocab_size, D)).astype(np.float32) for field in SCHEMA.fields}


def entries(inputs: Any, stack: str) -> list[tuple[int, int, float]]:
    """Returns (row of the stacked table, sample of the stack, gain) of every id in the buffers.

    SparseCore s of the whole mesh owns the s-th block of the stacked rows, and takes the s-th block of samples. Its ids
    are sorted by the SparseCore that owns their rows; row pointers say where each such partition ends, and each begins
    at the next multiple of 8.
    """
    pointers, rows, samples, gains = (
        np.asarray(getattr(inputs, f"lhs_{name}")[stack])
        for name in ("row_pointers", "embedding_ids", "sample_ids", "gains")
    )
    pointers, rows, samples, gains = (array.reshape(S, -1) for array in (pointers, rows, samples, gains))
    found = []
    for core in range(S):
        begin = 0
        for owner, end in enumerate(pointers[core][:S]):
            for place in range(begin, end):
                found.append((core, owner, int(rows[core, place]), int(samples[core, place]), gains[core, place]))
            begin = -(-end // 8) * 8
    return found


def fields_of(tables: sparsecore.SparseCoreTables, stack: str) -> list[Field]:
    """Returns the fields of a stack in the order in which their samples lie there."""
    features = [tables.features[field.name] for field in SCHEMA.fields]
    within = [f for f in features if f.table_spec.stacked_table_spec.stack_name == stack]
    names = [f.name for f in sorted(within, key=lambda f: f.id_transformation.row_offset)]
    return [next(field for field in SCHEMA.fields if field.name == name) for name in names]


def looked_up(tables: sparsecore.SparseCoreTables, variables: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Returns each field's combined rows from the buffers alone."""
    bags = {}
    for stack in tables.stacks:
        table = np.asarray(variables[stack].table).reshape(S, -1, variables[stack].table.shape[-1])
        fields, per_core = fields_of(tables, stack), B // S
        combined = np.zeros((S, len(fields) * per_core, table.shape[-1]))
        for core, owner, row, sample, gain in entries(inputs, stack):
            combined[core, sample] += gain * table[owner, row]
        for place, field in enumerate(fields):
            bags[field.name] = combined[:, place * per_core : (place + 1) * per_core, :D].reshape(B, D)
    return bags


def row_gradients(tables: sparsecore.SparseCoreTables, inputs: Any, of_bags: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns each field's dense table gradient from the buffers and the gradients of its bags."""
    stacked = {}
    for stack in tables.stacks:
        stack_rows, per_core = tables.stacks[stack].stack_vocab_size, B // S
        gradient = np.zeros((S, stack_rows // S, tables.stacks[stack].stack_embedding_dim), np.float32)
        of_core = np.concatenate(
            [np.asarray(of_bags[field.name]).reshape(S, per_core, D) for field in fields_of(tables, stack)], 1
        )
        for core, owner, row, sample, gain in entries(inputs, stack):
            gradient[owner, row, :D] += gain * of_core[core, sample]
        stacked[stack] = dataclasses.make_dataclass("Stacked", ["table"])(gradient.reshape(stack_rows, -1))
    return sparsecore.unstack_tables(tables, stacked)


def test_tables_of_one_combiner_are_stacked_and_come_back(tables: Any, by_field: dict[str, np.ndarray]):
    assert len(tables.stacks) == 2  # of "mean" and of "sum"
    variables = sparsecore.stack_tables(tables, by_field)
    back = sparsecore.unstack_tables(tables, variables)
    assert list(back) == ["a", "b", "c", "d"]
    for name, table in by_field.items():
        np.testing.assert_array_equal(back[name], table)
    # Every table's rows are rounded up to a multiple of 8 x 8 SparseCores, and its width to one of 8.
    assert sorted(v.table.shape for v in variables.values()) == [(64 + 64, 8), (64 + 128, 8)]


def test_buffers_hold_what_an_embedding_looks_up(tables: Any, ids: np.ndarray, by_field: dict[str, np.ndarray]):
    bags = looked_up(tables, sparsecore.stack_tables(tables, by_field), preprocess(tables, ids))
    for field, ids_BL in SCHEMA.split_fields(jnp.asarray(ids)):
        layer = Embedding(field.vocab_size, D, field.combiner)
        expected = layer.apply({"params": {"table": by_field[field.name]}}, ids_BL)
        np.testing.assert_allclose(bags[field.name], expected, rtol=1e-5, atol=1e-6)
    assert not bags["a"][3].any()  # an empty bag


def test_samples_of_weight_0_look_nothing_up(tables: Any, ids: np.ndarray, by_field: dict[str, np.ndarray]):
    weight = (np.arange(B) < 20).astype(np.float32)
    variables = sparsecore.stack_tables(tables, by_field)
    all_of_them = looked_up(tables, variables, preprocess(tables, ids))
    bags = looked_up(tables, variables, preprocess(tables, ids, weight))
    for name, bag in bags.items():
        np.testing.assert_array_equal(bag[:20], all_of_them[name][:20])
        assert not bag[20:].any()


def test_shapes_are_those_of_what_is_prepared(tables: Any, ids: np.ndarray, by_field: dict[str, np.ndarray]):
    for prepared, shapes in (
        (preprocess(tables, ids), sparsecore.input_shapes(tables)),
        (sparsecore.stack_tables(tables, by_field), sparsecore.variable_shapes(tables)),
    ):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), prepared) == jax.tree.map(
            lambda x: (x.shape, x.dtype), shapes
        )


@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 0), ("adagrad", 1), ("lazy_adam", 2)])
def test_slots_begin_as_zeros_of_the_tables_shape(optimizer: str, slots: int, by_field: dict[str, np.ndarray]):
    for variables in sparsecore.stack_tables(make(optimizer=optimizer), by_field).values():
        assert len(variables.slot) == slots
        for slot in variables.slot:
            np.testing.assert_array_equal(slot, np.zeros(variables.table.shape, np.float32))


def test_measured_limits_are_the_batches_and_suffice(tables: Any, ids: np.ndarray, by_field: dict[str, np.ndarray]):
    limits = measure_limits(tables, [{"sparse_ids": ids}], headroom=1.0)
    # Counted by hand: ids of one stack that one SparseCore's 4 samples look up on one SparseCore, each once a bag.
    inputs = preprocess(tables, ids)
    for stack, limit in limits.items():
        pairs: dict[tuple[int, int], list[int]] = {}
        for core, owner, row, _, _ in entries(inputs, stack):
            pairs.setdefault((core, owner), []).append(row)
        most, distinct = (max(map(len, found)) for found in (pairs.values(), map(set, pairs.values())))
        assert most <= limit.ids < most + 8
        assert distinct <= limit.unique_ids < distinct + 8
        assert limit.buffer < tables.limits[stack].buffer
    smaller = sparsecore.with_limits(tables, limits)
    assert smaller.limits == limits
    variables = sparsecore.stack_tables(tables, by_field)
    expected = looked_up(tables, variables, inputs)
    bags = looked_up(smaller, variables, preprocess(smaller, ids))
    for name, bag in bags.items():
        np.testing.assert_array_equal(bag, expected[name])


def test_headroom_multiplies_up_to_what_any_batch_needs(tables: Any, ids: np.ndarray):
    batches = [{"sparse_ids": ids}, {"sparse_ids": draw_ids(2), "weight": np.ones(B, np.float32)}]
    exact, doubled, huge = (measure_limits(tables, batches, headroom=h) for h in (1.0, 2.0, 1000.0))
    for stack, limit in exact.items():
        assert limit.buffer <= doubled[stack].buffer <= tables.limits[stack].buffer
    assert huge == tables.limits
    none_fits_less = measure_limits(tables, batches[:1], headroom=1.0)
    assert all(exact[stack].ids >= none_fits_less[stack].ids for stack in exact)


def test_a_batch_that_needs_more_is_refused_and_nothing_dropped(tables: Any, ids: np.ndarray):
    quiet = np.full_like(ids, -1)
    small = sparsecore.with_limits(tables, measure_limits(tables, [{"sparse_ids": quiet}]))
    with pytest.raises(
        UserError, match=r"a batch needs StackLimits\(ids=.*; its limits are .* would be dropped; measu"
    ):
        preprocess(small, ids)
    crowded = np.full_like(ids, -1)
    crowded[:, 6:10] = 8 * np.arange(4) + 1  # field d: all on one SparseCore
    with pytest.raises(UserError, match="for stack c_d"):
        preprocess(small, crowded)
    preprocess(tables, crowded)


@pytest.mark.parametrize(
    "config",
    [
        DLRMDCNv2Config(embedding_dim=D, bottom_mlp=(8,), cross_ranks=(4,), top_mlp=(8,)),
        DLRMConfig(embedding_dim=D, bottom_mlp=(8,), top_mlp=(8,)),
    ],
    ids=["dlrm_dcnv2", "dlrm"],
)
def test_a_dlrm_learns_as_it_does_with_its_own_tables(config: Any, tables: Any, ids: np.ndarray):
    """The loss and every gradient, the rows' as SparseCores add them up, are those of the model's own tables."""
    rng = np.random.default_rng(2)
    batch = {
        "dense": rng.normal(size=(B, 2)).astype(np.float32),
        "sparse_ids": ids,
        "labels": rng.integers(0, 2, B).astype(np.float32),
        "weight": (np.arange(B) < 28).astype(np.float32),
        "step": jnp.zeros([], jnp.int32),
    }
    module = config.build(SCHEMA)
    params = random_variables(module, batch)["params"]
    state = init_sparsecore_state(params, tables, optax.sgd(0.1))
    key = jax.random.key(0)
    inputs = preprocess(tables, ids, batch["weight"])
    batch = {name: jnp.asarray(column) for name, column in batch.items()}
    own, of_all = jax.jit(
        jax.value_and_grad(
            lambda p: module.apply({"params": p}, batch, train=True, method="loss", rngs={"dropout": key})
        )
    )(params)
    given = jax.jit(jax.value_and_grad(lambda p, b: loss_given_bags(module, tables, p, b, batch, key), argnums=(0, 1)))
    bags = {name: jnp.asarray(bag, jnp.float32) for name, bag in looked_up(tables, state.variables, inputs).items()}
    loss, (of_dense, of_bags) = given(state.params, bags)
    assert float(loss) == pytest.approx(float(own), rel=1e-5)
    expected = flatten(of_all)
    paths = {name: path for name, (path, _) in tables_by_field(params, SCHEMA).items()}
    for name, gradient in row_gradients(tables, inputs, of_bags).items():
        np.testing.assert_allclose(gradient, expected.pop(paths[name]), rtol=1e-4, atol=1e-6)
    gradients = flatten(of_dense)
    assert gradients.keys() == expected.keys()
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_a_model_with_other_tables_is_refused(tables: Any, ids: np.ndarray):
    batch = {
        "dense": np.zeros((B, 2), np.float32),
        "sparse_ids": ids,
        "labels": np.zeros(B, np.float32),
        "weight": np.ones(B, np.float32),
    }
    params = random_variables(DeepFMConfig(embedding_dim=D).build(SCHEMA), batch)["params"]
    with pytest.raises(UserError, match="SparseCores take models with one table a field and no other; this one has"):
        init_sparsecore_state(params, tables, optax.sgd(0.1))


def test_adagrad_is_rowwise_adagrad_without_the_mean():
    rng = np.random.default_rng(3)
    gradients, row = rng.normal(size=(3, 1, D)).astype(np.float32), rng.normal(size=(1, D)).astype(np.float32)
    ours, sums = jnp.asarray(row), jnp.zeros((1, D))
    # A row of one column is its own mean: the row-wise rule, a column at a time.
    rule, columns = row_updates.rowwise_adagrad(), jnp.asarray(row.T)
    slots, every_row = rule.init(columns), jnp.arange(D, dtype=jnp.int32)
    for gradient in gradients:
        ours, sums = adagrad_update(jnp.asarray(gradient), ours, sums, jnp.float32(0.1))
        column_gradient = row_updates.RowGradient(every_row, jnp.asarray(gradient.T), jnp.ones(D, bool))
        columns, slots = row_updates.update_rows(rule, columns, slots, column_gradient, jnp.int32(0), 0.1)
    np.testing.assert_allclose(ours, columns.T, rtol=1e-6)
    zeros = jnp.zeros((1, D))
    still, _ = adagrad_update(zeros, jnp.asarray(row), zeros, jnp.float32(1))
    np.testing.assert_array_equal(still, row)  # where the library's own has 0 / 0


def test_the_librarys_adam_is_lazy_adam():
    """Its hyperparameters of a step, in the formula that its program has, move a row as lazy Adam does."""
    rng = np.random.default_rng(4)
    spec = make(optimizer="lazy_adam", learning_rate=lambda step: 0.1 / (step + 1)).features["a"].table_spec.optimizer
    rule, row = row_updates.lazy_adam(), rng.normal(size=(1, D)).astype(np.float32)
    theirs, mean, square = row, np.zeros_like(row), np.zeros_like(row)
    ours = jnp.asarray(row)
    slots = rule.init(ours)
    for step in range(4):
        gradient = rng.normal(size=(1, D)).astype(np.float32)
        alpha, b1, b2, epsilon = map(float, spec.get_hyperparameters(step))
        mean, square = mean + (1 - b1) * (gradient - mean), square + (1 - b2) * (gradient**2 - square)
        theirs = theirs - alpha * mean / (np.sqrt(square) + epsilon)
        row_gradient = row_updates.RowGradient(jnp.zeros(1, jnp.int32), jnp.asarray(gradient), jnp.ones(1, bool))
        ours, slots = row_updates.update_rows(rule, ours, slots, row_gradient, jnp.int32(step), 0.1 / (step + 1))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_a_schedule_is_asked_for_its_rate():
    for optimizer in SLOTS:
        made = make(optimizer=optimizer, learning_rate=optax.linear_schedule(0.0, 1.0, 10))
        assert float(made.features["a"].table_spec.optimizer.get_learning_rate(3)) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": "rowwise_adagrad"},
            "optimizer is 'rowwise_adagrad', whose mean over a row a SparseCore's program",
        ),
        ({"optimizer": "adam"}, "unknown SparseCore optimizer 'adam'; valid: adagrad, lazy_adam, sgd"),
        (
            {"sparsecores": 3},
            "batch_size is 32; allowed: multiples of 12, as each of the 3 SparseCores of the 4 devices",
        ),
        (
            {"limits": {"a_b": StackLimits(ids=8, unique_ids=8, buffer=128)}},
            "limits are of the stacks a_b; these tables have a_b, c_d; take them from measure_limits",
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UserError) as raised:
        make(**options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "limit",
    [
        StackLimits(ids=12, unique_ids=8, buffer=128),
        StackLimits(ids=8, unique_ids=9, buffer=128),
        StackLimits(ids=8, unique_ids=8, buffer=8),
        StackLimits(ids=8, unique_ids=8, buffer=8 * S * CORES + 16),
        StackLimits(ids=0, unique_ids=0, buffer=0),
    ],
)
def test_limits_on_which_the_library_would_end_the_process_are_refused(tables: Any, limit: StackLimits):
    fine = StackLimits(ids=8, unique_ids=8, buffer=8 * S * CORES)
    assert sparsecore.with_limits(tables, {"a_b": fine, "c_d": fine}).limits["a_b"] == fine
    with pytest.raises(
        UserError, match=r"limits of stack c_d are StackLimits.*; allowed: ids a multiple of 8, unique_id"
    ):
        sparsecore.with_limits(tables, {"a_b": fine, "c_d": limit})


def test_bad_batches_are_refused(tables: Any, ids: np.ndarray):
    outside = ids.copy()
    outside[7, 5] = 7
    with pytest.raises(UserError, match=r"ids of field c reach from .* to 7; allowed: 0 to 6, and -1 for padding"):
        preprocess(tables, outside)
    with pytest.raises(UserError, match="sparse_ids has 16 samples; allowed: 32, this host's of batch_size"):
        preprocess(tables, ids[:16])
    with pytest.raises(UserError, match="measure_limits got no batches; give it some of the training part"):
        measure_limits(tables, [])
    with pytest.raises(UserError, match=r"headroom is 0\.5; allowed: >= 1"):
        measure_limits(tables, [], headroom=0.5)


def test_a_chip_without_sparsecores_is_refused():
    with pytest.raises(
        DeviceError, match="cpu has no SparseCore that jax-tpu-embedding knows; it knows those of TPU v5"
    ):
        make(sparsecores=None)
