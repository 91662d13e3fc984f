import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import pieces as pieces_module
from recjax.nn.pieces import co_occurrence, fold_pieces, make_pieces

N_USERS, N_ITEMS = 13, 9


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Returns a 0/1 matrix [U, V] with an empty user, a full one and an item that nobody has."""
    rows = np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.4
    rows[3], rows[5], rows[:, 7] = False, True, False
    return rows


@pytest.fixture(scope="module")
def pairs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    user, item = (column.astype(np.int32) for column in np.nonzero(rows))
    shuffled = np.random.default_rng(1).permutation(len(user))
    return user[shuffled], item[shuffled]


def test_pieces_of_a_small_case_by_hand():
    owner, ids = jnp.array([1, 0, 1, 1, 3], jnp.int32), jnp.array([5, 6, 7, 8, 9], jnp.int32)
    made = make_pieces(owner, ids, n_owners=4, length=2)
    assert made.counts.tolist() == [1, 3, 0, 1]
    assert made.starts.tolist() == [0, 1, 3, 3, 4]
    assert made.ids[:4].tolist() == [[6, -1], [5, 7], [8, -1], [9, -1]]
    assert made.owner[:4].tolist() == [0, 1, 1, 3]
    assert (made.ids[4:] == -1).all()
    assert (made.owner[4:] == 4).all()
    assert len(made.owner) - 4 >= pieces_module.BLOCK  # a block that begins anywhere ends inside the array


@pytest.mark.parametrize("block", [1, 3, 512])
@pytest.mark.parametrize("chunk", [1, 4, N_USERS])
def test_every_id_is_folded_once_into_its_owner(
    monkeypatch: pytest.MonkeyPatch, rows: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], block: int, chunk: int
):
    monkeypatch.setattr(pieces_module, "BLOCK", block)
    made = make_pieces(*map(jnp.asarray, pairs), N_USERS, length=2)

    def count(total, ids_KL, row_K):
        columns = jnp.where(ids_KL < 0, N_ITEMS, ids_KL)
        return total.at[row_K[:, None], columns].add(1, mode="drop")

    fold = jax.jit(lambda first: fold_pieces(made, first, chunk, count, jnp.zeros((chunk, N_ITEMS), jnp.int32)))
    folded = np.concatenate([fold(jnp.asarray(first)) for first in range(0, N_USERS, chunk)])
    np.testing.assert_array_equal(folded[:N_USERS], rows)
    assert not folded[N_USERS:].any()
    assert fold._cache_size() == 1


@pytest.mark.parametrize("users_at_once", [1, 5, 10_000])
def test_co_occurrence_is_the_product_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, rows: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], users_at_once: int
):
    monkeypatch.setattr(pieces_module, "_CHUNK_BYTES", 4 * N_ITEMS * users_at_once)
    counts = co_occurrence(*map(jnp.asarray, pairs), N_USERS, N_ITEMS)
    np.testing.assert_array_equal(counts, rows.T.astype(int) @ rows.astype(int))
