"""Every form against NumPy: what its rows are, and that whole tables, bags, scores and gradients agree with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recjax.nn import integer_rows
from recjax.nn.embedding import Embedding
from recjax.nn.shared_rows import MULTIPLIER, hashed_row
from recjax.nn.tables import all_rows, read_rows, scores

V, D = 30, 8
TABLE = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def integer_form(bits: int) -> tuple[Any, NDArray]:
    form = integer_rows.stored(jnp.asarray(TABLE), bits, 2.0**-6)
    words = np.asarray(form["affine"])
    scale = (words & 0xFFFF).astype(np.uint16).view(np.float16).astype(np.float32) * 2.0**-6
    offset = (words >> 16).astype(np.uint16).view(np.float16).astype(np.float32) * 2.0**-6
    if bits == 8:
        values = np.asarray(form["values"])
    else:
        packed = np.asarray(form["packed"])
        values = np.concatenate([packed % 16, packed // 16], axis=1)
    return form, values * scale[:, None] + offset[:, None]


def hashed_form() -> tuple[Any, NDArray]:
    rows = drawn(7, D)
    expected = [rows[((i * MULTIPLIER % 2**32) ^ (i * MULTIPLIER % 2**32 >> 16)) % 7] for i in range(V)]
    return {"hashed": rows}, np.array(expected)


def composed_form() -> tuple[Any, NDArray]:
    quotient, remainder = drawn(5, D), drawn(7, D)
    return {"quotient": quotient, "remainder": remainder}, np.array(
        [quotient[i // 7] * remainder[i % 7] for i in range(V)]
    )


def kept_form() -> tuple[Any, NDArray]:
    kept, row_of = drawn(4, D), np.array([3, 0, 1, 2, 3] * 6, np.int32)
    return {"kept": kept, "row_of": row_of}, kept[row_of]


def blocks_form() -> tuple[Any, NDArray]:
    place = np.random.default_rng(1).permutation(V).astype(np.int32)
    blocks = [{"rows": drawn(n, d), "projection": drawn(d, D)} for n, d in ((4, 8), (10, 3), (16, 1))]
    by_place = np.concatenate([block["rows"] @ block["projection"] for block in blocks])
    blocks[0] = {"rows": by_place[:4]}
    return {"place": place} | {f"block_{k}": block for k, block in enumerate(blocks)}, by_place[place]


def train_form() -> tuple[Any, NDArray]:
    a, b, c = drawn(4, 2, 3), drawn(3, 3, 2, 2), drawn(3, 2, 2)
    rows = [np.einsum("pr,rqs,st->pqt", a[i // 9], b[i // 3 % 3], c[i % 3]).reshape(D) for i in range(V)]
    return {"core_0": a, "core_1": b, "core_2": c}, np.array(rows)


def rounded_form(bits: int) -> tuple[Any, NDArray]:
    form = integer_rows.stored(jnp.asarray(TABLE), bits, integer_rows.UNIT_IN_TRAINING)
    return {f"rounded_int{bits}": TABLE}, np.asarray(integer_rows.read_all(form))


FORMS = {
    "array": lambda: (TABLE, TABLE),
    "bfloat16": lambda: (jnp.asarray(TABLE, jnp.bfloat16), np.asarray(jnp.asarray(TABLE, jnp.bfloat16), np.float32)),
    "int8": lambda: integer_form(8),
    "int4": lambda: integer_form(4),
    "rounded_int8": lambda: rounded_form(8),
    "rounded_int4": lambda: rounded_form(4),
    "hashed": hashed_form,
    "composed": composed_form,
    "kept": kept_form,
    "blocks": blocks_form,
    "train": train_form,
}
TRAINED = ("array", "rounded_int8", "rounded_int4", "hashed", "composed", "kept", "blocks", "train")


@pytest.fixture(params=FORMS)
def form_and_rows(request: pytest.FixtureRequest) -> tuple[Any, NDArray]:
    form, rows = FORMS[request.param]()
    return jax.tree.map(jnp.asarray, form), rows


def test_lookups_and_the_whole_table_are_the_rows(form_and_rows: tuple[Any, NDArray]):
    form, rows = form_and_rows
    ids = np.array([[0, 29, 7], [7, 1, 13]])
    read = jax.jit(lambda form: read_rows(form, jnp.asarray(ids), jnp.float32))(form)
    np.testing.assert_allclose(read, rows[ids], rtol=1e-5, atol=1e-6)
    whole = jax.jit(lambda form: all_rows(form, V, jnp.float32))(form)
    np.testing.assert_allclose(whole, rows, rtol=1e-5, atol=1e-6)
    assert read_rows(form, jnp.asarray(ids), jnp.bfloat16).dtype == jnp.bfloat16
    assert all_rows(form, V, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("n_vectors", [1, 3])
def test_scores_are_the_products_with_the_rows(form_and_rows: tuple[Any, NDArray], n_vectors: int):
    form, rows = form_and_rows
    x = drawn(n_vectors, D)
    found = jax.jit(lambda form, x: scores(form, x, V))(form, jnp.asarray(x))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, x @ rows.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "bfloat16"])
def test_an_embedding_looks_up_bags_in_every_form(name: str):
    form, rows = FORMS[name]()
    ids = jnp.array([[0, 5, 29], [2, -1, 2], [-1, -1, -1]])
    variables = {"params": {"table": jax.tree.map(jnp.asarray, form)}}
    found = jax.jit(Embedding(V, D).apply)(variables, ids)
    expected = [(rows[0] + rows[5] + rows[29]) / 3, rows[2], np.zeros(D)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("how", ["rows", "whole", "scores"])
def test_gradients_are_those_of_the_dense_table(name: str, how: str):
    """The gradient with respect to the form's floats, against that of its rows by the chain rule through all_rows."""
    form = jax.tree.map(jnp.asarray, FORMS[name]()[0])
    learned = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, form)
    ids, x = jnp.array([3, 3, 11, 29]), jnp.asarray(drawn(2, D))
    weights = jnp.asarray(drawn(4, D))
    targets = {
        "rows": lambda table: (read_rows(table, ids, jnp.float32) * weights).sum(),
        "whole": lambda table: (all_rows(table, V, jnp.float32)[ids] * weights).sum(),
        "scores": lambda table: (scores(table, x, V) ** 2).sum(),
    }

    def complete(learned: Any) -> Any:
        return jax.tree.map(lambda a, b: b if a is None else a, learned, form, is_leaf=lambda leaf: leaf is None)

    found = jax.grad(lambda learned: targets[how](complete(learned)))(learned)
    rows, pull_back = jax.vjp(lambda learned: all_rows(complete(learned), V, jnp.float32), learned)
    (expected,) = pull_back(jax.grad(targets[how])(rows))
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(found))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_rounding_passes_the_gradient_of_a_row_straight_through():
    weights = drawn(2, D)
    found = jax.grad(
        lambda table: (read_rows({"rounded_int4": table}, jnp.array([4, 4]), jnp.float32) * weights).sum()
    )(jnp.asarray(TABLE))
    np.testing.assert_allclose(found[4], weights.sum(0), rtol=1e-6)
    assert not np.delete(np.asarray(found), 4, axis=0).any()


@pytest.mark.parametrize("bits", [8, 4])
@given(seed=st.integers(0, 10_000), exponent=st.integers(-12, 12), shift=st.sampled_from([0.0, 1.0, -3.0, 1000.0]))
def test_every_value_is_within_half_a_step_and_none_is_cut_off(bits: int, seed: int, exponent: int, shift: float):
    size = 2.0**exponent
    rows = ((np.random.default_rng(seed).normal(size=(5, 6)) + shift) * size).astype(np.float32)
    unit = float(2.0 ** (np.ceil(np.log2(np.abs(rows).max())) - 8))
    values, scale, offset = (np.asarray(part) for part in integer_rows.round_rows(jnp.asarray(rows), bits, unit))
    assert (scale == scale.astype(np.float16)).all()
    assert (offset == offset.astype(np.float16)).all()
    restored = (values * scale[:, None] + offset[:, None]).astype(np.float64) * unit
    error = np.abs(restored - rows)
    # Half a step, and what float32 itself cannot tell apart at this size.
    assert (error <= scale[:, None] * unit * 0.5 * (1 + 1e-5) + np.abs(rows) * 2.0**-22).all()
    # The step is what the range asks for, but for float16's rounding of scale and offset.
    step = (rows.max(1) - rows.min(1)) / (2**bits - 1)
    assert (scale * unit <= step * (1 + 2**-9) + np.abs(rows).max(1) * 2.0**-9 / (2**bits - 1) + unit * 2**-14).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_zeros_and_of_one_number_are_exact(bits: int):
    constants = np.array([0.0, 0.5, -0.375, 3.0, -100.25, 2.0**-9], np.float32)
    rows = np.repeat(constants[:, None], D, axis=1)
    form = integer_rows.stored(jnp.asarray(rows), bits, 2.0**-2)
    np.testing.assert_array_equal(integer_rows.read_all(form), rows)
    third = np.full((1, D), 1 / 3, np.float32)  # float16 has not even 1/3: its offset and one scale nearly do
    restored = integer_rows.read_all(integer_rows.stored(jnp.asarray(third), bits, 2.0**-8))
    np.testing.assert_allclose(restored, third, rtol=2**-20)


def test_rounding_by_hand():
    rows = np.array([[0.0, 1.0, 15.0, 7.4], [-15.0, 0.0, -8.0, -1.0]], np.float32)
    values, scale, offset = integer_rows.round_rows(jnp.asarray(rows), 4, 1.0)
    np.testing.assert_array_equal(values, [[0, 1, 15, 7], [0, 15, 7, 14]])
    np.testing.assert_array_equal(scale, [1, 1])
    np.testing.assert_array_equal(offset, [0, -15])
    np.testing.assert_array_equal(integer_rows.pack(values), [[0 + 16 * 15, 1 + 16 * 7], [0 + 16 * 7, 15 + 16 * 14]])


@pytest.mark.parametrize(("bits", "largest_share"), [(8, 0.27), (4, 0.15)])
def test_bytes_at_width_64(bits: int, largest_share: float):
    form = integer_rows.stored(jnp.asarray(drawn(1000, 64)), bits, 2.0**-8)
    n_bytes = sum(part.nbytes for part in form.values())
    assert n_bytes == 1000 * (64 * bits // 8 + 4) + 4
    assert n_bytes <= largest_share * 1000 * 64 * 4


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("length", [1, 5])
def test_rows_rounded_in_training_are_those_served(bits: int, length: int):
    table = jnp.asarray(drawn(200, 16))
    form = jax.jit(lambda t: integer_rows.stored(t, bits, integer_rows.UNIT_IN_TRAINING))(table)
    ids = jnp.asarray(np.random.default_rng(2).integers(-1, 200, (64, length)))
    look_up = jax.jit(Embedding(200, 16).apply)
    as_trained = look_up({"params": {"table": {f"rounded_int{bits}": table}}}, ids)
    np.testing.assert_array_equal(look_up({"params": {"table": form}}, ids), as_trained)  # bit for bit
    score = jax.jit(lambda table, x: scores(table, x, 200))
    for x in (drawn(1, 16), drawn(7, 16)):  # of the same rows; a sum of 16 terms may be added in another order
        terms = np.abs(x) @ np.abs(np.asarray(integer_rows.read_all(form))).T
        apart = np.abs(score(form, jnp.asarray(x)) - score({f"rounded_int{bits}": table}, jnp.asarray(x)))
        assert (apart <= 16 * np.finfo(np.float32).eps * terms).all()


def test_hashing_spreads_neighbouring_ids_evenly():
    rows = np.asarray(hashed_row(jnp.arange(10_000), 64))
    counts = np.bincount(rows, minlength=64)
    assert len(counts) == 64
    assert 0.8 < counts.min() / (10_000 / 64) <= counts.max() / (10_000 / 64) < 1.2
    assert (np.diff(rows) % 64 != np.diff(rows)[0] % 64).mean() > 0.3  # not the ids in another order


def test_integer_scores_write_no_float_table():
    form = integer_rows.stored(jnp.asarray(drawn(4096, 64)), 8, 2.0**-8)
    compiled = jax.jit(lambda form, x: scores(form, x, 4096)).lower(form, jnp.ones((1, 64))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 64
