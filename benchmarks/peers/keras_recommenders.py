"""keras-rs on the JAX backend: `FeatureCross` and `EmbedReduce`, and Keras's own layers where it has none.

A model is built, given recjax's weights and called without state under `jax.jit`, compiled ahead of time: what Keras
documents for a JAX program around a model. `Model.predict` would add its own work to every call.

Source: keras.io, "Writing a training loop from scratch in JAX" (stateless_call).

Shapes: B batch, F fields, N dense features, T the fields' bag lengths summed, L history length, D embedding dim.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read once, when Keras is imported

import jax
import keras
import keras_rs
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from benchmarks.peers.workloads import Answer, Answers, BagSizes, DLRMSizes, SASRecSizes, Task, take_rows

LAYER_NORM_EPSILON = 1e-6  # Flax's
Inputs = Mapping[str, Any]


class DLRM(keras.Model):
    """recjax.models.dlrm_dcnv2 as it serves."""

    def __init__(self, sizes: DLRMSizes) -> None:
        """Makes the layers."""
        super().__init__()
        self.tables = [layers.Embedding(sizes.rows, sizes.dim) for _ in range(sizes.tables)]
        self.bottom = [layers.Dense(width, activation="relu") for width in (*sizes.bottom_mlp, sizes.dim)]
        self.cross = [keras_rs.layers.FeatureCross(projection_dim=rank) for rank in sizes.cross_ranks]
        self.top = [layers.Dense(width, activation="relu") for width in sizes.top_mlp]
        self.logit = layers.Dense(1, activation="sigmoid")

    def call(self, inputs: Inputs) -> dict[str, Any]:
        """Returns `probability` [B]."""
        bottom = inputs["dense"]
        for layer in self.bottom:
            bottom = layer(bottom)
        x0 = x = ops.concatenate(
            [bottom, *(table(inputs["sparse_ids"][:, index]) for index, table in enumerate(self.tables))], axis=1
        )
        for layer in self.cross:
            x = layer(x0, x)
        for layer in self.top:
            x = layer(x)
        return {"probability": self.logit(x)[:, 0]}

    def load(self, weights: Mapping[str, NDArray]) -> None:
        """Takes recjax's weights."""
        for index, table in enumerate(self.tables):
            table.set_weights([weights[f"table_c{index:02d}/table"]])
        for name, mlp in (("bottom_mlp", self.bottom), ("top_mlp", self.top)):
            for index, layer in enumerate(mlp):
                layer.set_weights(_dense(weights, f"{name}/dense_{index}"))
        for index, layer in enumerate(self.cross):
            layer.set_weights([weights[f"cross/down_{index}/kernel"], *_dense(weights, f"cross/up_{index}")])
        self.logit.set_weights(_dense(weights, "logit"))


class SASRec(keras.Model):
    """recjax.models.sasrec as it serves."""

    def __init__(self, sizes: SASRecSizes) -> None:
        """Makes the layers."""
        super().__init__()
        self.sizes = sizes
        self.items, self.positions = (layers.Embedding(n, sizes.dim) for n in (sizes.items, sizes.history))
        attention = {"num_heads": sizes.heads, "key_dim": sizes.dim // sizes.heads}
        self.blocks = [
            {
                "norm_attention": layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON),
                "attention": layers.MultiHeadAttention(**attention),
                "norm_mlp": layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON),
                "hidden": layers.Dense(mlp_dim, activation="relu"),
                "out": layers.Dense(sizes.dim),
            }
            for mlp_dim in sizes.mlp_dims
        ]
        self.norm = layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON)

    def call(self, inputs: Inputs) -> dict[str, Any]:
        """Returns `items` [B, K] and `scores` [B, K], best first, without the history's own items."""
        history_BL, lengths_B = inputs["history"], inputs["lengths"]
        x_BLD = self.items(history_BL) * self.sizes.dim**0.5 + self.positions(ops.arange(history_BL.shape[1]))[None]
        for block in self.blocks:
            normed_BLD = block["norm_attention"](x_BLD)
            x_BLD = x_BLD + block["attention"](normed_BLD, normed_BLD, use_causal_mask=True)
            x_BLD = x_BLD + block["out"](block["hidden"](block["norm_mlp"](x_BLD)))
        last_BD = ops.take_along_axis(self.norm(x_BLD), (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        scores_BV = ops.matmul(last_BD, ops.transpose(self.items.embeddings))
        used_BL = ops.arange(history_BL.shape[1])[None] < lengths_B[:, None]
        seen_BL = ops.where(used_BL, history_BL, history_BL[:, :1])  # padding names the first item again
        users_BL = ops.broadcast_to(ops.arange(history_BL.shape[0])[:, None], history_BL.shape)
        places = ops.reshape(ops.stack([users_BL, seen_BL], axis=-1), (-1, 2))
        unseen_BV = ops.scatter_update(scores_BV, places, ops.full((places.shape[0],), -np.inf))
        scores_BK, items_BK = ops.top_k(unseen_BV, self.sizes.top_k)
        return {"items": items_BK, "scores": scores_BK}

    def load(self, weights: Mapping[str, NDArray]) -> None:
        """Takes recjax's weights; Keras's attention has kernels [D, H, K] and [H, K, D]."""
        heads = (self.sizes.heads, -1)
        self.items.set_weights([weights["items/table"]])
        self.positions.set_weights([weights["positions/table"]])
        for index, block in enumerate(self.blocks):
            path, attention = f"block_{index}", []
            for name in ("query", "key", "value"):
                kernel, bias = _dense(weights, f"{path}/attention/{name}")
                attention += [kernel.reshape(len(kernel), *heads), bias.reshape(heads)]
            kernel, bias = _dense(weights, f"{path}/attention/out")
            block["attention"].set_weights([*attention, kernel.reshape(*heads, kernel.shape[1]), bias])
            block["hidden"].set_weights(_dense(weights, f"{path}/mlp/dense_0"))
            block["out"].set_weights(_dense(weights, f"{path}/mlp/dense_1"))
            for norm in ("norm_attention", "norm_mlp"):
                block[norm].set_weights([weights[f"{path}/{norm}/{of}"] for of in ("scale", "bias")])
        self.norm.set_weights([weights[f"norm/{of}"] for of in ("scale", "bias")])


class Bags(keras.Model):
    """Sums of rows, one `EmbedReduce` a table."""

    def __init__(self, sizes: BagSizes) -> None:
        """Makes the layers."""
        super().__init__()
        self.length = sizes.bag_length
        self.tables = [keras_rs.layers.EmbedReduce(sizes.rows, sizes.dim, combiner="sum") for _ in range(sizes.tables)]

    def call(self, inputs: Inputs) -> dict[str, Any]:
        """Returns `bags` [B, F D]."""
        ids = ops.split(inputs["sparse_ids"], len(self.tables), axis=1)
        return {"bags": ops.concatenate([bag(ids_BL) for bag, ids_BL in zip(self.tables, ids, strict=True)], axis=1)}

    def load(self, weights: Mapping[str, NDArray]) -> None:
        """Takes recjax's weights."""
        for index, table in enumerate(self.tables):
            table.set_weights([weights[f"table_c{index:02d}/table"]])


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that compiles the task for a batch size."""
    kinds: dict[str, Callable[..., Any]] = {"dlrm": DLRM, "sasrec": SASRec, "bags": Bags}
    model = kinds[task.sizes.kind](task.sizes)
    model(take_rows(task.columns, np.arange(1)))  # Keras makes its variables in the first call
    model.load(task.weights)
    state = [
        [variable.value for variable in group] for group in (model.trainable_variables, model.non_trainable_variables)
    ]

    def compile_for(batch_size: int) -> Answer:
        def call(trained: Any, others: Any, batch: Inputs) -> Any:
            return model.stateless_call(trained, others, batch)[0]

        compiled = jax.jit(call).lower(*state, take_rows(task.columns, np.arange(batch_size))).compile()

        def answer(rows: NDArray) -> Answers:
            outputs = compiled(*state, take_rows(task.columns, rows))
            return {name: np.asarray(value) for name, value in outputs.items()}

        return answer

    return compile_for


def _dense(weights: Mapping[str, NDArray], path: str) -> list[NDArray]:
    return [weights[f"{path}/kernel"], weights[f"{path}/bias"]]
