"""FBGEMM's table-batched embedding bags, its module for inference: all tables in one call.

It takes ids table by table, a request's bags far apart. Request columns are brought into that order once, before
anything is timed, so that gathering a batch costs it what it costs the others.

Shapes: T tables, R requests, B batch, L bag length.
"""

from collections.abc import Callable, Mapping

import fbgemm_gpu  # noqa: F401, the module registers its operators with PyTorch
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from numpy.typing import NDArray

from benchmarks.peers.workloads import Answer, Answers, BagSizes, Task


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that gives the answering function of a batch size."""
    torch.set_num_threads(task.threads)
    sizes = task.sizes
    assert isinstance(sizes, BagSizes)
    module, ids_TRL = make_module(sizes, task.weights), ids_by_table(task)

    def compile_for(batch_size: int) -> Answer:
        offsets = torch.arange(0, ids_TRL[:, :batch_size].size + 1, sizes.bag_length, dtype=torch.int32)

        def answer(rows: NDArray) -> Answers:
            with torch.inference_mode():
                ids = torch.from_numpy(np.take(ids_TRL, rows, axis=1).reshape(-1))
                return {"bags": module(ids, offsets).numpy()}

        return answer

    return compile_for


def make_module(sizes: BagSizes, weights: Mapping[str, NDArray]) -> IntNBitTableBatchedEmbeddingBagsCodegen:
    """Returns the module with its float32 tables; it does not look for ids out of range, as recjax does not."""
    names = [f"table_c{index:02d}/table" for index in range(sizes.tables)]
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [(name, sizes.rows, sizes.dim, SparseType.FP32, EmbeddingLocation.HOST) for name in names],
        pooling_mode=PoolingMode.SUM,
        device="cpu",
        bounds_check_mode=BoundsCheckMode.NONE,
        weight_lists=[(torch.from_numpy(weights[name]).view(torch.uint8), None) for name in names],
        output_dtype=SparseType.FP32,
    )
    return module.eval()


def ids_by_table(task: Task) -> NDArray:
    """Returns the ids of all requests [T, R, L], those of a table together."""
    sizes = task.sizes
    assert isinstance(sizes, BagSizes)
    by_request = task.columns["sparse_ids"].reshape(-1, sizes.tables, sizes.bag_length)
    return np.ascontiguousarray(by_request.transpose(1, 0, 2))
