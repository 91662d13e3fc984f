"""Tables as products of smaller arrays, by truncated singular value decompositions.

A cut decomposition of drawn rows, which have no structure, keeps little of their size; so what is kept is scaled up to
the size that the table had. A trained table that compresses well is hardly changed by that.

Shapes: V vocabulary, D embedding dim, R rank.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray


def popularity_blocks(counts_V: NDArray[np.int32], n_blocks: int) -> tuple[NDArray[np.int64], list[int]]:
    """Returns the ids from the most popular to the least, and how many of them each block has.

    Each block has about the same share of all lookups, so that the first is the smallest; every id counts once more
    than it was looked up. Of equally popular ids the earlier comes first.
    """
    weights_V = counts_V.astype(np.float64) + 1
    order_V = np.argsort(-weights_V, kind="stable")
    before_V = np.cumsum(weights_V[order_V]) - weights_V[order_V]  # lookups of more popular ids
    block_V = np.minimum((before_V / weights_V.sum() * n_blocks).astype(int), n_blocks - 1)
    sizes = np.bincount(block_V, minlength=n_blocks)
    return order_V, [int(size) for size in sizes if size]


def block_dims(counts_V: NDArray[np.int32], order_V: NDArray, sizes: list[int], dim: int, alpha: float) -> list[int]:
    """Returns D x (p_k / p_0)^alpha of each block, p being the mean popularity of its ids; D for the first.

    Source: Ginart et al., Mixed Dimension Embeddings (arXiv 1909.11810), algorithm 1.
    """
    parts = np.split(counts_V.astype(np.float64)[order_V] + 1, np.cumsum(sizes)[:-1])
    popularity = [part.mean() for part in parts]
    return [max(1, round(dim * (p / popularity[0]) ** alpha)) for p in popularity]


def mixed_dimension(
    table_VD: Float[Array, "V D"], counts_V: NDArray[np.int32], n_blocks: int, alpha: float
) -> dict[str, Array | dict[str, Array]]:
    """Returns the table's form: the place of each id and, by block, narrow rows with a projection, or whole ones."""
    table = np.asarray(table_VD, np.float32)
    order_V, sizes = popularity_blocks(counts_V, n_blocks)
    dims = block_dims(counts_V, order_V, sizes, table.shape[1], alpha)
    place_V = np.empty(len(table), np.int32)
    place_V[order_V] = np.arange(len(table), dtype=np.int32)
    form: dict[str, Array | dict[str, Array]] = {"place": jnp.asarray(place_V)}
    for number, (ids, dim) in enumerate(zip(np.split(order_V, np.cumsum(sizes)[:-1]), dims, strict=True)):
        if dim == table.shape[1]:
            form[f"block_{number}"] = {"rows": _as_given(table[ids], table_VD)}
            continue
        projection = _leading_directions(table[ids].T, dim).T
        rows = table[ids] @ projection.T
        rows *= _size_ratio(table[ids], rows)
        form[f"block_{number}"] = {"rows": _as_given(rows, table_VD), "projection": _as_given(projection, table_VD)}
    return form


def train_shape(vocab_size: int, dim: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Returns three bases whose product is at least V, and three factors of D, each as equal as can be.

    Example:
      >>> train_shape(1_000_000, 64)
      ((100, 100, 100), (4, 4, 4))
    """
    first = math.ceil(round(vocab_size ** (1 / 3), 9))
    second = math.ceil(round(math.sqrt(vocab_size / first), 9))
    bases = (first, second, -(-vocab_size // (first * second)))
    factors = [(a, b, dim // (a * b)) for a in range(1, dim + 1) if dim % a == 0 for b in _divisors(dim // a)]
    a, b, c = min((sorted(triple) for triple in factors), key=sum)
    return bases, (a, b, c)


def tensor_train(table_VD: Float[Array, "V D"], rank: int) -> dict[str, Array]:
    """Returns the three cores of the table's tensor train; exact where the rank is that of its unfoldings.

    Source: Oseledets, Tensor-Train Decomposition (SIAM J. Sci. Comput. 2011), algorithm 1; the arrangement of rows and
    columns is that of Yin et al., TT-Rec (arXiv 2101.11714).
    """
    (v1, v2, v3), (d1, d2, d3) = train_shape(*table_VD.shape)
    padded = np.zeros((v1 * v2 * v3, table_VD.shape[1]), np.float32)
    padded[: len(table_VD)] = table_VD
    tensor = padded.reshape(v1, v2, v3, d1, d2, d3).transpose(0, 3, 1, 4, 2, 5)
    unfolded = tensor.reshape(v1 * d1, -1)
    first = _leading_directions(unfolded, rank)
    rest = (first.T @ unfolded).reshape(-1, v3 * d3)
    third = _leading_directions(rest.T, rank)
    second = rest @ third
    second *= _size_ratio(unfolded, second)
    r1, r2 = first.shape[1], third.shape[1]
    cores: list[NDArray] = [
        first.reshape(v1, d1, r1),
        second.reshape(r1, v2, d2, r2).transpose(1, 0, 2, 3),
        third.reshape(v3, d3, r2).transpose(0, 2, 1),
    ]
    # Equal sizes: otherwise a step of the optimizer, which is as long for each, would be of different use to them.
    deviations = [float(np.sqrt(np.mean(core**2))) for core in cores]
    common = float(np.prod(deviations)) ** (1 / 3)
    scales = [common / deviation if common else 1.0 for deviation in deviations]
    return {f"core_{k}": _as_given(core * scales[k], table_VD) for k, core in enumerate(cores)}


def _leading_directions(matrix: NDArray, rank: int) -> NDArray[np.float32]:
    """Returns the orthonormal columns [N, R] that hold most of the columns of the matrix [N, M]; R at most N."""
    wide = matrix.astype(np.float64) if matrix.size < 1 << 22 else matrix
    vectors = np.linalg.eigh((wide @ wide.T).astype(np.float64))[1]  # N is small where M is large
    return np.ascontiguousarray(vectors[:, ::-1][:, :rank], np.float32)


def _size_ratio(whole: NDArray, kept: NDArray) -> float:
    kept_norm = float(np.linalg.norm(kept))
    return float(np.linalg.norm(whole)) / kept_norm if kept_norm else 1.0


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _as_given(values: NDArray, like: Array) -> Array:
    return jnp.asarray(values, like.dtype)
