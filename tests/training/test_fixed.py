import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax.training.fixed import join_fixed, split_fixed


def test_floats_are_learned_and_all_else_is_fixed():
    params = {"a": jnp.ones(2), "form": {"b": jnp.ones(2, jnp.bfloat16), "c": jnp.arange(3), "d": jnp.ones(1, bool)}}
    learned, fixed = split_fixed(params)
    assert learned["a"] is params["a"]
    assert learned["form"] == {"b": params["form"]["b"], "c": None, "d": None}
    assert fixed == {"a": None, "form": {"b": None, "c": params["form"]["c"], "d": params["form"]["d"]}}
    jax.tree.map(np.testing.assert_array_equal, join_fixed(learned, fixed), params)


def test_an_optimizer_with_weight_decay_moves_only_floats():
    params = {"rows": jnp.ones(3), "place": jnp.arange(3)}
    learned, fixed = split_fixed(params)
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, learned), optimizer.init(learned), learned)
    moved = join_fixed(optax.apply_updates(learned, updates), fixed)
    np.testing.assert_allclose(moved["rows"], 0.95 * np.ones(3), rtol=1e-6)
    np.testing.assert_array_equal(moved["place"], [0, 1, 2])
