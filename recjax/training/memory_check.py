"""The check that a training fits into memory, before it allocates; and what would make it fit, found by planning that.

The advice plans other trainings on shapes: on more devices, with smaller state, batches or rows. Nothing is compiled.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from recjax.config import Parallel
from recjax.errors import UserError
from recjax.free_memory import FreeMemory, free_memory
from recjax.training.memory import (
    BESIDE,
    Needs,
    check_fits,
    default_device,
    devices_of,
    in_words,
    largest_tensors,
    training_needs,
    tree_bytes,
)
from recjax.transforms.protocol import Params

SMALLEST_DIM = 4  # that an advice may ask for
MOST_DEVICES = 256  # that an advice may ask for
# A training on one device holds its parameters three times in the state, as the best ones, and as drawn if a transform
# starts from them; then a gradient comes, and on a CPU the checkpoint being written, with the state twice and the best.
# What is far from that certainly fits, as far as can be counted.
MOST_COPIES = 24

Arguments = Mapping[str, Any]  # of recjax.training.first_step.plan_step
ShapesOf = Callable[[Any], Params]  # a model's config -> the shapes of its parameters


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting, in words, and the arguments of `plan_step` after it."""

    words: str
    apply: Callable[[Arguments], Arguments]


def check_training(
    plan: functools.partial,
    planned: Any,
    shapes_of: ShapesOf,
    *,
    keeps_drawn: bool = False,
    scores_bytes: int = 0,
    saves: bool = False,
    free: FreeMemory | None = None,
) -> None:
    """Does nothing if the training fits into what is free, as far as that can be counted.

    Args:
      plan: recjax.training.first_step.plan_step with all its arguments, by name.
      planned: what it returned.
      shapes_of: of models that the advice makes narrower.
      keeps_drawn: as in `training_needs`.
      scores_bytes: likewise.
      saves: likewise.
      free: where the training allocates; None asks its first device.

    Raises:
      UserError: it does not fit; one line says what would.
    """
    device = devices_of(planned.devices)[0]
    # Other plans of the tables need no sample of their ids, which takes seconds and changes little of what is held.
    arguments = {"parallel": Parallel(), **plan.keywords, "sample": tuple}

    count = functools.partial(training_needs, keeps_drawn=keeps_drawn, scores_bytes=scores_bytes, saves=saves)
    needs = count(planned, arguments["batch"])

    def other_needs(arguments: Arguments, sharing: int | None = None) -> Needs | None:
        """Returns what another training needs; None if there is no such training."""
        try:
            return count(plan.func(**arguments), arguments["batch"], sharing=sharing)
        except UserError:
            return None

    def advise(free_bytes: int) -> str:
        changes = (
            _other_splits(arguments, device),
            _smaller_state(arguments, plan.func),
            _smaller_batches(arguments, needs, free_bytes),
            [_narrower_model(narrower, shapes_of) for narrower in _narrower(arguments["model_config"])],
        )
        found, least = _first_fit(arguments, changes, other_needs, free_bytes)
        if keeps_drawn and needs.held["parameters as drawn"] > free_bytes:
            elsewhere, least = "", f"{least}; more devices do not help, as one of them draws all parameters"
        else:
            elsewhere = _more_devices(arguments, device, other_needs, free_bytes)
        if found or elsewhere:
            return "to make it fit, " + ", or ".join(filter(None, (found, elsewhere)))
        return f"{least}; take a data set with fewer ids, or a machine with more memory"

    free = free_memory(device) if free is None else free
    check_fits(f"training {_name(arguments['model_config'])}", needs, free, advise)


def check_draw(model_config: Any, drawn: Params, shapes_of: ShapesOf, free: FreeMemory | None = None) -> None:
    """Does nothing if the shapes of the parameters fit into what is free; other arguments as in `check_training`.

    Raises:
      UserError: they do not; one line says what would.
    """

    def advise(free_bytes: int) -> str:
        for narrower in _narrower(model_config):
            if tree_bytes(shapes_of(narrower)) <= free_bytes:
                return f"to make it fit, set model.embedding_dim={narrower.embedding_dim}"
        return "take a data set with fewer ids, or a machine with more memory"

    free = free_memory(default_device()) if free is None else free
    needs = Needs(held={"parameters": tree_bytes(drawn)}, passing={}, tensors=largest_tensors(drawn))
    check_fits(f"drawing the parameters of {_name(model_config)}", needs, free, advise)


def surely_fits(drawn: Params, free: FreeMemory | None = None) -> bool:
    """Returns whether a training on one device that draws such parameters is far below what is free, or nobody knows.

    It costs less than a plan, which a small model need not have before its parameters are drawn.
    """
    free = free_memory(default_device()) if free is None else free
    return free.n_bytes is None or MOST_COPIES * tree_bytes(drawn) <= free.n_bytes


def _first_fit(
    arguments: Arguments,
    changes: Sequence[Sequence[Change]],
    other_needs: Callable[[Arguments], Needs | None],
    free_bytes: int,
) -> tuple[str, str]:
    """Returns the first change, or else the first combination of changes, that fits; and the least that is needed.

    Both are in words, and the first is empty if nothing fits. Of each of the `changes` at most one is taken, the
    mildest ones first.
    """
    least: tuple[int, str] | None = None
    for n in range(1, len(changes) + 1):
        for group in itertools.combinations(changes, n):
            for chosen in itertools.product(*group):
                needs = other_needs(functools.reduce(lambda before, change: change.apply(before), chosen, arguments))
                if needs is None:
                    continue
                words = " and ".join(change.words for change in chosen)
                if needs.n_bytes <= free_bytes:
                    return f"set {words} ({in_words(needs.n_bytes)})", ""
                least = min(filter(None, (least, (needs.n_bytes, words))))
    if least is None:
        return "", "no setting makes it smaller"
    missing = in_words(least[0] - free_bytes)
    return "", f"even with {least[1]} it needs {in_words(least[0])}, {missing} too much"


def _more_devices(
    arguments: Arguments, device: jax.Device, other_needs: Callable[..., Needs | None], free_bytes: int
) -> str:
    """Returns how many devices with as much free memory would do, in words; empty if no number does."""
    parallel = dataclasses.replace(arguments["parallel"], strategy="pjit", data=-1, fully_sharded=True)
    on_cpu = device.platform == "cpu"
    n = 2 if on_cpu else 2 * jax.device_count()
    while n <= MOST_DEVICES:
        # A mesh for its shape alone: nothing is put on it, so one device can stand for all.
        split = {**arguments, "parallel": parallel, "jax_devices": [device] * n}
        needs = other_needs(split, sharing=1)
        if needs and needs.n_bytes <= free_bytes:
            kind = "hosts with one device each" if on_cpu else "devices"
            return (
                f"take {n} such {kind} and set parallel.strategy=pjit and parallel.fully_sharded=true "
                f"({in_words(needs.n_bytes)} on each)"
            )
        n *= 2
    return ""


def _other_splits(arguments: Arguments, device: jax.Device) -> list[Change]:
    """Returns the splits over the devices that are here, where they have memories of their own or copies to save."""
    parallel = arguments["parallel"]
    if jax.device_count() == 1 or (device.platform == "cpu" and parallel.strategy == "single"):
        return []
    pjit = dataclasses.replace(parallel, strategy="pjit")
    sharded = dataclasses.replace(pjit, fully_sharded=True)
    words = {pjit: "parallel.strategy=pjit", sharded: "parallel.strategy=pjit and parallel.fully_sharded=true"}
    return [_set(text, "parallel", split) for split, text in words.items() if split != parallel]


def _smaller_state(arguments: Arguments, plan: Callable[..., Any]) -> list[Change]:
    """Returns the table optimizer that keeps least, if the model's tables can be updated by rows."""
    training = arguments["training"]
    if training.table_optimizer not in ("dense", "lazy_adam"):
        return []
    change = _set_training("table_optimizer", "rowwise_adagrad")
    try:
        planned = plan(**change.apply({**arguments, "parallel": Parallel()}))
        jax.eval_shape(planned.step, planned.whole_like, arguments["batch"])
    except UserError:
        return []
    return [change]


def _smaller_batches(arguments: Arguments, needs: Needs, free_bytes: int) -> list[Change]:
    """Returns halved batches, if batches are as much as is missing."""
    size = arguments["training"].batch_size
    if needs.held["batches"] < needs.n_bytes - free_bytes:
        return []

    def halved(smaller: int) -> Change:
        of_training = _set_training("batch_size", smaller)
        columns = {
            name: jax.ShapeDtypeStruct((smaller, *column.shape[1:]), column.dtype)
            for name, column in arguments["batch"].items()
            if name not in BESIDE and column.shape[:1] == (size,)
        }
        batch = {**arguments["batch"], **columns}
        return Change(of_training.words, lambda before: of_training.apply({**before, "batch": batch}))

    return [halved(size >> times) for times in range(1, size.bit_length())]


def _narrower(model_config: Any) -> Iterator[Any]:
    """Yields the config with its embedding dim halved again and again, where the model can have that."""
    dim = getattr(model_config, "embedding_dim", 0) // 2
    while dim >= SMALLEST_DIM:
        with contextlib.suppress(UserError):
            yield dataclasses.replace(model_config, embedding_dim=dim)
        dim //= 2


def _narrower_model(model_config: Any, shapes_of: ShapesOf) -> Change:
    def apply(before: Arguments) -> Arguments:
        return {**before, "model_config": model_config, "params": shapes_of(model_config)}

    return Change(f"model.embedding_dim={model_config.embedding_dim}", apply)


def _set(words: str, argument: str, value: Any) -> Change:
    return Change(words, lambda before: {**before, argument: value})


def _set_training(field: str, value: Any) -> Change:
    def apply(before: Arguments) -> Arguments:
        return {**before, "training": dataclasses.replace(before["training"], **{field: value})}

    return Change(f"training.{field}={value}", apply)


def _name(model_config: Any) -> str:
    return type(model_config).__name__.removesuffix("Config")
