import jax.numpy as jnp
import numpy as np

from recjax.transforms.masks import keep_highest, keep_n_of_m, random_scores


def test_the_lowest_scores_go():
    keep = keep_highest({"a": jnp.array([[3.0, 1], [2, 4]])}, jnp.array(0.5))
    np.testing.assert_array_equal(keep["a"], [[True, False], [False, True]])


def test_of_equal_scores_the_earlier_stay():
    np.testing.assert_array_equal(keep_highest({"a": jnp.ones(4)}, jnp.array(0.5))["a"], [True, True, False, False])


def test_arrays_that_are_ranked_together_share_one_threshold_but_none_goes_whole():
    keep = keep_highest({"a": jnp.array([3.0, 1, 2, 4]), "b": jnp.array([[10.0, 30], [20, 40]])}, jnp.array(0.5))
    np.testing.assert_array_equal(keep["a"], [False, False, False, True])  # the largest of a layer is spared
    np.testing.assert_array_equal(keep["b"], [[False, True], [True, True]])


def test_two_of_four_consecutive_inputs_of_an_output_stay():
    scores = jnp.array([[1.0, 9], [2, 8], [3, 7], [4, 6], [0, 5], [5, 0], [6, 1], [7, 2]])
    expected = [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1], [0, 0], [1, 0], [1, 1]]
    np.testing.assert_array_equal(keep_n_of_m(scores, jnp.array(2), 4), np.array(expected, bool))


def test_of_inputs_that_are_left_over_the_share_is_kept_rounded_up():
    scores = jnp.arange(7.0)[:, None]  # groups of 4 and of 3
    np.testing.assert_array_equal(keep_n_of_m(scores, jnp.array(2), 4)[:, 0], [0, 0, 1, 1, 0, 1, 1])


def test_random_scores_depend_on_seed_and_name_alone():
    first = random_scores(0, "a", (3, 2))
    assert first.shape == (3, 2)
    np.testing.assert_array_equal(first, random_scores(0, "a", (3, 2)))
    assert (first != random_scores(1, "a", (3, 2))).all()
    assert (first != random_scores(0, "b", (3, 2))).all()


def test_a_kernel_of_few_inputs_is_one_short_group():
    np.testing.assert_array_equal(keep_n_of_m(jnp.arange(3.0)[:, None], jnp.array(1), 8)[:, 0], [0, 0, 1])


def test_no_layer_loses_its_last():
    keep = keep_highest({"a": jnp.arange(3.0), "b": -jnp.arange(2.0), "c": jnp.zeros(1)}, jnp.array(0.99))
    assert [mask.tolist() for mask in keep.values()] == [[False, False, True], [True, False], [True]]
