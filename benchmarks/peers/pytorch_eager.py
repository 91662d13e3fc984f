"""PyTorch as one writes it: eager, in inference mode."""

from collections.abc import Callable

import torch

from benchmarks.peers.pytorch_models import answer_with, build_model
from benchmarks.peers.workloads import Answer, Task


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that gives the answering function of a batch size: the same for all, nothing is compiled."""
    torch.set_num_threads(task.threads)
    answer = answer_with(build_model(task), task.columns)
    return lambda batch_size: answer
