"""The workloads' models as ONNX graphs, with recjax's weights as their initializers.

Graphs are written by hand in operators that ONNX Runtime has kernels for, one node where exporters write one; nothing
is exported from PyTorch, which need not be there. Large tables are handed to ONNX Runtime beside the graph: copied into
it, they would soon reach its limit of 2 GB.

Shapes: B batch, N dense features, T the fields' bag lengths summed, L history length, D embedding dim, H heads.
"""

import dataclasses
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.workloads import BagSizes, DLRMSizes, SASRecSizes, Task

OPSET, IR_VERSION = 23, 11  # Attention is of opset 23
LAYER_NORM_EPSILON = 1e-6  # Flax's
LARGE_BYTES = 2**24  # of an array that stays outside the graph
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


@dataclasses.dataclass
class Graph:
    """Nodes as they are added, and the arrays that they read.

    Attributes:
      weights: of the task.
      nodes: in order.
      arrays: by the name of the initializer.
    """

    weights: dict[str, NDArray]
    nodes: list[Any] = dataclasses.field(default_factory=list)
    arrays: dict[str, NDArray] = dataclasses.field(default_factory=dict)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Returns the name of the node's output, or of all where there are several."""
        names = [f"{operator}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, path: str) -> str:
        """Returns the name of the weight."""
        self.arrays[path] = self.weights[path]
        return path

    def constant(self, value: NDArray) -> str:
        """Returns the name of a constant array."""
        name = f"constant_{len(self.arrays)}"
        self.arrays[name] = value
        return name

    def integers(self, *values: int) -> str:
        """Returns the name of an int64 vector, as shapes, axes and indices are."""
        return self.constant(np.array(values, np.int64))

    def dense(self, x: str, path: str, *, relu: bool = False) -> str:
        """Returns x [..., I] times the kernel, plus the bias if there is one."""
        y = self.add("MatMul", x, self.weight(f"{path}/kernel"))
        if f"{path}/bias" in self.weights:
            y = self.add("Add", y, self.weight(f"{path}/bias"))
        return self.add("Relu", y) if relu else y

    def matrix_dense(self, x: str, path: str, *, relu: bool = False) -> str:
        """Returns what `dense` does for x [B, I], in the one node that exporters write for a matrix."""
        bias = [self.weight(f"{path}/bias")] if f"{path}/bias" in self.weights else []
        y = self.add("Gemm", x, self.weight(f"{path}/kernel"), *bias)
        return self.add("Relu", y) if relu else y

    def norm(self, x: str, path: str) -> str:
        """Returns x [..., D] normed over D."""
        parts = self.weight(f"{path}/scale"), self.weight(f"{path}/bias")
        return self.add("LayerNormalization", x, *parts, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def rename(self, value: str, name: str) -> None:
        """Gives an answer its name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))


def build_graph(task: Task, batch_size: int) -> tuple[onnx.ModelProto, dict[str, NDArray]]:
    """Returns the model for one batch size, and by name the arrays that it expects from outside."""
    graph = Graph(dict(task.weights))
    if isinstance(task.sizes, DLRMSizes):
        outputs = _dlrm(graph, task.sizes)
    elif isinstance(task.sizes, SASRecSizes):
        outputs = _sasrec(graph, task.sizes, batch_size)
    else:
        outputs = _bags(graph, task.sizes)
    inputs = [
        helper.make_tensor_value_info(name, TYPES[column.dtype.name], [batch_size, *column.shape[1:]])
        for name, column in task.columns.items()
    ]
    answers = [helper.make_tensor_value_info(name, of_type, None) for name, of_type in outputs.items()]
    outside = {name: array for name, array in graph.arrays.items() if array.nbytes >= LARGE_BYTES}
    initializers = [
        _placed_outside(name, array) if name in outside else numpy_helper.from_array(array, name)
        for name, array in graph.arrays.items()
    ]
    made = helper.make_graph(graph.nodes, task.sizes.kind, inputs, answers, initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION), outside


def _dlrm(graph: Graph, sizes: DLRMSizes) -> dict[str, int]:
    bottom = "dense"
    for index in range(len(sizes.bottom_mlp) + 1):
        bottom = graph.matrix_dense(bottom, f"bottom_mlp/dense_{index}", relu=True)
    rows = []
    for index in range(sizes.tables):
        ids_B = graph.add("Gather", "sparse_ids", graph.constant(np.array(index, np.int64)), axis=1)
        rows.append(graph.add("Gather", graph.weight(f"table_c{index:02d}/table"), ids_B, axis=0))
    x0 = x = graph.add("Concat", bottom, *rows, axis=1)
    for index in range(len(sizes.cross_ranks)):
        up = graph.matrix_dense(graph.matrix_dense(x, f"cross/down_{index}"), f"cross/up_{index}")
        x = graph.add("Add", graph.add("Mul", x0, up), x)
    for index in range(len(sizes.top_mlp)):
        x = graph.matrix_dense(x, f"top_mlp/dense_{index}", relu=True)
    logit_B1 = graph.matrix_dense(x, "logit")
    graph.rename(graph.add("Sigmoid", graph.add("Squeeze", logit_B1, graph.integers(1))), "probability")
    return {"probability": TensorProto.FLOAT}


def _sasrec(graph: Graph, sizes: SASRecSizes, batch_size: int) -> dict[str, int]:
    B, L, D = batch_size, sizes.history, sizes.dim
    rows_BLD = graph.add("Gather", graph.weight("items/table"), "history", axis=0)
    scaled_BLD = graph.add("Mul", rows_BLD, graph.constant(np.array(D**0.5, np.float32)))
    x_BLD = graph.add("Add", scaled_BLD, graph.weight("positions/table"))
    for index in range(len(sizes.mlp_dims)):
        x_BLD = _block(graph, x_BLD, f"block_{index}", sizes.heads)
    hidden_BLD = graph.norm(x_BLD, "norm")
    last_B1 = graph.add("Unsqueeze", graph.add("Sub", "lengths", _int32(graph, 1)), graph.integers(1))
    last_BD = graph.add("GatherND", hidden_BLD, graph.add("Cast", last_B1, to=TensorProto.INT64), batch_dims=1)
    scores_BV = graph.add("MatMul", last_BD, graph.add("Transpose", graph.weight("items/table"), perm=[1, 0]))
    positions_L = graph.constant(np.arange(L, dtype=np.int32))
    used_BL = graph.add("Less", positions_L, graph.add("Unsqueeze", "lengths", graph.integers(1)))
    first_B1 = graph.add("Slice", "history", graph.integers(0), graph.integers(1), graph.integers(1))
    seen_BL = graph.add("Where", used_BL, "history", first_B1)  # padding names the first item again
    removed_BL = graph.constant(np.full((B, L), -np.inf, np.float32))
    unseen_BV = graph.add("ScatterElements", scores_BV, seen_BL, removed_BL, axis=1)
    scores_BK, items_BK = graph.add("TopK", unseen_BV, graph.integers(sizes.top_k), outputs=2)
    graph.rename(items_BK, "items")
    graph.rename(scores_BK, "scores")
    return {"items": TensorProto.INT64, "scores": TensorProto.FLOAT}


def _block(graph: Graph, x_BLD: str, path: str, heads: int) -> str:
    normed_BLD = graph.norm(x_BLD, f"{path}/norm_attention")
    projected = [graph.dense(normed_BLD, f"{path}/attention/{name}") for name in ("query", "key", "value")]
    attended_BLD = graph.add("Attention", *projected, q_num_heads=heads, kv_num_heads=heads, is_causal=1)
    x_BLD = graph.add("Add", x_BLD, graph.dense(attended_BLD, f"{path}/attention/out"))
    hidden = graph.dense(graph.norm(x_BLD, f"{path}/norm_mlp"), f"{path}/mlp/dense_0", relu=True)
    return graph.add("Add", x_BLD, graph.dense(hidden, f"{path}/mlp/dense_1"))


def _bags(graph: Graph, sizes: BagSizes) -> dict[str, int]:
    bags = []
    for index in range(sizes.tables):
        of_field = np.arange(index * sizes.bag_length, (index + 1) * sizes.bag_length)
        ids_BL = graph.add("Gather", "sparse_ids", graph.integers(*of_field), axis=1)
        rows_BLD = graph.add("Gather", graph.weight(f"table_c{index:02d}/table"), ids_BL, axis=0)
        bags.append(graph.add("ReduceSum", rows_BLD, graph.integers(1), keepdims=0))
    graph.rename(graph.add("Concat", *bags, axis=1), "bags")
    return {"bags": TensorProto.FLOAT}


def _int32(graph: Graph, value: int) -> str:
    return graph.constant(np.array(value, np.int32))


def _placed_outside(name: str, array: NDArray) -> TensorProto:
    """Returns an initializer that says its type and shape, and that its values come from outside the graph."""
    tensor = TensorProto(name=name, data_type=TYPES[array.dtype.name], dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor
