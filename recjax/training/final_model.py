"""A trained, transformed model: what is evaluated, served and measured."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from recjax.config import Experiment, from_dict, to_dict
from recjax.errors import CheckpointError
from recjax.evaluation import Data, Quality
from recjax.models.contract import Batch, precomputed
from recjax.training.checkpoint import differing_fields, experiment_identity, load_metadata, load_tree, save_tree
from recjax.transforms.paths import flatten
from recjax.transforms.protocol import Chain, Mode, TransformReport, Variables, chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinalModel:
    """The end of the chain: architecture, stored variables, and the functions of them that answer.

    Attributes:
      config: the model's Config after every transform; smaller than the experiment's after `shrink`.
      schema: of the data it was trained on.
      transform: the chain that made it.
      variables: what is stored and served: "params", with no float copy of what is quantized, and "precomputed" where
        the model computes something for all requests.
      report: what each transform did.
    """

    config: Any
    schema: Any
    transform: Chain
    variables: Variables
    report: TransformReport

    @property
    def module(self) -> Any:
        """Returns the module that answers from `variables`."""
        return self.transform.intercept(self.config.build(self.schema), Mode.SERVE)

    def score(self, variables: Variables, batch: Batch) -> jax.Array:
        """Returns scores [B, V], logits [B] or ratings [B]; pure, to be compiled by the caller."""
        return self.module.apply(*_split(variables, batch))

    def serve(self, variables: Variables, batch: Batch, *, top_k: int) -> Mapping[str, jax.Array]:
        """Returns what a service answers; pure, to be compiled by the caller."""
        return self.module.apply(*_split(variables, batch), top_k=top_k, method="serve")

    def with_precomputed(self, context: Mapping[str, Any]) -> "FinalModel":
        """Returns the model with what all requests share computed from its final variables and stored with them."""
        if not hasattr(self.module, "precompute"):
            return self

        compute = functools.partial(precomputed, self.module)
        return dataclasses.replace(self, variables={**self.variables, **jax.jit(compute)(self.variables, context)})

    def dense_layer_bytes(self) -> int:
        """Returns the stored bytes of all dense layers: kernels in whatever form, and their biases."""
        flat = flatten(self.variables["params"])
        layers = {path.split("/kernel")[0] for path in flat if "/kernel" in path}
        return sum(leaf.nbytes for path, leaf in flat.items() if re.split("/kernel|/bias", path)[0] in layers)

    def table_bytes(self) -> int:
        """Returns the stored bytes of all embedding tables, in whatever form."""
        flat = flatten(self.variables["params"])
        return sum(leaf.nbytes for path, leaf in flat.items() if "table" in path.split("/"))

    def parameter_bytes(self) -> int:
        """Returns the bytes of all stored variables."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.variables))

    def save(self, directory: Path, experiment: Experiment, quality: Quality) -> None:
        """Writes arrays and metadata; raises CheckpointError as `save_tree` does."""
        metadata = {
            "experiment": experiment_identity(experiment),
            "model_config": to_dict(self.config),
            "transforms": [member.to_json() for member in self.transform.members],
            "report": self.report.details,
            "quality": {"protocol": quality.protocol, "metrics": dict(quality.metrics), "n": quality.n},
        }
        save_tree(directory, self.variables, metadata)


def _split(variables: Variables, batch: Batch) -> tuple[Variables, Batch]:
    """Returns the variables that the module reads, and the batch with what all requests share."""
    shared = {"precomputed": variables["precomputed"]} if "precomputed" in variables else {}
    return {"params": variables["params"]}, {**batch, **shared}


def load_final_model(directory: Path, experiment: Experiment, data: Data) -> FinalModel:
    """Returns the model that `FinalModel.save` wrote for this experiment.

    Raises:
      CheckpointError: missing, corrupt, or of another experiment.
    """
    metadata = load_metadata(directory, ("experiment", "model_config", "report"))
    identity = experiment_identity(experiment)
    if metadata["experiment"] != identity:
        different = ", ".join(differing_fields(identity, metadata["experiment"]))
        raise CheckpointError(
            f"{directory} holds another experiment: {different} differ; train this one, or give its folder and the "
            "same --set as in its training"
        )
    return FinalModel(
        config=from_dict(type(experiment.model), metadata["model_config"]),
        schema=data.schema,
        transform=chain(*experiment.transforms),
        variables=load_tree(directory),
        report=TransformReport(metadata["report"]),
    )
