"""What a training needs of memory, counted from shapes before anything of it is allocated.

What a step computes between its lookups and its gradients is not counted: only a compiler knows it. So what passes may
still not fit. tests/training/test_memory.py holds the counts to the memory that trainings really took.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.dtypes import canonicalize_dtype

from recjax.data.batches import PREFETCHED, STEPS_IN_FLIGHT
from recjax.data.next_item import NextItemData
from recjax.data.top_n import TopNData
from recjax.errors import UserError
from recjax.evaluation import EVAL_BATCH, Data
from recjax.free_memory import FreeMemory
from recjax.models.contract import Batch
from recjax.parallel.table_plan import TablePlan
from recjax.training.devices import OneDevice, Replicas
from recjax.training.lookups import split_tables
from recjax.training.mesh_devices import MeshDevices
from recjax.training.sparse_step import SparseOptState
from recjax.training.step import TrainState
from recjax.training.table_store import ShardedParams
from recjax.transforms.paths import flatten
from recjax.transforms.protocol import Params

BATCHES_IN_FLIGHT = STEPS_IN_FLIGHT + PREFETCHED + 1  # the last is in the hands of the thread that makes them
ENCODED_AT_ONCE = 2  # arrays of a checkpoint, about; tests/training/test_memory.py holds the count to what was taken
BESIDE = ("context", "teacher")  # what batches carry beside the data's own columns


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter: how many bytes of it the fullest device holds, and how it is split over devices, in words."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    split: str = ""

    def __str__(self) -> str:
        """Returns it in words, as "items/table float32[1682, 64] 430.6 kB"."""
        return f"{self.path} {self.dtype}{list(self.shape)} {in_words(self.n_bytes)} {self.split}".rstrip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What is to be allocated in the fullest memory.

    Attributes:
      held: bytes by what they are, all at the same time.
      passing: bytes by the moment that needs them, one after the other.
      tensors: parameters, the largest first.
    """

    held: Mapping[str, int]
    passing: Mapping[str, int]
    tensors: tuple[Tensor, ...]

    @property
    def n_bytes(self) -> int:
        """Returns the bytes of the moment that needs most."""
        return sum(self.held.values()) + max(self.passing.values(), default=0)

    def __str__(self) -> str:
        """Returns the parts in words, the largest first, without those below a hundredth of all."""
        worst = dict(sorted(self.passing.items(), key=lambda part: -part[1])[:1])
        parts = sorted({**self.held, **worst}.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {in_words(size)}" for name, size in parts if size >= self.n_bytes / 100)


def check_fits(what: str, needs: Needs, free: FreeMemory, advise: Callable[[int], str]) -> None:
    """Raises UserError if it does not fit, in one line; says nothing where nobody knows what is free.

    Args:
      what: in words, as "training SASRec".
      needs: of it.
      free: where it is to be allocated.
      advise: free bytes -> what would make it fit, in words; called only if it does not.
    """
    if free.n_bytes is None or needs.n_bytes <= free.n_bytes:
        return
    largest = "; ".join(map(str, needs.tensors[:3]))
    raise UserError(
        f"{what} needs at least {in_words(needs.n_bytes)} of memory and {in_words(free.n_bytes)} are free on "
        f"{free.place} ({needs}; largest: {largest}); {advise(free.n_bytes)}"
    )


def training_needs(
    planned: Any,
    batch: Batch,
    *,
    keeps_drawn: bool = False,
    scores_bytes: int = 0,
    saves: bool = False,
    sharing: int | None = None,
) -> Needs:
    """Returns what a training allocates in the memory of its first device.

    Args:
      planned: a recjax.training.first_step.PlannedStep.
      batch: of all devices, or its shapes, with what stands beside it.
      keeps_drawn: whether one device is still to draw parameters that stay beside the state, as those do that a
        transform starts from. Others are gone before there are best parameters, and take no memory of their own.
      scores_bytes: of a batch of the validation.
      saves: whether checkpoints are written.
      sharing: how many of the devices allocate from that memory; None looks: on a CPU all that this process has.
    """
    devices, whole = planned.devices, planned.whole_like
    here = devices_of(devices)
    on_cpu = here[0].platform == "cpu"
    if sharing is None:
        sharing = len(here) if on_cpu else 1
    state, parts, owners = whole, 1, 1  # parts of a batch; devices here that hold the best parameters
    if isinstance(devices, Replicas):
        parts = len(devices.devices)
    elif isinstance(devices, MeshDevices):
        state, parts, owners = devices.state_like, devices.mesh.shape["data"], sharing
        whole = devices.whole_like(whole)
    plan = devices.plan if isinstance(devices, MeshDevices) else None
    used = [] if isinstance(devices, OneDevice) else _all_devices(devices)
    n_processes = len({device.process_index for device in used})
    state_bytes, params_bytes = sharing * tree_bytes(state), sharing * tree_bytes(state.params)
    best_bytes = owners * tree_bytes(whole.params)
    # The whole state is a copy where it is kept in another form.
    copy_bytes = owners * tree_bytes(whole) if plan or isinstance(devices, Replicas) else 0
    columns = {name: column for name, column in batch.items() if name not in BESIDE}
    beside = jax.tree.leaves([batch.get(name, ()) for name in BESIDE])
    if isinstance(devices, OneDevice):
        beside = [leaf for leaf in beside if not isinstance(leaf, jax.Array)]  # others are there already
    held = {
        "parameters": params_bytes,
        "optimizer state": state_bytes - params_bytes,
        "best parameters": best_bytes,
        "parameters as drawn": tree_bytes(planned.whole_like.params) if keeps_drawn else 0,
        "batches": BATCHES_IN_FLIGHT * sharing * tree_bytes(columns) // parts,
        "beside the batches": sharing * tree_bytes(beside),
    }
    if saves and on_cpu:
        # No step can overwrite a state that is being written, the writer's buffers hold it once more, and what is being
        # encoded of it lies there a third time.
        leaves = jax.tree.leaves((whole, whole.params))
        buffers = sorted(min(_n_bytes(leaf, whole=True), owners * _n_bytes(leaf)) for leaf in leaves)
        held["checkpoint being written"] = (copy_bytes or state_bytes) + sum(buffers) + sum(buffers[-ENCODED_AT_ONCE:])
    passing = {
        "gradients": sharing * tree_bytes(_with_dense_gradients(state)),
        "state being saved": copy_bytes if saves and not on_cpu else 0,
        "next best parameters": best_bytes if saves and on_cpu else 0,  # while the last ones are being written
        "all parameters on one device": tree_bytes(planned.whole_like.params) if keeps_drawn and n_processes > 1 else 0,
        "validation": scores_bytes * owners // (parts if isinstance(devices, MeshDevices) else 1),
    }
    return Needs(held=held, passing=passing, tensors=largest_tensors(whole.params, plan))


def validation_bytes(data: Data) -> int:
    """Returns the bytes of a validation batch's scores of all items and of which are offered; 0 without items.

    Whatever else a validation computes is smaller, or the compiler's to place.
    """
    if not isinstance(data, NextItemData | TopNData):
        return 0
    return EVAL_BATCH[type(data)] * data.schema.n_items * (4 + 1)


def largest_tensors(params: Params, plan: TablePlan | None = None) -> tuple[Tensor, ...]:
    """Returns the parameters, or their shapes, by the bytes that the fullest device holds; `plan` is of the tables."""
    uses = {use.path: use for use in plan.uses} if plan else {}
    tensors = []
    for path, leaf in flatten(params).items():
        n_bytes, all_bytes, split = _n_bytes(leaf), _n_bytes(leaf, whole=True), ""
        if plan and path in uses:
            row_words = uses[path].dim + uses[path].slot_words
            n_bytes = plan.chosen_costs[path].held_bytes // row_words * uses[path].dim
            split = f"a device ({plan.kinds[path]})"
        elif n_bytes < all_bytes:
            split = f"a device (one of {all_bytes // n_bytes} parts)"
        tensors.append(Tensor(path, str(leaf.dtype), tuple(leaf.shape), n_bytes, split))
    return tuple(sorted(tensors, key=lambda tensor: -tensor.n_bytes))


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a tree of arrays or shapes that one device holds."""
    return sum(map(_n_bytes, jax.tree.leaves(tree)))


def devices_of(devices: Any) -> list[jax.Device]:
    """Returns those of a training's devices that are this process's; a mesh may name one more than once."""
    if isinstance(devices, OneDevice):
        return [default_device()]
    return [device for device in _all_devices(devices) if device.process_index == jax.process_index()]


def _all_devices(devices: Replicas | MeshDevices) -> list[jax.Device]:
    return list(devices.mesh.devices.flat if isinstance(devices, MeshDevices) else devices.devices)


def default_device() -> jax.Device:
    """Returns the device that JAX puts arrays on."""
    return next(iter(jnp.zeros(()).devices()))


def in_words(n_bytes: int) -> str:
    """Returns the bytes with a unit, as "1.5 GB"."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    unit, size = next(((name, size) for name, size in units if n_bytes >= size), ("kB", 1e3))
    return f"{n_bytes / size:,.1f} {unit}"


def _with_dense_gradients(state: TrainState) -> list[Any]:
    """Returns the parameters whose gradients have their own size: learned ones, without tables with row updates."""
    if isinstance(state.params, ShardedParams):
        others = state.params.others
    elif isinstance(state.opt_state, SparseOptState):
        others = split_tables(state.params)[1]
    else:
        others = state.params
    return [leaf for leaf in jax.tree.leaves(others) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _n_bytes(leaf: Any, whole: bool = False) -> int:
    """Returns the bytes of an array or shape that one device holds, or all of them."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if whole or sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * canonicalize_dtype(leaf.dtype).itemsize
