"""The variants of a case, loaded from disk and compiled, and the null model: what one process measures in turns."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks.prepared import model_folder
from benchmarks.program_cache import kept_apart
from benchmarks.program_check import quantization_fault
from benchmarks.suite import Case
from recjax.config import Experiment
from recjax.load.system import ModelSystem
from recjax.parallel.mesh import make_mesh
from recjax.progress import stage
from recjax.serving.compiled import Columns, CompiledModel, compile_final_model
from recjax.training.final_model import load_final_model
from recjax.training.pipeline import load_data

NULL_LABEL = "null"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One variant of an experiment, or the null model, ready to be measured.

    Attributes:
      label: of the variant.
      system: that answers.
      programs: by batch size, what its row says of the compiled program.
      position_padding: share of positions of the requests' histories that hold nothing; None where there is no history.
    """

    label: str
    system: ModelSystem
    programs: Mapping[int, Mapping[str, Any]]
    position_padding: float | None

    @property
    def is_null(self) -> bool:
        """Returns whether this is the harness's floor."""
        return self.label == NULL_LABEL


def load_contestants(case: Case, folder: Path) -> list[Contestant]:
    """Returns every variant of a prepared case, fp32 first, and the null model last.

    Raises:
      CheckpointError: a model is not there, or is of another experiment.
      UserError: one does not fit into memory.
    """
    experiment = case.experiment
    data = load_data(experiment)
    columns, mesh = data.serving_samples(), serving_mesh(experiment)
    buckets, contestants = experiment.serving.buckets, []
    with stage(f"{experiment.name}: compiling", len(case.variants) + 1) as advance:
        for number, variant in enumerate(case.variants):
            of_variant = dataclasses.replace(experiment, transforms=variant.members)
            model = load_final_model(model_folder(folder, experiment.name, variant.label), of_variant, data)
            with kept_apart(str(number)):
                compiled = compile_final_model(model, columns, buckets, experiment.serving.top_k, mesh)
            faults = {size: quantization_fault(model, compiled.programs[size], columns) for size in buckets}
            contestants.append(_contestant(variant.label, compiled, columns, faults))
            advance(variant.label)
        floor = CompiledModel(_answer_nothing, (), columns, buckets, mesh)
        contestants.append(_contestant(NULL_LABEL, floor, columns, dict.fromkeys(buckets)))
        compile_s = sum(program["compile_s"] for one in contestants for program in one.programs.values())
        advance(f"{compile_s:.1f} s of it in the compiler")
    return contestants


def serving_mesh(experiment: Experiment) -> Mesh | None:
    """Returns the mesh that the experiment's model is served on; None where one device serves.

    That is so without `pjit`, and in a run of several processes, whose requests all come to the first one.
    """
    parallel = experiment.parallel
    if parallel.strategy != "pjit" or jax.process_count() > 1:
        return None
    return make_mesh({"data": parallel.data, "model": parallel.model})


def _contestant(label: str, compiled: CompiledModel, columns: Columns, faults: Mapping[int, str | None]) -> Contestant:
    programs = {
        size: {
            "compile_s": program.compile_s,
            "flops": program.flops,
            "bytes_accessed": program.bytes_accessed,
            "memory_bytes": program.memory_bytes,
            "products": None if program.products is None else dict(program.products),
            "fault": faults[size],
        }
        for size, program in compiled.programs.items()
    }
    return Contestant(
        label=label,
        system=ModelSystem(compiled, columns),
        programs=programs,
        position_padding=_position_padding(columns),
    )


def _position_padding(columns: Columns) -> float | None:
    history, lengths = columns.get("history"), columns.get("lengths")
    return None if history is None or lengths is None else 1 - float(lengths.sum()) / history.size


def _answer_nothing(variables: Any, batch: Any) -> dict[str, jax.Array]:
    """The null model: reads one number of each input, so that none is optimised away; the harness's own floor."""
    del variables
    touched = sum(column.ravel()[0].astype(jnp.float32) for column in batch.values())
    return {"nothing": jnp.full(len(next(iter(batch.values()))), touched)}
