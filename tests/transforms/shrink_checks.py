"""What the tests of `shrink` share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from random_variables import random_variables

from recjax.config import Dataset, Experiment, ModelConfig
from recjax.transforms.protocol import Finalization, Transform


def context_of(**given: Callable[..., Any]) -> Finalization:
    """Returns a context that has what is given and fails for everything else."""

    def forbidden(*_: Any) -> Any:
        raise AssertionError("shrink must not ask for this here")

    hooks = ("build", "batches", "retrain", "validate", "counts", "shapes")
    return Finalization(**{hook: given.get(hook, forbidden) for hook in hooks})


def assert_fresh_shapes(model_config: Any, data: Any, params: Any) -> None:
    """Asserts that the parameters are those that a new model of the config has, by path and shape."""
    batch = next(data.train_batches(4, 0, 1)) | {"context": dict(data.context)}
    fresh = jax.eval_shape(lambda: random_variables(model_config.build(data.schema), batch))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)


def logits(model_config: Any, data: Any, params: Any, batch: Any) -> np.ndarray:
    return np.asarray(jax.jit(model_config.build(data.schema).apply)({"params": params}, batch))


SPLITS = {"next_item": "leave_last_one_out", "top_n": "random_by_user", "labelled": "random", "rating": "random"}


def experiment_of(model: ModelConfig, ratings_file: Path, like: Experiment, *transforms: Transform) -> Experiment:
    dataset = Dataset(source=str(ratings_file), min_interactions=1, split=SPLITS[model.task], max_history=6)
    return dataclasses.replace(like, name="tiny", dataset=dataset, model=model, transforms=transforms)
