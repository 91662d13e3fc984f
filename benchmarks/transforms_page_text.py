"""The words of `docs/transforms.md`: what no row can say."""

import dataclasses

INTRODUCTION = """# Transforms

What each transform buys, what it costs, and where it does not pay. The figures are of {device} with JAX {jax}, from the
rows in `{folder}`, and this page is made of them:

    make bench SUITE=transforms
    python -m benchmarks.transforms_page

Every figure is of this machine and these models. The same command makes the page for yours."""

EXAMPLE = """## How to use one

```python
from recjax.transforms import chain, explain, prune, quantize, shrink

smaller = chain(prune(0.5), shrink(), quantize(8))  # an order that cannot work is refused here, with one that can
explain(smaller, experiment)  # per layer: what happens, bytes and operations before and after; nothing is trained
```

`Experiment(transforms=smaller.members, ...)` trains, finalizes and serves it; `recjax explain CONFIG` prints the same
table for a config file. [architecture.md](architecture.md) tells how a transform is built."""

HOW_TO_READ = """A line is one variant over all models that have it, against fp32. *Faster in large batches*: samples/s
at the largest batch size that the last tables have, the median of the rounds, where every round agrees; where they do
not there is *no clear difference*. *One request*: the same for one at a time, from the worst model to the best. *Quality
kept*: on the test part; the last tables have its 95% interval, a paired bootstrap over the test queries, which does not
hold what another seed would move. *Layers* and *tables*: bytes stored. *Training steps*: how fast the steps alone are,
with everything that the transform does in them."""


@dataclasses.dataclass(frozen=True)
class Topic:
    """A section: its title, its words, and the variants that its table shows."""

    title: str
    words: str
    labels: tuple[str, ...]


TOPICS = (
    Topic(
        title="int8 products: `quantize()`",
        words="""A quarter of a kernel's bytes, and products that the processor has instructions for. They pay where the
product is most of the time: wide layers, many rows at once. Rounding the activations is work for every value that goes
in, so narrow layers and small batches lose, and a single request most of all: XLA for CPUs makes a product of one row a
sum over widened integers. A model whose time goes into lookups, softmax, attention or a scan over the history gains
little, whatever its kernels are made of.

Rounding after training costs less than people expect from int8; trained with it, quality is steadier. Weights alone
(`weight_only=True`) save the same bytes, but the kernel is widened in every call: it is for memory, not for time.
Static scales save the search for the largest value of each row, and need calibration batches like what is served.""",
        labels=(
            "int8",
            "int8 (after training)",
            "int8 (static, after training)",
            "int8 (weights only, after training)",
            "int8 (products)",
            "int8 (states)",
            "int8 (logits)",
        ),
    ),
    Topic(
        title="Narrower than int8: 4 bits and fp8",
        words="""int4 kernels are packed two to a byte and take half of int8's memory; activations stay int8, and the
kernel is unpacked before the product, so that it is no faster than int8. fp8 needs a device that multiplies it (H100,
TPU7x); here it is widened, which the rows call *emulated*.""",
        labels=("int4", "fp8 (fp8 backward)"),
    ),
    Topic(
        title="Training in integers: `backward_bits=8`",
        words="""Forward and both backward products in int8, gradients rounded by chance so that small ones are not lost
on average. On this processor the gradients' rounding costs more than their products save; the column of training steps
says by how much. What it does to quality over several seeds, trained from the start, is in
[quantized-training](../benchmarks/results/quantized-training/seeds.md).""",
        labels=("int8 (int8 backward)",),
    ),
    Topic(
        title="AQT and Qwix",
        words="""`backend="qwix"` is one word; what is stored and served is the same, and so are the rows. Both libraries
scale to a bound of 127.5 and round to the nearest integer, so that the same parameters give the same forward pass but
for the last bit. They differ in training: the order of operations around a product, hence speed, and the rounding of
gradients to fp8, which AQT does by chance and Qwix to the nearest value. In 4 bits forward and backward only AQT can
train on a CPU: XLA has no product of two 4-bit arrays there, and `quantize` refuses the pair and says so. AQT is near
the end of its life upstream and Qwix is its successor; stored models need neither.""",
        labels=("int8 (qwix)", "int8 (int8 backward, qwix)"),
    ),
    Topic(
        title="Masks, and removing what they emptied: `prune`, `shrink`",
        words="""A mask makes zeros and multiplies them like any other value. `prune` alone runs fp32's program, and its
speed is the noise of the comparison; its columns *masked* and *realised* in the last tables stand for exactly that.
Time is saved by `shrink`, which takes out whole hidden units, heads or layers and gives back a smaller Config: dense
products of the same kind, faster at every batch size, on any device, and int8 comes on top. `shrink(0.5)` alone
chooses the units by their weights and fine-tunes; `prune` before it spreads the choice over the fine-tuning; a teacher
(`distill=0.5`) helps where the model has something to teach.

N:M zeros (`2:4`) pay on GPUs whose tensor cores skip them, which recjax does not use yet; here they are masks.""",
        labels=(
            "prune(0.5)",
            "prune(0.5) + shrink",
            "prune(0.5) + int8",
            "prune(0.5) + shrink + int8",
            "shrink(0.5)",
            "shrink(0.5, distill 0.5)",
            "shrink(0.5) + int8",
            "prune(2 of 4)",
        ),
    ),
    Topic(
        title="Zeros anywhere, for real: `sparse_layout`",
        words="""Nine tenths of all weights can go with little loss, if the largest are kept; the baseline that keeps random
ones shows what the choice is worth. Executed without its zeros such a kernel is faster where the batch holds many rows,
from about the share of zeros in the table of crossovers below; a single row is faster dense. Elsewhere than on CPUs
there is no routine that pays, and the transform refuses.""",
        labels=(
            "prune(0.9, element)",
            "prune(0.9, element) + sparse_layout(0.8)",
            "prune(0.9, element, random)",
        ),
    ),
    Topic(
        title="Two factors in place of a kernel: `low_rank`",
        words="""Half of the weights, as two products in the place of one. It pays where the layer is wide enough that the
second call does not matter, and less than `shrink` does at the same size, since the activation between layers stays as
wide as it was. From the start (`when="start"`) training is faster too.""",
        labels=("low_rank(budget=0.5)", "low_rank(budget=0.5) + int8", "low_rank(budget=0.5, start)"),
    ),
    Topic(
        title="Heads and whole layers: `shrink(heads=...)`, `shrink(layers=...)`",
        words="""A layer is chosen by what validation loses without it, each tried in turn. A residual layer that gives way
saves all of its time at every batch size, where halving all layers leaves each of them its fixed cost: look here first
when single requests must be faster. Heads are narrow products; taking half of them saves their scores too.""",
        labels=("shrink(heads 0.5)", "shrink(layers 1)"),
    ),
    Topic(
        title="A small student: `distill`",
        words="""A smaller model of the same kind, trained from the start on the labels and on the teacher's scores. It is as
fast as its size: what has to be asked is whether the teacher gave it quality that training alone would not.""",
        labels=(
            "distill(mlp_dims=64-64)",
            "distill(top_mlp=256-128)",
            "distill(encoder_dims=150, decoder_dims=150)",
            "distill(units=16)",
        ),
    ),
    Topic(
        title="16 bits: `bf16` and `mixed_precision`",
        words="""`bf16` computes the whole model in bfloat16 and stores tables and layers so; `mixed_precision` narrows only
the products, layer by layer by a policy, and keeps float32 where sums and the answer need it. Both want a processor with
bfloat16 products (AVX-512 BF16, AMX); without them they are slower than fp32. They need no calibration and cost no
quality that can be seen, which makes them the first thing to try.""",
        labels=("bf16", "mixed_precision(bfloat16)"),
    ),
    Topic(
        title="Rounded tables: `compress_embeddings`",
        words="""Tables are most of a recommender's bytes. A row becomes integers, one scale and one offset, which add 4 bytes
to it: 8 bits take 26.6% of the bytes at 64 values a row and 28 to 30% at 32 or fewer, 4 bits 14.1% and 16 to 18%.
Lookups read a quarter of the bytes and widen them; whether that is faster depends on what the cache holds, and
`python -m benchmarks.table_forms` has it for a million rows. A model that scores the whole catalogue multiplies with its
table too, where an integer table is widened first. 4 bits cost quality that training in them gives back in part.

`prune_rows` merges the rows looked up least: the bytes go, and so does what the model knew of rare items.""",
        labels=(
            "tables(int8)",
            "tables(int4)",
            "tables(int4, in training)",
            "tables(bf16)",
            "tables(prune_rows 0.5)",
            "tables(int8) + int8",
        ),
    ),
    Topic(
        title="Shared and factored tables: `compress_embeddings`",
        words="""Hashing lets ids share a row, quotient and remainder combine two small tables to one row an id, mixed
dimension gives rare ids narrower rows, a tensor train makes rows from small cores. They are for tables that do not fit;
with tables as small as these nothing can be gained but the measure of what they cost. Factored rows are computed in the
lookup, which takes a CPU longer than reading them.""",
        labels=(
            "tables(hash 0.5)",
            "tables(quotient_remainder 0.25)",
            "tables(mixed_dimension 4 blocks 0.3)",
            "tables(tensor_train rank 16)",
        ),
    ),
)
