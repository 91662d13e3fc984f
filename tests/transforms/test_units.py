import jax.numpy as jnp
import numpy as np

from recjax.models.contract import AttentionHeads, HeadSlice, HiddenUnits, RemovableLayers, block_attention_heads
from recjax.models.hstu import HSTUConfig
from recjax.transforms.units import head_importances, owned_slices, unit_norms, without_heads, without_layer

# Two heads of width 2: queries and values side by side in one kernel, three inputs, one output.
LAYER = AttentionHeads(
    name="a",
    field="heads",
    count=2,
    fixed=(),
    matching=(HeadSlice("a/both/kernel", 1, 0, 2),),
    factors=((HeadSlice("a/both/kernel", 1, 4, 2),), (HeadSlice("a/out/kernel", 0, 0, 2),)),
)
OUT = jnp.array([[2.0], [0.0], [1.0], [1.0]])
BOTH = jnp.array(
    [
        [1.0, 2, 3, 4, 3, 0, 0, 1],
        [1.0, 2, 3, 4, 0, 4, 0, 0],
        [1.0, 2, 3, 4, 0, 0, 2, 2],
    ]
)


def test_a_units_norm_is_that_of_all_its_slices_in_whatever_form():
    layer = HiddenUnits(field="widths", index=0, slices=(("a/kernel", 1), ("b/kernel", 0)))
    whole = {"a/kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b/kernel": jnp.array([[12.0], [0.0]])}
    np.testing.assert_allclose(unit_norms(layer, whole), [13, 0])  # 9 + 16 + 144 = 169
    factored = {
        "a/kernel/down": jnp.ones((2, 1)),
        "a/kernel/up": jnp.array([[3.0, 1.0]]),
        "b/kernel/down": jnp.array([[4.0], [0.0]]),
        "b/kernel/up": jnp.ones((1, 1)),
    }
    assert owned_slices(layer, factored) == (("a/kernel/up", 1), ("b/kernel/down", 0))
    np.testing.assert_allclose(unit_norms(layer, factored), [5, 1])


def test_a_heads_importance_is_the_product_of_its_norms():
    # Values: sqrt(9 + 16) and sqrt(1 + 4 + 4); rows of the output: 2 and sqrt(2). Queries have no say.
    expected = [5 * 2, 3 * np.sqrt(2)]
    np.testing.assert_allclose(head_importances(LAYER, {"a/both/kernel": BOTH, "a/out/kernel": OUT}), expected)
    np.testing.assert_array_equal(head_importances(LAYER, {"a/both/kernel": BOTH, "a/out/kernel": 0 * OUT}), [0, 0])
    factored = {
        "a/both/kernel/down": jnp.eye(3),
        "a/both/kernel/up": BOTH,
        "a/out/kernel/down": OUT,
        "a/out/kernel/up": jnp.ones((1, 1)),
    }
    np.testing.assert_allclose(head_importances(LAYER, factored), expected)


def test_a_removed_head_takes_its_columns_and_rows():
    other = jnp.ones(3)
    flat = {"a/both/kernel": BOTH, "a/out/kernel": OUT, "other": other}
    kept = without_heads(LAYER, flat, [0])
    np.testing.assert_array_equal(kept["a/both/kernel"], BOTH[:, [2, 3, 6, 7]])
    np.testing.assert_array_equal(kept["a/out/kernel"], OUT[2:])
    assert kept["other"] is other
    assert flat["a/out/kernel"] is OUT  # what was given stays


def test_heads_of_blocks_own_every_column_once():
    for layer in (
        block_attention_heads(1, heads=3, head_dim=4)[0],
        HSTUConfig(heads=3, key_dim=4, value_dim=5, layers=1).attention_heads()[0],
    ):
        owned: dict[tuple[str, int], list[int]] = {}
        for path, axis, start, width in layer.slices:
            owned.setdefault((path, axis), []).extend(range(start, start + layer.count * width))
        assert all(sorted(indices) == list(range(len(indices))) for indices in owned.values())


def test_layers_after_a_removed_one_are_numbered_anew():
    row = RemovableLayers(field="ranks", count=12, name="c_{}", paths=("x/down_{}", "x/up_{}"))
    flat = {f"x/{name}_{i}/kernel": i for i in range(12) for name in ("down", "up")} | {"x/norm": "n", "y/up_1/k": "y"}
    kept = without_layer(row, flat, 1)
    numbers = [0, *range(2, 12)]
    assert kept == {f"x/{name}_{i}/kernel": number for i, number in enumerate(numbers) for name in ("down", "up")} | {
        "x/norm": "n",
        "y/up_1/k": "y",
    }
