"""Finding lookups by tracing, and refusing losses whose table gradients are dense."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.batches import PADDING_ID
from recjax.errors import UserError
from recjax.nn.embedding import Embedding
from recjax.training.lookups import find_lookups, given_rows, split_tables

V, D = 9, 2


class TwoTables(nn.Module):
    """Looks one table up as a bag and as rows, the other once; `also` is what else it does with the first."""

    also: Callable[[Embedding], Any] = lambda table: 0.0

    @nn.compact
    def __call__(self, ids_BL: Any) -> Any:
        words = Embedding(V, D, "sum", name="words")
        total = words(ids_BL).sum() + (nn.Dense(1, name="top")(words.rows(ids_BL[:, 0] + 1))).sum()
        total += Embedding(3, D, name="other").rows(ids_BL[:, 0] % 3).sum()
        return total + self.also(words)


IDS_BL = jnp.array([[4, 2], [7, PADDING_ID]])


def lookups(module: nn.Module) -> dict[str, list[Any]]:
    params = module.init(jax.random.key(0), IDS_BL)["params"]
    tables, rest = split_tables(params)

    def nested(tables: Any) -> Any:
        flat = {**rest, **tables}
        return {m: {n: flat[f"{m}/{n}"] for n in params[m]} for m in params}

    return jax.jit(
        lambda ids_BL: find_lookups(lambda t: module.apply({"params": nested(t)}, ids_BL), tables, "TwoTables")
    )(IDS_BL)


def test_tables_are_told_from_other_parameters_by_their_name():
    one = jnp.ones(1)
    tables, rest = split_tables({"a": {"table": one, "bias": one}, "table": one, "turntable": one, "b": {"table": one}})
    assert set(tables) == {"a/table", "table", "b/table"}
    assert set(rest) == {"a/bias", "turntable"}


def test_every_lookup_is_found_in_order_with_padding_on_row_0():
    found = lookups(TwoTables())
    assert {path: [ids.tolist() for ids in of_table] for path, of_table in found.items()} == {
        "words/table": [[4, 7], [2, 0], [5, 8]],
        "other/table": [[1, 1]],
    }


@pytest.mark.parametrize(
    "also",
    [
        lambda words: words.table.sum(),
        lambda words: jnp.dot(jnp.ones(V), words.table).sum(),
        lambda words: jax.jit(lambda table: table[:2].sum())(words.table),
        lambda words: jax.lax.map(lambda i: words.table[i].sum(), jnp.arange(2)).sum(),
    ],
)
def test_a_table_that_is_used_whole_is_refused(also: Callable):
    with pytest.raises(UserError) as error:
        lookups(TwoTables(also=also))
    assert str(error.value) == (
        "TwoTables uses the whole of words/table in its loss, so the gradient is dense and row updates would be wrong; "
        "set training.table_optimizer=dense"
    )


def test_a_lookup_inside_a_map_is_refused():
    with pytest.raises(UserError) as error:
        lookups(TwoTables(also=lambda words: jax.lax.map(lambda i: words.rows(i[None]).sum(), jnp.arange(2)).sum()))
    assert str(error.value) == (
        "TwoTables looks up rows of words/table inside a scan, map, jit or checkpoint, where row updates cannot "
        "follow; set training.table_optimizer=dense"
    )


def test_given_rows_take_the_tables_place():
    module = Embedding(V, D, "sum", dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), IDS_BL)["params"]
    rows = [jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[10.0, 20.0], [5.0, 5.0]])]
    with given_rows({"table": rows}):
        bags = module.apply({"params": params}, IDS_BL)
    assert bags.dtype == jnp.bfloat16
    np.testing.assert_array_equal(bags.astype(float), [[11, 22], [3, 4]])  # the padding's row adds nothing
