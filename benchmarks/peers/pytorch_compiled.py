"""PyTorch with `torch.compile`, one program a batch size.

Weights are frozen into the program, which lets the compiler lay them out as it likes: PyTorch's option for inference,
and on the DLRM the faster way.
"""

from collections.abc import Callable

import torch

from benchmarks.peers.pytorch_models import answer_with, build_model
from benchmarks.peers.workloads import Answer, Task


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that compiles the task for a batch size."""
    torch.set_num_threads(task.threads)
    model = build_model(task)

    def compile_for(batch_size: int) -> Answer:
        return answer_with(
            torch.compile(model, fullgraph=True, dynamic=False, options={"freezing": True}), task.columns
        )

    return compile_for
