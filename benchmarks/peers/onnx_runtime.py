"""ONNX Runtime with all graph optimisations, one session a batch size."""

from collections.abc import Callable
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers.onnx_graphs import build_graph
from benchmarks.peers.workloads import Answer, Answers, Task, take_rows


def prepare(task: Task) -> Callable[[int], Answer]:
    """Returns the function that makes the session of a batch size; tables are shared by all sessions."""
    values: dict[str, Any] = {}

    def compile_for(batch_size: int) -> Answer:
        model, large = build_graph(task, batch_size)
        for name in large.keys() - values.keys():
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(large[name])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_external_initializers(list(large), [values[name] for name in large])
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def answer(rows: NDArray) -> Answers:
            return dict(zip(names, session.run(names, take_rows(task.columns, rows)), strict=True))

        return answer

    return compile_for
