"""Serving and training programs of every model of the zoo and of the one that ranks candidates, under every transform.

Run as a script it compiles some of them for a TPU that is not there, in a process of its own, because libtpu reads the
environment before JAX is imported:

  python tests/portable_programs.py v6e:2x2 sasrec:fp32 sasrec:int8

prints one line of JSON for each program.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from recjax.hardware.topology import environment, parse_target

    os.environ.update(environment(parse_target(sys.argv[1])))

import jax
import numpy as np

from configs import dlrm_v3_like
from configs.suites import zoo
from recjax.config import Dataset, Experiment
from recjax.data.candidates import SyntheticDLRMv3
from recjax.data.interactions import Interactions, KnowledgeGraph
from recjax.data.labelled import labelled_data
from recjax.data.next_item import next_item_data
from recjax.data.rating import rating_data
from recjax.data.sources import load_interactions
from recjax.data.synthetic_dlrm import DLRMv3Options
from recjax.data.top_n import top_n_data
from recjax.evaluation import Data
from recjax.hardware.topology import Target, absent_devices
from recjax.training.final_model import FinalModel
from recjax.training.first_step import plan_step
from recjax.training.pipeline import dry_run, one_batch, set_up
from recjax.training.step import init_params
from recjax.transforms import bf16, chain, compress_embeddings, mixed_precision, prune, quantize, shrink
from recjax.transforms.protocol import Params, Transform

BATCH, REQUESTS, TOP_K = 32, 4, 5
DATA_OF_TASK = {"next_item": next_item_data, "top_n": top_n_data, "rating": rating_data, "labelled": labelled_data}

# Variant -> recipes by name; the first is the one that is meant, the others are for models that cannot have it.
RECIPES: dict[str, dict[str, Transform]] = {
    "fp32": {"plain": chain()},
    "bf16": {"bf16": bf16(), "products": mixed_precision(), "tables": compress_embeddings("bf16")},
    "int8": {"quantize": quantize(bits=8), "tables": compress_embeddings("int8"), "answer": quantize(logits=True)},
    "pruned": {
        "units": prune(0.5),
        "weights": prune(0.5, structure="element"),
        "rows": compress_embeddings("prune_rows", share=0.5, min_rows=8),
    },
    "shrunk": {
        "units": chain(prune(0.5), shrink(0.5, finetune_epochs=0)),
        "heads": shrink(heads=0.5, finetune_epochs=0),
    },
}


class Program(NamedTuple):
    """A compiled-to-be function, and the shapes and types of its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@functools.cache
def experiments() -> dict[str, Experiment]:
    """Returns the experiment of each model, by its name, with small batches."""
    given = {module.__name__.split(".")[-1]: module.get_config() for module, _ in zoo.MODELS}
    ranker = dlrm_v3_like.get_config()
    sizes = dict.fromkeys(("key_dim", "value_dim"), 8) | dict.fromkeys(("embedding_dim", "positions"), 32)
    sizes |= dict.fromkeys(("hidden_dim", "candidate_dim", "action_dim", "time_buckets"), 16)
    given["hstu_ranker"] = dataclasses.replace(ranker, model=dataclasses.replace(ranker.model, layers=2, **sizes))
    found = {}
    for name, experiment in given.items():
        small = {
            part: dataclasses.replace(getattr(experiment, part), batch_size=BATCH)
            for part in ("training", "finetuning")
        }
        found[name] = dataclasses.replace(experiment, **small)
    return found


@functools.cache
def interactions() -> Interactions:
    """Returns the 40-core of the set that recjax ships, with a graph of its genres, and trust out of a generator."""
    core = load_interactions(Dataset(min_interactions=40))
    genres = sorted({genre for bag in core.item_features["genres"] for genre in bag})
    edges = [(i, core.n_items + genres.index(g)) for i, bag in enumerate(core.item_features["genres"]) for g in bag]
    head, tail = np.array(edges, np.int32).T
    knowledge = KnowledgeGraph(
        head=head, relation=np.zeros_like(head), tail=tail, n_entities=core.n_items + len(genres), n_relations=1
    )
    trust = np.random.default_rng(0).integers(core.n_users, size=(2, 60)).astype(np.int32)
    return dataclasses.replace(core, knowledge=knowledge, trust=trust)


@functools.cache
def data_of(name: str) -> Data:
    experiment = experiments()[name]
    if experiment.model.task == "candidates":
        return SyntheticDLRMv3(
            options=DLRMv3Options(
                n_users=40,
                n_items=480,
                n_categories=16,
                n_candidates=24,
                n_periods=30,
                items_a_period=1.0,
                max_history=20,
            )
        )
    dataset = dataclasses.replace(experiment.dataset, source="movielens-latest-small", max_history=20)
    return DATA_OF_TASK[experiment.model.task](interactions(), dataset, experiment.model.samples())


@functools.cache
def params_of(name: str) -> Params:
    """Returns float32 parameters out of a generator: drawing them as training does takes seconds of compiling."""
    model, data, rng = experiments()[name].model, data_of(name), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(model.build(data.schema), one_batch(data, 1), 0))
    return jax.tree.map(lambda shape: jax.numpy.asarray(rng.normal(size=shape.shape), shape.dtype), shapes)


def with_recipe(name: str, transform: Transform) -> Experiment:
    return dataclasses.replace(experiments()[name], transforms=chain(transform).members)


def final_model(name: str, transform: Transform) -> FinalModel:
    """Returns the model with the transform's shapes and types; raises UserError if it cannot have the transform."""
    return dry_run(with_recipe(name, transform), data_of(name), params_of(name))


def serving_program(name: str, model: FinalModel) -> Program:
    requests = {column: values[:REQUESTS] for column, values in data_of(name).serving_samples().items()}
    return Program(jax.jit(functools.partial(model.serve, top_k=TOP_K)), _shapes((model.variables, requests)))


def training_program(name: str, transform: Transform) -> Program:
    """Returns the step that training takes: of the optimizer, or a solved model's update."""
    experiment, data = with_recipe(name, transform), data_of(name)
    setup = set_up(experiment, data, start=params_of(name), taught_by={})
    batch = one_batch(data, setup.settings.batch_size)
    planned = plan_step(
        setup.model_config,
        setup.params,
        data.schema,
        batch,
        setup.settings,
        chain(*experiment.transforms),
        total_steps=10,
    )
    return Program(planned.step, _shapes((planned.whole_like, batch)))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def compile_for_tpu(target: Target, cases: list[str]) -> Iterator[dict[str, Any]]:
    """Yields what the TPU's compiler says of each program of each `model:variant`, for one device of the target."""
    chip = absent_devices(target)[0]
    on_chip = jax.sharding.SingleDeviceSharding(chip)
    for case in cases:
        name, variant = case.split(":")
        transform = next(iter(RECIPES[variant].values()))
        programs = {
            "serve": serving_program(name, final_model(name, transform)),
            "train": training_program(name, transform),
        }
        for kind, program in programs.items():
            arguments = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_chip), program.arguments
            )
            said: dict[str, Any] = {"case": case, "program": kind, "device": chip.device_kind}
            start = time.perf_counter()
            try:
                compiled = program.function.lower(*arguments).compile()
            except Exception as error:  # whatever stands in the way is the finding
                said["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            else:
                memory = compiled.memory_analysis()
                said |= {
                    "compile_s": round(time.perf_counter() - start, 1),
                    "flops": compiled.cost_analysis()["flops"],
                    "argument_bytes": memory.argument_size_in_bytes,
                    "temporary_bytes": memory.temp_size_in_bytes,
                }
            yield said


if __name__ == "__main__":
    for line in compile_for_tpu(parse_target(sys.argv[1]), sys.argv[2:]):
        print(json.dumps(line), flush=True)
