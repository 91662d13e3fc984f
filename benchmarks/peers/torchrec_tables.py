"""TorchRec's embedding bags for inference, whose work FBGEMM does: what its keyed jagged tensors add to that.

Shapes: T tables, R requests, B batch, L bag length.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.quant.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.peers.fbgemm_tables import ids_by_table
from benchmarks.peers.workloads import Answer, Answers, BagSizes, Task


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that gives the answering function of a batch size."""
    torch.set_num_threads(task.threads)
    sizes = task.sizes
    assert isinstance(sizes, BagSizes)
    keys, ids_TRL = [f"c{index:02d}" for index in range(sizes.tables)], ids_by_table(task)
    configs = [
        EmbeddingBagConfig(
            name=f"table_{key}",
            embedding_dim=sizes.dim,
            num_embeddings=sizes.rows,
            feature_names=[key],
            pooling=PoolingType.SUM,
            data_type=DataType.FP32,
        )
        for key in keys
    ]
    bytes_of = {f"table_{key}": torch.from_numpy(task.weights[f"table_{key}/table"]).view(torch.uint8) for key in keys}
    module = EmbeddingBagCollection(
        configs,
        is_weighted=False,
        device=torch.device("cpu"),
        output_dtype=torch.float32,
        table_name_to_quantized_weights={name: (stored, None) for name, stored in bytes_of.items()},
        cache_features_order=True,
    ).eval()

    def compile_for(batch_size: int) -> Answer:
        n_bags = sizes.tables * batch_size
        lengths = torch.full((n_bags,), sizes.bag_length, dtype=torch.int32)
        offsets = torch.arange(0, (n_bags + 1) * sizes.bag_length, sizes.bag_length, dtype=torch.int32)

        def answer(rows: NDArray) -> Answers:
            with torch.inference_mode():
                ids = torch.from_numpy(np.take(ids_TRL, rows, axis=1).reshape(-1))
                features = KeyedJaggedTensor(keys, ids, lengths=lengths, offsets=offsets, stride=batch_size)
                return {"bags": module(features).values().numpy()}

        return answer

    return compile_for
