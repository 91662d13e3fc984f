"""What each transform buys and costs: four models on MovieLens 100K, every one under the same chains.

`docs/transforms.md` is generated from its rows. It takes over an hour on 2 cores; `make bench SUITE=transforms` fetches
the set first. SASRec and the LSTM are trained for fewer epochs than in `docs/quality.md`, the MLP over DLRM-DCNv2 is
wide (1024-1024-512) and MultVAE has the hidden layers of its paper: there is something to make smaller. Speed is that
of closed loops; `quick` has the rates of a server.
"""

import dataclasses
from typing import Any

from benchmarks.suite import Case, Measurement, Suite
from configs.ml_100k import dlrm_dcnv2, lstm_two_branch, mult_vae, sasrec
from recjax.config import Experiment, Serving
from recjax.transforms import (
    bf16,
    chain,
    compress_embeddings,
    distill,
    low_rank,
    mixed_precision,
    prune,
    quantize,
    shrink,
    sparse_layout,
)
from recjax.transforms.protocol import Chain

BRIEF = 1  # epochs that a smaller model is fine-tuned for

# On every model. What trains in its own way is fine-tuned like fp32; "after training" and shrink() are not.
KERNELS = (
    chain(),
    chain(mixed_precision()),
    chain(quantize()),
    chain(quantize(when="after")),
    chain(quantize(weight_only=True, when="after")),
    chain(quantize(activations="static", when="after")),
    chain(quantize(backward_bits=8)),
    chain(quantize(backend="qwix")),
    chain(quantize(backward_bits=8, backend="qwix")),
    chain(quantize(4)),
    chain(quantize("fp8", backward_bits="fp8")),
    chain(prune(0.5)),
    chain(prune(0.5), shrink(finetune_epochs=BRIEF)),
    chain(prune(0.5), quantize()),
    chain(prune(0.5), shrink(finetune_epochs=BRIEF), quantize()),
    chain(shrink(0.5, finetune_epochs=BRIEF)),
    chain(shrink(0.5, finetune_epochs=BRIEF, distill=0.5)),
    chain(shrink(0.5, finetune_epochs=BRIEF), quantize()),
    chain(prune(0.9, structure="element")),
    chain(prune(0.9, structure="element"), sparse_layout()),
    chain(prune(0.9, structure="element", criterion="random")),
    chain(prune(structure="2:4")),
    chain(low_rank(budget=0.5, finetune_epochs=BRIEF)),
    chain(low_rank(budget=0.5, finetune_epochs=BRIEF), quantize()),
    chain(low_rank(budget=0.5, when="start")),
)
ROUNDED_TABLES = (
    chain(compress_embeddings("int8")),
    chain(compress_embeddings("int4")),
    chain(compress_embeddings("int4", through_training=True)),
    chain(compress_embeddings("bf16")),
    chain(compress_embeddings("prune_rows", share=0.5)),
    chain(compress_embeddings("int8"), quantize()),
)
SHARED_TABLES = (
    chain(compress_embeddings("hash", ratio=0.5)),
    chain(compress_embeddings("quotient_remainder", ratio=0.25)),
    chain(compress_embeddings("mixed_dimension")),
    chain(compress_embeddings("tensor_train")),
)


def get_suite() -> Suite:
    """Returns the suite."""
    blocks = (
        chain(bf16()),
        chain(quantize(products=True)),
        chain(shrink(heads=0.5, finetune_epochs=BRIEF)),
        chain(shrink(layers=1, finetune_epochs=BRIEF)),
    )
    return Suite(
        name="transforms",
        description="SASRec, DLRM-DCNv2, MultVAE and an LSTM on MovieLens 100K under every transform",
        cases=(
            _case(
                sasrec.get_config(),
                epochs=20,
                buckets=(1, 16, 128),
                variants=(*blocks, chain(distill(mlp_dims=(64, 64))), *ROUNDED_TABLES, *SHARED_TABLES),
            ),
            _case(
                dlrm_dcnv2.get_config(),
                model={"top_mlp": (1024, 1024, 512)},
                buckets=(1, 64, 1024),
                variants=(
                    chain(bf16()),
                    chain(shrink(layers=1, finetune_epochs=BRIEF)),
                    chain(distill(top_mlp=(256, 128))),
                    *ROUNDED_TABLES,
                    *SHARED_TABLES,
                ),
            ),
            _case(
                mult_vae.get_config(),
                model={"encoder_dims": (600,), "decoder_dims": (600,)},
                buckets=(1, 64, 512),
                variants=(chain(quantize(logits=True)), chain(distill(encoder_dims=(150,), decoder_dims=(150,)))),
            ),
            _case(
                lstm_two_branch.get_config(),
                epochs=4,
                buckets=(1, 64, 512),
                variants=(chain(quantize(states=True)), chain(distill(units=16)), *ROUNDED_TABLES),
            ),
        ),
        measurement=Measurement(
            scenarios=("single_stream", "offline"), rounds=9, window_s=0.1, min_queries=5, train_window_s=1.0
        ),
    )


def _case(
    experiment: Experiment,
    *,
    buckets: tuple[int, ...],
    variants: tuple[Chain, ...],
    epochs: int | None = None,
    model: dict[str, Any] | None = None,
) -> Case:
    """Returns the case of all kernels' variants and those of the model; `epochs` and `model` change the experiment."""
    training = dataclasses.replace(experiment.training, epochs=epochs or experiment.training.epochs)
    experiment = dataclasses.replace(
        experiment,
        training=training,
        model=dataclasses.replace(experiment.model, **(model or {})),
        serving=Serving(buckets=buckets),
    )
    return Case(experiment=experiment, variants=(*KERNELS, *variants))
