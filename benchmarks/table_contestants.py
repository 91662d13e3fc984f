"""Training steps whose tables are large: recjax's own optimizers, and dense Adam as one writes it first.

Shapes: B batch, L ids of a field, F fields.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from recjax.config import Training
from recjax.data.features import Field, LabelledSchema
from recjax.models.contract import Batch
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.nn.embedding import Embedding
from recjax.training.optimizer import make_optimizer, make_table_optimizer
from recjax.training.sparse_step import init_sparse_state, make_sparse_train_step
from recjax.training.step import TrainState, init_state, make_train_step
from recjax.transforms.protocol import chain

N_DENSE = 13
PLAIN = "plain"  # dense Adam without donation, and with JAX's default gather
DRAWN_ROWS = 1_000  # a table repeats this many random rows: drawing 50M rows would take longer than the benchmark
STEPS_OF_SCHEDULE = 1_000_000  # constant rate; any number does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One compiled training step with its own state.

    Attributes:
      name: in tables.
      step: takes one training step on its next batch and returns when it is done.
      compile_s: lowering and compiling; 0 where nothing is compiled.
      state_bytes: parameters and optimizer state; None where it was not asked.
      temporary_bytes: the compiler's figure of what the program allocates beside its arguments and outputs.
      huge_page_bytes: of the process while it was measured; None before, or where the system does not say.
    """

    name: str
    step: Callable[[], None]
    compile_s: float = 0.0
    state_bytes: int | None = None
    temporary_bytes: int | None = None
    huge_page_bytes: int | None = None


class LookupsOnly(nn.Module):
    """The least that trains a table: look bags up, sum, square. What a model adds to a step hides nothing here."""

    schema: LabelledSchema
    embedding_dim: int

    @nn.compact
    def loss(self, batch: Batch, *, train: bool) -> Float[Array, ""]:
        """Returns the mean square of all bags' sums."""
        del train
        bags = [
            Embedding(field.vocab_size, self.embedding_dim, "sum", name=f"table_{field.name}")(ids_BL)
            for field, ids_BL in self.schema.split_fields(batch["sparse_ids"])
        ]
        return jnp.mean(jnp.square(jnp.concatenate(bags, axis=1)))


def schema_of(n_fields: int, rows: int, length: int) -> LabelledSchema:
    """Returns `n_fields` equal categorical fields beside the dense features."""
    return LabelledSchema(N_DENSE, tuple(Field(f"c{i:02d}", rows, length) for i in range(n_fields)))


def stand_in(schema: LabelledSchema, dim: int = 64) -> Any:
    """Returns the DLRM-DCNv2 that CPU side-by-sides use: dim 64, MLPs 512-256-64 and 1024-1024-512-256-1."""
    config = DLRMDCNv2Config(
        embedding_dim=dim, bottom_mlp=(512, 256), cross_ranks=(512, 512, 512), top_mlp=(1024, 1024, 512, 256)
    )
    return config.build(schema)


def draw_batches(n: int, ids: Sequence[np.ndarray], seed: int) -> list[dict[str, jax.Array]]:
    """Returns `n` labelled batches on the default device with the given `sparse_ids` [B, F L] and random features."""
    rng = np.random.default_rng(seed)
    size = len(ids[0])
    return [
        jax.device_put(
            {
                "dense": rng.normal(size=(size, N_DENSE)).astype(np.float32),
                "sparse_ids": ids[i].astype(np.int32),
                "labels": rng.integers(0, 2, size).astype(np.float32),
                "weight": np.ones(size, np.float32),
            }
        )
        for i in range(n)
    ]


def spread_ids(ids: Sequence[np.ndarray], rows: int, to_rows: int, seed: int) -> list[np.ndarray]:
    """Returns the ids of a table of `rows`, moved into one of `to_rows`, which must be a multiple of it.

    Within a batch equal ids stay equal and different ones different, so a batch touches as many distinct rows as
    before. Every batch moves an id elsewhere, so that the batches together are spread over the whole table.
    """
    rng = np.random.default_rng(seed)
    return [batch + rows * rng.integers(0, to_rows // rows, rows)[batch] for batch in ids]


def jax_contestant(
    kind: str, build: Callable[[LabelledSchema], Any], schema: LabelledSchema, batches: Sequence[Batch], name: str = ""
) -> Contestant:
    """Returns the contestant that trains `build(schema)`.

    Args:
      kind: a `Training.table_optimizer`, or PLAIN.
      build: makes the module of a schema.
      schema: with tables of their full size.
      batches: taken in turn, again and again.
      name: in tables; `kind` if empty.
    """
    training = Training(table_optimizer="dense" if kind == PLAIN else kind)  # type: ignore[arg-type]
    module, optimizer = build(schema), make_optimizer(training, chain(), DLRMDCNv2Config(), STEPS_OF_SCHEDULE)
    tables = make_table_optimizer(training, STEPS_OF_SCHEDULE)

    def draw() -> TrainState:
        params = _draw_params(build, schema, batches[0])
        return init_state(params, optimizer) if tables is None else init_sparse_state(params, optimizer, tables)

    step: Any
    if kind == PLAIN:
        step = jax.jit(functools.partial(_plain_step, module, optimizer))
    elif tables is None:
        step = make_train_step(module, optimizer, 0)
    else:
        step = make_sparse_train_step(module, optimizer, tables, 0)
    state = jax.jit(draw)()
    started = time.perf_counter()
    compiled = step.lower(state, batches[0]).compile()
    compile_s = time.perf_counter() - started
    count = 0

    def take_step() -> None:
        nonlocal state, count
        state, loss = compiled(state, batches[count % len(batches)])
        count += 1
        jax.block_until_ready((state, loss))

    memory = compiled.memory_analysis()
    return Contestant(
        name=name or kind,
        step=take_step,
        compile_s=compile_s,
        state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
    )


def _draw_params(build: Callable[[LabelledSchema], Any], schema: LabelledSchema, batch: Batch) -> Any:
    """Returns random parameters whose tables repeat DRAWN_ROWS rows; under jit they are written once, in place."""

    def init(schema: LabelledSchema) -> Any:
        one = {name: values[:1] * 0 for name, values in batch.items()}
        return build(schema).init(jax.random.key(0), one, train=False, method="loss")["params"]

    few = tuple(dataclasses.replace(field, vocab_size=min(field.vocab_size, DRAWN_ROWS)) for field in schema.fields)
    drawn, shapes = init(dataclasses.replace(schema, fields=few)), jax.eval_shape(lambda: init(schema))

    def grow(values: Array, shape: jax.ShapeDtypeStruct) -> Array:
        return values if values.shape == shape.shape else values[jnp.arange(shape.shape[0]) % len(values)]

    return jax.tree.map(grow, drawn, shapes)


def _plain_step(
    module: Any, optimizer: optax.GradientTransformation, state: TrainState, batch: Batch
) -> tuple[TrainState, Array]:
    """Returns what `make_train_step` does, as one writes it first; jitted without donation."""

    def index(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, Embedding) or context.method_name != "rows":
            return call(*args, **kwargs)
        return context.module.table[args[0]]

    def loss_of(params: Any) -> Array:
        with nn.intercept_methods(index):
            return module.apply({"params": params}, batch, train=True, method="loss")

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), loss
