"""A model compiled on one device, or on several: groups of them share a batch, and those of a group the layers."""

import dataclasses
from typing import Any

import jax
from jax.sharding import NamedSharding

from recjax.errors import SplitError
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
      model_devices: of those, that share the layers which the model's sharding rules split. Tables are whole on each
        of them, and so is what is stored in another form than an array, as in int8.

    Raises:
      SplitError: a layer cannot be split evenly, no rule covers it, or none is split.
      UserError: the model does not fit into memory.
    """
    if devices == 1:
        return compile_final_model(model, columns, buckets, top_k)
    mesh = make_mesh({"data": devices // model_devices, "model": model_devices}, jax.local_devices()[:devices])
    if model_devices > 1:
        params, rules, name = model.variables["params"], model.config.sharding_rules(), type(model.module).__name__
        specs = parameter_specs(params, rules, mesh, name, fully_sharded=False)
        if not any("model" in specs[path] for path, leaf in flatten(params).items() if leaf.ndim > 1):
            raise SplitError(
                f"{model_devices} devices cannot share the layers of this {name}: each kernel is whole, by the model's "
                "sharding rules or because it is stored as in int8; let them share batches alone"
            )
        split = {path: jax.device_put(leaf, NamedSharding(mesh, specs[path])) for path, leaf in flatten(params).items()}
        model = dataclasses.replace(model, variables={**model.variables, "params": unflatten_like(params, split)})
    return compile_final_model(model, columns, buckets, top_k, mesh)
