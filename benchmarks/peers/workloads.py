"""What every peer computes: the sizes of a workload, and the folder that holds its weights and its requests.

A peer's process may run in a Python of its own that has neither JAX nor recjax, so nothing but NumPy is imported here,
and what is handed over are plain arrays and JSON.

Shapes: R requests, N dense features, T the fields' bag lengths summed, L history length, K items returned.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray]  # of requests: one row a request
Answers = dict[str, NDArray]
Answer = Callable[[NDArray], Answers]  # row numbers of the requests in, a batch's answers out

N_REQUESTS = 16_384
INPUTS = "synthetic: recjax's random initial weights with random biases; normal features, uniform ids and lengths"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DLRMSizes:
    """A DLRM-DCNv2, one id a field: `dense` [R, N] and `sparse_ids` [R, T] in, `probability` out."""

    kind: ClassVar[str] = "dlrm"

    tables: int = 26
    rows: int = 100_000  # of each table
    dim: int = 64
    n_dense: int = 13
    bottom_mlp: tuple[int, ...] = (512, 256)  # before a last layer of `dim`
    cross_ranks: tuple[int, ...] = (512, 512, 512)
    top_mlp: tuple[int, ...] = (1024, 1024, 512, 256)  # before the logit


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecSizes:
    """A SASRec: `history` [R, L] and `lengths` [R] in, the K best unseen `items` and their `scores` out."""

    kind: ClassVar[str] = "sasrec"

    items: int = 3_496
    history: int = 50
    dim: int = 64
    heads: int = 2
    mlp_dims: tuple[int, ...] = (256, 256)
    top_k: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagSizes:
    """Lookups alone: `sparse_ids` [R, T] in, `bags` [R, tables x dim] out, each the sum of its table's rows."""

    kind: ClassVar[str] = "bags"

    tables: int = 26
    rows: int = 100_000  # of each table
    dim: int = 64
    bag_length: int = 10  # ids of each bag; all bags are full


Sizes = DLRMSizes | SASRecSizes | BagSizes
KINDS: dict[str, type[Sizes]] = {kind.kind: kind for kind in (DLRMSizes, SASRecSizes, BagSizes)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A model of some size, and the batch sizes at which it is timed."""

    name: str
    sizes: Sizes
    batch_sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a peer is given.

    Attributes:
      sizes: of the model.
      weights: float32, by the path that recjax gives a parameter, as in "top_mlp/dense_0/kernel".
      columns: of the requests.
      threads: that the peer may compute with.
    """

    sizes: Sizes
    weights: Mapping[str, NDArray]
    columns: Columns
    threads: int


WORKLOADS = (
    Workload(name="dlrm_dcnv2", sizes=DLRMSizes(), batch_sizes=(1, 128, 2048)),
    Workload(name="sasrec", sizes=SASRecSizes(), batch_sizes=(1, 32, 128)),
    Workload(name="sum_of_26", sizes=BagSizes(tables=1, rows=1_000_000, bag_length=26), batch_sizes=(1, 128, 2048)),
    Workload(name="pooled_bags", sizes=BagSizes(), batch_sizes=(1, 128, 2048)),
)


def resized(workload: Workload, rows: int | None) -> Workload:
    """Returns the workload with tables of so many rows, if it has tables and rows are given."""
    if rows is None or isinstance(workload.sizes, SASRecSizes):
        return workload
    return dataclasses.replace(workload, sizes=dataclasses.replace(workload.sizes, rows=rows))


def take_rows(columns: Columns, rows: NDArray) -> Answers:
    """Returns the batch of those requests."""
    return {name: np.take(column, rows, axis=0) for name, column in columns.items()}


def write_sizes(folder: Path, sizes: Sizes) -> None:
    """Writes the sizes, which begin a task's folder."""
    (folder / "sizes.json").write_text(json.dumps({"kind": sizes.kind, **dataclasses.asdict(sizes)}))


def read_sizes(folder: Path) -> Sizes:
    """Returns the sizes of a task's folder."""
    stored = json.loads((folder / "sizes.json").read_text())
    kind = KINDS[stored.pop("kind")]
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return kind(**values)


def write_arrays(folder: Path, **groups: Mapping[str, NDArray]) -> None:
    """Writes the task's `weights` and `columns`."""
    for name, arrays in groups.items():
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]


def read_task(folder: Path, threads: int) -> Task:
    """Returns the task of a folder, its arrays in memory of their own; nothing is unpickled."""
    weights, columns = (dict(np.load(folder / f"{name}.npz", allow_pickle=False)) for name in ("weights", "columns"))
    return Task(read_sizes(folder), weights, columns, threads)
