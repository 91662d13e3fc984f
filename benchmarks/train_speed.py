"""How fast each variant trains beside fp32: steps of the same batches, taken in turn."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.statistics import ratio_summary
from benchmarks.timing import in_turn
from recjax.config import Experiment
from recjax.evaluation import Data
from recjax.training.first_step import ToTrain, first_step
from recjax.training.pipeline import set_up
from recjax.transforms.protocol import Params, chain

_BATCHES = 8  # that all variants train on, again and again
_FEWEST, _MOST = 20, 400  # rounds


@dataclasses.dataclass(frozen=True)
class TrainSpeed:
    """Samples/s of training steps alone, and the ratio to fp32's in the same rounds."""

    samples_per_s: float
    speedup: dict[str, Any]


def measure_train_speed(
    experiments: Mapping[str, Experiment],
    data: Data,
    start: Params,
    advance: Callable[[str], None],
    seconds_each: float,
) -> dict[str, TrainSpeed]:
    """Returns each variant's speed by label; validation, input and compilation play no part in it.

    Args:
      experiments: by label, "fp32" among them; each is one model under the transforms that are in force in training.
      data: the task's data.
      start: trained float parameters of the untransformed model, to fine-tune and to be taught by.
      advance: called with the label of each that is ready, then once with the outcome.
      seconds_each: of the time that all take turns in, for each of them.
    """
    steps = {}
    for label, experiment in experiments.items():
        steps[label] = _stepper(experiment, data, start)
        jax.block_until_ready(steps[label]())  # compiled
        advance(f"{label}: compiled")
    # Processes that share a step must take as many, and each has its own clock.
    most = _MOST if jax.process_count() == 1 else _FEWEST
    taken = in_turn(steps, seconds_each * len(steps), _FEWEST, most)
    latency_ms = {label: np.array(times) for label, times in taken.items()}
    of_fp32, batch_size = latency_ms["fp32"], experiments["fp32"].finetuning.batch_size
    speeds = {
        label: TrainSpeed(float(batch_size / np.median(times) * 1e3), ratio_summary(of_fp32 / times))
        for label, times in latency_ms.items()
    }
    best = max(speeds, key=lambda label: speeds[label].samples_per_s)
    advance(f"fp32 {speeds['fp32'].samples_per_s:,.0f} samples/s, {best} {speeds[best].samples_per_s:,.0f}")
    return speeds


def _stepper(experiment: Experiment, data: Data, start: Params) -> Callable[[], jax.Array]:
    """Returns a call that takes the next step and gives its loss; batches are on the device already."""
    transform = chain(*experiment.transforms)
    from_scratch = transform.from_scratch
    setup = set_up(experiment, data, start=None if from_scratch else start, taught_by=start)
    settings = dataclasses.replace(setup.settings, batch_size=experiment.finetuning.batch_size)
    to_train = ToTrain(
        model_config=setup.model_config,
        params=setup.params,
        data=data,
        training=settings,
        transform=transform,
        teacher=setup.teacher,
        parallel=experiment.parallel,
    )
    begun, state = first_step(to_train)
    batches = list(itertools.islice(data.train_batches(settings.batch_size, settings.seed, 1), _BATCHES))
    turns = itertools.cycle([begun.devices.put_batch(batch) for batch in batches])

    def call() -> jax.Array:
        nonlocal state
        state, loss = begun.take(state, next(turns))
        return loss

    return call
