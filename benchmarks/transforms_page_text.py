"""The words of `docs/transforms.md`: what no row can say."""

import dataclasses

INTRODUCTION = """# Transforms

What each transform buys, what it costs, and where it does not pay. The figures are of one {device} with JAX {jax},
{int8_products}. They come from the rows in `{folder}`, and this page is made of them:

    make bench SUITE=transforms
    python -m benchmarks.transforms_page"""

OTHER_MACHINES = """\
Every figure is of this machine and these models, and another processor can turn a line round: *Where int8 and sparse
products begin to pay* and *A wide MLP* show a second one, which has instructions for int8. The same commands make the
tables for yours (`--help` says how); the words are of these rows."""

NO_WORDS = """\
The tables alone: what was written beside them in the repository's own page is of its rows, not of these."""

INT8_PRODUCTS = {
    "native": "which has instructions for int8 products",
    "emulated": "which has no instructions for int8 products: where the rows say *emulated*, a better processor gains",
}

PICTURE = """![Speed in large batches, speed of one request and quality kept, of every variant on every model, over
fp32's](images/transforms.png)

*Speed and quality over fp32's; purple is better, orange worse. Pale shades are within the noise; the tables
below say where all rounds agree. `make screenshots` takes the picture.*"""

EXAMPLE = """## How to use one

A config file, here `smaller.py` in the folder above `configs/`, names the chain:

```python
import dataclasses

from configs import dlrm_dcnv2_movielens_small
from recjax.transforms import chain, prune, quantize, shrink


def get_config():
    smaller = chain(prune(0.5), shrink(), quantize(8))  # an order that cannot work is refused here, with one that can
    return dataclasses.replace(dlrm_dcnv2_movielens_small.get_config(), transforms=smaller.members)
```

    recjax explain smaller.py                     # per layer: what happens, bytes and operations before and after
    recjax train smaller.py --out runs/smaller    # trains, finalizes, and says the quality of what is served
    python -m benchmarks.run --config smaller.py  # the same beside fp32: quality, latency, throughput, memory

`recjax.transforms.explain(chain, experiment)` prints the table of the first from Python.
[architecture.md](architecture.md) tells how a transform is built."""

HOW_TO_READ = """\
A line is one variant over all models that have it, against fp32. *Faster in large batches*: samples/s at the largest
batch size that the last tables have, the median of the rounds, where every round agrees; where they do not there is *no
clear difference*. *One request*: the same for one at a time, from the worst model to the best. *Quality kept*: on the
test part; the last tables have its 95% interval, a paired bootstrap over the test queries, which does not hold what
another seed would move. *Layers* and *tables*: bytes stored. *Training steps*: how fast the steps alone are, with
everything that the transform does in them."""

CROSSOVER = """\
One dense layer of as many outputs as inputs, alone, from `python -m benchmarks.sparse_crossover`. int8 is weights and
activations with a scale a row found at run time; sparse is the form of `sparse_layout()`, its zeros at random."""

WIDE_MLP = """\
DLRM-DCNv2 with an MLP of 1024-1024-512 on one {device}, from `python -m benchmarks.run --suite wide_mlp`, which takes
seven minutes."""

WIDE_MLP_WORDS = """\
The same model is under *Every variant* without instructions for int8 products; this processor has them. In batches of
1024 int8 alone serves 2.50 times as many samples a second, half the units with it 5.60 to 5.84 times, at 99.7% of the
quality or more; static scales, which lose on the other processor's single requests, lose here too (0.47 times), and in
batches of 1024 serve 2.89 times. Training with int8 forward products takes 1.18 times as many steps a second as
float32's in the median, but the rounds do not agree."""


LIMITS = """## What to know before relying on it

- DLRM-DCNv2 with an MLP of 1024-1024-512 was meant to serve int8 at 2.2 times and shrink(0.5) + int8 at 4 times fp32 in
  batches of 1024. With int8 instructions it does (*A wide MLP*). Without them, where products of 16 bits could at best
  about double float32's rate, it serves 1.05 and 2.81 times.
- Lookups in an int8 table were meant to be no slower than in a float32 one. Of a million rows, bags of 26 uniform ids
  take 0.63 to 0.68 times float32's time on the two processors, bags of 26 ids that follow a power law, so that the
  caches hold most of them, 1.01 to 1.25 times; bags of one id 1.00 to 1.10 and 1.11 to 1.21 times
  ([AVX2](../benchmarks/results/table-forms/amd-epyc-avx2/table_forms.md),
  [AVX-512 VNNI](../benchmarks/results/table-forms/amd-epyc/table_forms.md)).
- Integer tables cost 26.6% (8 bits) and 14.1% (4 bits) of float32's bytes at 64 values a row; narrower rows cost more.
- Tables that are rounded in training (`through_training=True`) under `bf16` are rounded twice.
- Under a sparse table optimizer, tables that are stored in another form than an array are trained densely.
- `masked_share` counts zeros that rounding makes, as well as those of a mask.
- `explain` counts the products of one call, not what a model computes ahead of it (an item tower, say).
- Layers are chosen by compiling and validating the model without each in turn: a program more for every layer."""


@dataclasses.dataclass(frozen=True)
class Topic:
    """A section: its title, its words, and the variants that its table shows."""

    title: str
    words: str
    labels: tuple[str, ...]


TOPICS = (
    Topic(
        title="int8 products: `quantize()`",
        words="""\
A quarter of a kernel's bytes, and products for which a processor may have instructions (AVX-512 VNNI, AMX). With them
int8 pays where the product is most of the time: in wide layers and large batches, 2.8 times float32 in the second
crossover below and 2.5 times in *A wide MLP*. Without them SASRec's largest batches may gain a third, but the rounds
agree on it with static scales alone, and nothing else is sure to gain. The fewer bytes remain, and show where a wide
kernel is read for few rows: DLRM-DCNv2 in batches of 64 gains a third.

A single request loses with either processor: XLA for CPUs makes a product of one row a sum over widened integers, and
rounding the activations comes on top.

Rounding after training costs no quality that can be seen here, and trained with it there is no more to see. Weights
alone (`weight_only=True`) save the same bytes, but the kernel is widened in every call: it is for memory, not for time.
Static scales save the search for the largest value of each row and need calibration batches like what is served; they
were no faster than dynamic ones here, and one DLRM-DCNv2 request is slower with them.""",
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
        words="""\
int4 kernels are packed two to a byte and take half of int8's memory; activations stay int8, and the kernel is unpacked
before the product, so that it is no faster than int8. fp8 needs a device that multiplies it (H100, TPU7x); a CPU widens
it, which costs more than float32 does.""",
        labels=("int4", "fp8 (fp8 backward)"),
    ),
    Topic(
        title="Training in integers: `backward_bits=8`",
        words="""\
Forward and both backward products in int8, gradients rounded by chance so that small ones are not lost on average. It
trains slower than float32 on this processor: the gradients' rounding costs more than their products save, and the
column of training steps says by how much. In the forward pass alone int8 costs next to nothing.

Trained so from the first step, all four models reach float32's quality: over three seeds AQT keeps 99.9 to 100.4% of it
on average, Qwix 99.8 to 100.1% ([seeds](../benchmarks/results/quantized-training/seeds.md), by `python -m
benchmarks.seeds --suite=quantized_training --seeds=3`). One seed alone may say otherwise: Qwix kept 98.9% of SASRec's
under one, 100.7% under another. The steps' speed is in [quantized-training](
../benchmarks/results/quantized-training/report.md), by `python -m benchmarks.run --suite quantized_training`.""",
        labels=("int8 (int8 backward)",),
    ),
    Topic(
        title="AQT and Qwix",
        words="""\
`backend="qwix"` is one word; what is stored and served is the same, and so are the rows. Both libraries scale to a
bound of 127.5 and round to the nearest integer, so that the same parameters give the same forward pass but for the last
bit. They differ in the rounding of gradients to fp8, which AQT does by chance and Qwix to the nearest value. Neither
serves or trains faster than the other by more than the rounds differ. In 4 bits forward and backward only AQT can train
on a CPU: XLA has no product of two 4-bit arrays there, and `quantize` refuses the pair and says so. AQT is near the end
of its life upstream and Qwix is its successor; stored models need neither.""",
        labels=("int8 (qwix)", "int8 (int8 backward, qwix)"),
    ),
    Topic(
        title="Masks, and removing what they emptied: `prune`, `shrink`",
        words="""\
A mask makes zeros and multiplies them like any other value. `prune` alone runs fp32's program, and its speed is the
noise of the comparison; its columns *masked* and *realised* in the last tables stand for exactly that. Time is saved by
`shrink`, which takes out whole hidden units, heads or layers and gives back a smaller Config: dense products of the
same kind, faster at every batch size, for one request too, on any device; and int8 comes on top where it pays. Where
the time is not in dense layers, as in the LSTM's scan, nothing is gained.

`shrink(0.5)` alone chooses the units by their weights and fine-tunes; `prune` before it spreads the choice over the
fine-tuning; a teacher (`distill=0.5`) made no difference here. N:M zeros (`2:4`) pay on GPUs whose tensor cores skip
them, which recjax does not use yet; here they are masks.""",
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
        words="""\
Nine tenths of all weights can go: DLRM-DCNv2 loses nothing by it, the LSTM 2% of its quality, MultVAE 3% (which its
interval does not tell from none) and SASRec nothing that its wide interval shows. The baseline that keeps random ones
says what choosing the largest is worth: to the LSTM 7%, to DLRM-DCNv2 nothing. MultVAE is better for losing them by
chance, and so is its student of 150 units, as if 600 were too many for 943 users.

Executed without its zeros such a kernel is faster where the batch holds many rows, from about the share of zeros in the
crossovers below; a single row is several times slower. Elsewhere than on CPUs there is no routine that pays, and the
transform refuses.""",
        labels=(
            "prune(0.9, element)",
            "prune(0.9, element) + sparse_layout(0.8)",
            "prune(0.9, element, random)",
        ),
    ),
    Topic(
        title="Two factors in place of a kernel: `low_rank`",
        words="""\
Half of the weights, as two products in the place of one. It pays where the layer is wide enough that the second call
does not matter, and less than `shrink(0.5)`, which takes away inputs as well as outputs. It costs one request nothing,
and int8 on top gains nothing here. From the start (`when="start"`) wide layers train faster too.""",
        labels=("low_rank(budget=0.5)", "low_rank(budget=0.5) + int8", "low_rank(budget=0.5, start)"),
    ),
    Topic(
        title="Heads and whole layers: `shrink(heads=...)`, `shrink(layers=...)`",
        words="""\
A layer is chosen by what validation loses without it, each tried in turn. A residual layer that gives way saves all of
its time at every batch size, where halving all layers leaves each of them its fixed cost: look here first when single
requests of a transformer must be faster. DLRM-DCNv2's cross layers are 2% of its weights, and going without one buys
nothing. Heads are narrow products; taking half of them saved too little to be seen.""",
        labels=("shrink(heads 0.5)", "shrink(layers 1)"),
    ),
    Topic(
        title="A small student: `distill`",
        words="""\
A smaller model of the same kind, trained from the start on the labels and on the teacher's scores. It is as fast as its
size, which makes it the fastest line of every model but SASRec. These rows do not say what of its quality the teacher
gave it: train a model as small without `distill` to know.""",
        labels=(
            "distill(mlp_dims=64-64)",
            "distill(top_mlp=256-128)",
            "distill(encoder_dims=150, decoder_dims=150)",
            "distill(units=16)",
        ),
    ),
    Topic(
        title="16 bits: `bf16` and `mixed_precision`",
        words="""\
`bf16` computes the whole model in bfloat16 and stores tables and layers so; `mixed_precision` narrows only the
products, layer by layer by a policy, and keeps float32 where sums and the answer need it. Both want a processor with
bfloat16 products (AVX-512 BF16, AMX; the README's table has one); without them they are slower than fp32 or no faster.
They need no calibration and cost no quality that can be seen, which makes them the first thing to try where they are
native.""",
        labels=("bf16", "mixed_precision(bfloat16)"),
    ),
    Topic(
        title="Rounded tables: `compress_embeddings`",
        words="""\
Tables are most of a recommender's bytes. A row becomes integers, one scale and one offset, which add 4 bytes to it: 8
bits take 26.6% of the bytes at 64 values a row and 28 to 30% at 32 or fewer, 4 bits 14.1% and 16 to 18%. In 8 or in 4
bits no loss of quality can be seen here, and training in them adds nothing. Lookups read fewer bytes and widen them. In
these models, whose tables fit in the caches, no difference in time can be seen. Of a million rows
([times](../benchmarks/results/table-forms/amd-epyc-avx2/table_forms.md)) int8 is faster in bags over the whole table,
slower for ids that the caches hold, and int4 is slower. A model that scores the whole catalogue multiplies with its
table too, where an integer table is widened first.

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
        words="""\
Hashing lets ids share a row, quotient and remainder combine two small tables to one row an id, mixed dimension gives
rare ids narrower rows, a tensor train makes rows from small cores. They are for tables that do not fit; with tables as
small as these nothing can be gained but the measure of what they cost. DLRM-DCNv2, which has other features to tell
items apart, loses 2% at most. SASRec ranks the catalogue by its one table, and loses most of its quality to a shared
row and to a tensor train; only mixed dimension leaves it whole. Factored rows are computed in the lookup, which takes a
CPU longer than reading them.""",
        labels=(
            "tables(hash 0.5)",
            "tables(quotient_remainder 0.25)",
            "tables(mixed_dimension 4 blocks 0.3)",
            "tables(tensor_train rank 16)",
        ),
    ),
)
