"""The workloads' models in PyTorch, with recjax's weights; what the eager and the compiled peer share.

Shapes: B batch, F fields, D embedding dim, L history or bag length, H heads, K items returned, V catalogue.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.workloads import Answer, Answers, BagSizes, Columns, DLRMSizes, SASRecSizes, Task, take_rows

LAYER_NORM_EPSILON = 1e-6  # Flax's


class DLRM(nn.Module):
    """recjax.models.dlrm_dcnv2 as it serves."""

    def __init__(self, sizes: DLRMSizes, weights: Mapping[str, NDArray]) -> None:
        """Takes the weights."""
        super().__init__()
        self.tables = nn.ModuleList(table(weights, f"table_c{index:02d}/table") for index in range(sizes.tables))
        self.bottom = mlp(weights, "bottom_mlp", len(sizes.bottom_mlp) + 1)
        self.down = nn.ModuleList(linear(weights, f"cross/down_{index}") for index in range(len(sizes.cross_ranks)))
        self.up = nn.ModuleList(linear(weights, f"cross/up_{index}") for index in range(len(sizes.cross_ranks)))
        self.top = nn.Sequential(mlp(weights, "top_mlp", len(sizes.top_mlp)), linear(weights, "logit"))

    def forward(self, dense_BN: Tensor, sparse_ids_BF: Tensor) -> dict[str, Tensor]:
        """Returns `probability` [B]."""
        rows = [table(ids_B) for table, ids_B in zip(self.tables, sparse_ids_BF.unbind(1), strict=True)]
        x0 = x = torch.cat([self.bottom(dense_BN), *rows], 1)
        for down, up in zip(self.down, self.up, strict=True):
            x = x0 * up(down(x)) + x
        return {"probability": torch.sigmoid(self.top(x)[:, 0])}


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, sizes: SASRecSizes, weights: Mapping[str, NDArray], path: str) -> None:
        """Takes the weights."""
        super().__init__()
        self.heads = sizes.heads
        self.norm_attention, self.norm_mlp = (layer_norm(weights, f"{path}/norm_{of}") for of in ("attention", "mlp"))
        self.query, self.key, self.value, self.out = (
            linear(weights, f"{path}/attention/{name}") for name in ("query", "key", "value", "out")
        )
        self.mlp = nn.Sequential(
            linear(weights, f"{path}/mlp/dense_0"), nn.ReLU(), linear(weights, f"{path}/mlp/dense_1")
        )

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns the block's output [B, L, D]."""
        normed_BLD = self.norm_attention(x_BLD)
        query, key, value = (
            layer(normed_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended_BHLD = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BLD = x_BLD + self.out(attended_BHLD.transpose(1, 2).flatten(2))
        return x_BLD + self.mlp(self.norm_mlp(x_BLD))


class SASRec(nn.Module):
    """recjax.models.sasrec as it serves."""

    def __init__(self, sizes: SASRecSizes, weights: Mapping[str, NDArray]) -> None:
        """Takes the weights."""
        super().__init__()
        self.sizes = sizes
        self.items, self.positions = table(weights, "items/table"), table(weights, "positions/table")
        self.blocks = nn.Sequential(*(Block(sizes, weights, f"block_{i}") for i in range(len(sizes.mlp_dims))))
        self.norm = layer_norm(weights, "norm")

    def forward(self, history_BL: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """Returns `items` [B, K] and `scores` [B, K], best first, without the history's own items."""
        x_BLD = self.items(history_BL) * self.sizes.dim**0.5 + self.positions.weight[: history_BL.shape[1]]
        hidden_BLD = self.norm(self.blocks(x_BLD))
        last_BD = hidden_BLD[torch.arange(len(lengths_B)), lengths_B.long() - 1]
        scores_BV = last_BD @ self.items.weight.T
        used_BL = torch.arange(history_BL.shape[1]) < lengths_B[:, None]
        seen_BL = torch.where(used_BL, history_BL, history_BL[:, :1])  # padding names the first item again
        scores_BV = scores_BV.scatter(1, seen_BL.long(), -torch.inf)
        scores_BK, items_BK = scores_BV.topk(self.sizes.top_k)
        return {"items": items_BK, "scores": scores_BK}


class Bags(nn.Module):
    """Sums of rows, one `EmbeddingBag` a table."""

    def __init__(self, sizes: BagSizes, weights: Mapping[str, NDArray]) -> None:
        """Takes the weights."""
        super().__init__()
        self.length = sizes.bag_length
        names = [f"table_c{index:02d}/table" for index in range(sizes.tables)]
        self.tables = nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(torch.from_numpy(weights[name]), mode="sum") for name in names
        )

    def forward(self, sparse_ids_BT: Tensor) -> dict[str, Tensor]:
        """Returns `bags` [B, F D]."""
        ids = sparse_ids_BT.split(self.length, 1)
        return {"bags": torch.cat([bag(ids_BL) for bag, ids_BL in zip(self.tables, ids, strict=True)], 1)}


def build_model(task: Task) -> nn.Module:
    """Returns the model, which answers and is not trained."""
    models: dict[str, Callable[..., nn.Module]] = {"dlrm": DLRM, "sasrec": SASRec, "bags": Bags}
    return models[task.sizes.kind](task.sizes, task.weights).eval().requires_grad_(False)


def answer_with(model: Callable[..., dict[str, Tensor]], columns: Columns) -> Answer:
    """Returns the function that gathers a batch of the requests and calls the model in inference mode."""

    def answer(rows: NDArray) -> Answers:
        with torch.inference_mode():
            batch = [torch.from_numpy(column) for column in take_rows(columns, rows).values()]
            return {name: value.numpy() for name, value in model(*batch).items()}

    return answer


def linear(weights: Mapping[str, NDArray], path: str) -> nn.Linear:
    """Returns the dense layer of recjax's kernel [I, O] and its bias, if it has one."""
    kernel, bias = weights[f"{path}/kernel"], weights.get(f"{path}/bias")
    layer = nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.T))
    if bias is not None:
        layer.bias.data = torch.from_numpy(bias)
    return layer


def mlp(weights: Mapping[str, NDArray], path: str, depth: int) -> nn.Sequential:
    """Returns dense layers, each followed by a ReLU."""
    layers = [[linear(weights, f"{path}/dense_{index}"), nn.ReLU()] for index in range(depth)]
    return nn.Sequential(*itertools.chain.from_iterable(layers))


def table(weights: Mapping[str, NDArray], path: str) -> nn.Embedding:
    """Returns the embedding of the table [V, D]."""
    return nn.Embedding.from_pretrained(torch.from_numpy(weights[path]))


def layer_norm(weights: Mapping[str, NDArray], path: str) -> nn.LayerNorm:
    """Returns the norm of a scale and a bias [D]."""
    norm = nn.LayerNorm(len(weights[f"{path}/scale"]), eps=LAYER_NORM_EPSILON)
    norm.weight.data, norm.bias.data = (torch.from_numpy(weights[f"{path}/{of}"]) for of in ("scale", "bias"))
    return norm
