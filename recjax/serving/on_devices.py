"""A model compiled on one device, or on several: groups of them share a batch, and those of a group each layer."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.parallel.mesh import make_mesh
from recjax.parallel.rules import parameter_specs
from recjax.serving.compiled import Columns, CompiledModel, compile_final_model
from recjax.transforms.paths import flatten, unflatten_like


def compile_on_devices(
    model: Any, columns: Columns, buckets: tuple[int, ...], top_k: int, devices: int = 1, model_devices: int = 1
) -> CompiledModel:
    """Returns a FinalModel compiled to answer requests in every bucket.

    Args:
      model: to be served.
      columns: of requests.
      buckets: ascending batch sizes.
      top_k: items that a ranking model returns.
      devices: that answer together, the first ones of this process.
      model_devices: of those, that share each table and each layer, by the model's sharding rules; what is stored in
        another form than an array, as in int8, is whole on each of them.

    Raises:
      UserError: a layer cannot be split evenly, or the model does not fit into memory.
    """
    if devices == 1:
        return compile_final_model(model, columns, buckets, top_k)
    mesh = serving_mesh(devices, model_devices)
    if model_devices > 1:
        params, specs = model.variables["params"], split_of(model, mesh)
        split = {path: jax.device_put(leaf, NamedSharding(mesh, specs[path])) for path, leaf in flatten(params).items()}
        model = dataclasses.replace(model, variables={**model.variables, "params": unflatten_like(params, split)})
    return compile_final_model(model, columns, buckets, top_k, mesh)


def serving_mesh(devices: int, model_devices: int) -> Mesh:
    """Returns the mesh of the first devices of this process: groups share a batch, those of a group each layer."""
    return make_mesh({"data": devices // model_devices, "model": model_devices}, jax.local_devices()[:devices])


def split_of(model: Any, mesh: Mesh) -> dict[str, PartitionSpec]:
    """Returns by path how a FinalModel's parameters are split on a mesh.

    Raises:
      UserError: one cannot be split evenly, or no rule covers it.
    """
    rules, name = model.config.sharding_rules(), type(model.module).__name__
    return parameter_specs(model.variables["params"], rules, mesh, name, fully_sharded=False)
