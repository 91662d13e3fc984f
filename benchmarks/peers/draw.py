"""Draws a workload's weights and requests, in a process that ends before the first peer starts.

`python -m benchmarks.peers.draw FOLDER` adds the arrays to the sizes that are in the folder.

Shapes: R requests, N dense features, T the fields' bag lengths summed, L history length.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.recjax_served import build_model, top_k_of
from benchmarks.peers.workloads import N_REQUESTS, DLRMSizes, SASRecSizes, Sizes, read_sizes, write_arrays

SEED = 0
BIAS_DEVIATION = 0.1  # of what is added to biases and norms: they start at 0 and 1, which would hide a mistake


def draw_weights(sizes: Sizes, seed: int = SEED) -> dict[str, NDArray]:
    """Returns the float32 parameters as recjax draws them, by path; vectors (biases, norms) are moved off 0 and 1."""
    model, batch = build_model(sizes), jax.device_put(draw_requests(sizes, 1, seed))
    init = jax.jit(lambda key: model.init(key, batch, top_k=top_k_of(sizes), method="serve")["params"])
    rng, weights = np.random.default_rng(seed), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(init(jax.random.key(seed))):
        value = np.asarray(leaf)
        if value.ndim == 1:
            value = value + np.float32(BIAS_DEVIATION) * rng.standard_normal(value.shape, np.float32)
        weights["/".join(entry.key for entry in path)] = value
    return weights


def draw_requests(sizes: Sizes, n: int, seed: int = SEED) -> dict[str, NDArray]:
    """Returns the columns of `n` synthetic requests: normal features, uniform ids, histories of uniform length."""
    rng = np.random.default_rng((seed, 1))
    if isinstance(sizes, SASRecSizes):
        lengths = rng.integers(1, sizes.history + 1, n).astype(np.int32)
        history = rng.integers(0, sizes.items, (n, sizes.history)).astype(np.int32)
        history[np.arange(sizes.history)[None] >= lengths[:, None]] = 0  # recjax pads histories at the end, by 0
        return {"history": history, "lengths": lengths}
    if isinstance(sizes, DLRMSizes):
        dense = rng.normal(size=(n, sizes.n_dense)).astype(np.float32)
        return {"dense": dense, "sparse_ids": rng.integers(0, sizes.rows, (n, sizes.tables)).astype(np.int32)}
    return {"sparse_ids": rng.integers(0, sizes.rows, (n, sizes.tables * sizes.bag_length)).astype(np.int32)}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    folder = Path(sys.argv[1])
    sizes = read_sizes(folder)
    write_arrays(folder, weights=draw_weights(sizes), columns=draw_requests(sizes, N_REQUESTS))
