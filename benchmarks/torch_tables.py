"""The stand-in of `benchmarks.table_contestants` in PyTorch, trained with sparse gradients and SparseAdam.

PyTorch is no requirement: `torch_contestant` says so where it is missing.
"""

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.table_contestants import N_DENSE, Contestant
from recjax.data.features import LabelledSchema

NAME = "torch SparseAdam"
EMBEDDING_DIM, CROSS_RANK, N_CROSS = 64, 512, 3
BOTTOM, TOP = (512, 256, EMBEDDING_DIM), (1024, 1024, 512, 256)


def missing_torch() -> str | None:
    """Returns why PyTorch cannot take part, None if it can."""
    return None if importlib.util.find_spec("torch") else "PyTorch is not installed (the extra `peers` has it)"


def torch_contestant(schema: LabelledSchema, batches: Sequence[Mapping[str, Any]]) -> Contestant:
    """Returns the contestant: eager PyTorch on the CPU, one id a field, SparseAdam for tables and Adam for the rest."""
    import torch

    widths = EMBEDDING_DIM * (len(schema.fields) + 1)

    def mlp(inputs: int, outputs: Sequence[int]) -> Any:
        sizes = [inputs, *outputs]
        layers = [[torch.nn.Linear(a, b), torch.nn.ReLU()] for a, b in itertools.pairwise(sizes)]
        return torch.nn.Sequential(*(layer for pair in layers for layer in pair))

    tables = [torch.nn.Embedding(field.vocab_size, EMBEDDING_DIM, sparse=True) for field in schema.fields]
    bottom, top, logit = mlp(N_DENSE, BOTTOM), mlp(widths, TOP), torch.nn.Linear(TOP[-1], 1)
    down = [torch.nn.Linear(widths, CROSS_RANK, bias=False) for _ in range(N_CROSS)]
    up = [torch.nn.Linear(CROSS_RANK, widths) for _ in range(N_CROSS)]
    dense = [p for module in (bottom, top, logit, *down, *up) for p in module.parameters()]
    dense_adam = torch.optim.Adam(dense, lr=1e-3)
    sparse_adam = torch.optim.SparseAdam([table.weight for table in tables], lr=1e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    arrays = [{k: torch.from_numpy(np.array(batch[k])) for k in ("dense", "sparse_ids", "labels")} for batch in batches]
    count = 0

    def take_step() -> None:
        nonlocal count
        batch = arrays[count % len(arrays)]
        count += 1
        dense_adam.zero_grad()
        sparse_adam.zero_grad()
        rows = [table(batch["sparse_ids"][:, i]) for i, table in enumerate(tables)]
        x0 = x = torch.cat([bottom(batch["dense"]), *rows], 1)
        for low, high in zip(down, up, strict=True):
            x = x0 * high(low(x)) + x
        loss_of(logit(top(x))[:, 0], batch["labels"]).backward()
        dense_adam.step()
        sparse_adam.step()

    return Contestant(name=NAME, step=take_step)
