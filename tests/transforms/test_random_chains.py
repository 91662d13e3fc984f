"""Any legal chain on any small model trains, finalizes, saves, restores and serves; others are refused before."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from recjax.config import Dataset, Experiment, ModelConfig, Training
from recjax.errors import UserError
from recjax.evaluation import Data, Quality
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.lstm_two_branch import LSTMTwoBranchConfig
from recjax.models.mult_vae import MultVAEConfig
from recjax.models.sasrec import SASRecConfig
from recjax.serving.compiled import compile_final_model
from recjax.training.final_model import load_final_model
from recjax.training.fit import EpochRecord
from recjax.training.pipeline import finalize, load_data, train
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
from recjax.transforms.protocol import Transform

widths = st.sampled_from([8, 12, 16, 24])
MODELS = st.one_of(
    st.builds(
        SASRecConfig,
        embedding_dim=st.sampled_from([8, 16]),
        heads=st.sampled_from([1, 2]),
        mlp_dims=st.lists(widths, min_size=1, max_size=2).map(tuple),
        dropout_rate=st.just(0.1),
        loss_chunk=st.just(32),
    ),
    st.builds(
        DLRMDCNv2Config,
        embedding_dim=st.sampled_from([4, 8]),
        bottom_mlp=st.lists(widths, min_size=1, max_size=1).map(tuple),
        cross_ranks=st.lists(st.sampled_from([4, 6]), min_size=1, max_size=2).map(tuple),
        top_mlp=st.lists(widths, min_size=1, max_size=2).map(tuple),
    ),
    st.builds(
        MultVAEConfig,
        encoder_dims=st.lists(widths, max_size=1).map(tuple),
        latent_dim=widths,
        decoder_dims=st.lists(widths, max_size=1).map(tuple),
        annealing_steps=st.just(4),
    ),
    st.builds(
        LSTMTwoBranchConfig,
        embedding_dim=widths,
        units=widths,
        mlp_dims=st.lists(widths, min_size=1, max_size=2).map(tuple),
    ),
)
MASKS = st.builds(
    prune,
    st.sampled_from([0.3, 0.5, 0.85]),
    structure=st.sampled_from(["unit", "element"]),
    scope=st.sampled_from(["layer", "global"]),
    criterion=st.sampled_from(["magnitude", "random", "movement"]),
    update_every=st.just(1),
) | st.builds(prune, structure=st.sampled_from(["2:4", "4:8"]), update_every=st.just(1))
TRANSFORMS = st.one_of(
    MASKS,
    st.builds(
        shrink,
        st.sampled_from([0.0, 0.5]),
        layers=st.sampled_from([0, 0, 1]),
        heads=st.sampled_from([0.0, 0.0, 0.5]),
        finetune_epochs=st.sampled_from([0, 1]),
        multiple_of=st.just(4),
        distill=st.sampled_from([0.0, 0.5]),
    ),
    st.builds(low_rank, budget=st.sampled_from([0.3, 0.7]), when=st.sampled_from(["after", "start"])),
    st.just(bf16()),
    st.builds(mixed_precision, st.sampled_from(["bfloat16", "float16"])),
    st.builds(
        quantize,
        st.sampled_from([8, 4, "fp8"]),
        backward_bits=st.sampled_from([None, None, 8]),
        when=st.just("training"),
        logits=st.booleans(),
        products=st.booleans(),
        states=st.booleans(),
        per_tensor=st.booleans(),
        backend=st.sampled_from(["aqt", "qwix"]),
    ),
    st.builds(
        quantize,
        st.sampled_from([8, 4]),
        when=st.just("after"),
        weight_only=st.booleans(),
        backend=st.sampled_from(["aqt", "qwix"]),
    ),
    st.builds(quantize, activations=st.just("static"), calibration_batches=st.just(1)),
    st.builds(sparse_layout, min_sparsity=st.sampled_from([0.3, 0.8])),
    st.builds(compress_embeddings, st.sampled_from(["int8", "int4"]), through_training=st.booleans()),
    st.builds(compress_embeddings, st.sampled_from(["bf16", "fp16"])),
    st.builds(
        compress_embeddings,
        st.sampled_from(["hash", "quotient_remainder"]),
        ratio=st.sampled_from([0.3, 0.5]),
        min_rows=st.just(8),
    ),
    st.builds(compress_embeddings, st.just("mixed_dimension"), blocks=st.just(2), min_rows=st.just(8)),
    st.builds(compress_embeddings, st.just("tensor_train"), rank=st.just(2), min_rows=st.just(8)),
    st.builds(compress_embeddings, st.just("prune_rows"), share=st.just(0.5), min_rows=st.just(8)),
    st.builds(lambda weight: distill(weight=weight, dropout_rate=0.0), st.sampled_from([0.3, 1.0])),
)


@functools.cache
def data_for(task: str, ratings_file: Path) -> tuple[Dataset, Data]:
    dataset = Dataset(source=str(ratings_file), min_interactions=1, max_history=6)
    if task != "next_item":
        dataset = dataclasses.replace(dataset, split="random", ratios=(0.6, 0.2, 0.2))
    model = {
        "next_item": SASRecConfig(),
        "labelled": DLRMDCNv2Config(),
        "top_n": MultVAEConfig(),
        "rating": LSTMTwoBranchConfig(),
    }[task]
    return dataset, load_data(experiment_of(model, dataset, ()))


def experiment_of(model: ModelConfig, dataset: Dataset, transforms: Sequence[Transform]) -> Experiment:
    training = Training(epochs=2, batch_size=16, learning_rate=1e-2, patience=0)
    return Experiment(
        name="tiny",
        dataset=dataset,
        model=model,
        training=training,
        finetuning=dataclasses.replace(training, epochs=1),
        transforms=tuple(transforms),
    )


def check_chain(model: ModelConfig, transforms: Sequence[Transform], ratings_file: Path) -> bool:
    """Returns whether the chain is legal on the model; asserts all that must hold in either case."""
    dataset, data = data_for(model.task, ratings_file)
    epochs: list[EpochRecord] = []
    trained = None
    with contextlib.suppress(UserError):
        experiment = experiment_of(model, dataset, chain(*transforms).members)
        trained = train(experiment, data, on_epoch=lambda record, of: epochs.append(record))
    if trained is None:
        assert not epochs  # refused before training
        return False
    note(f"legal: {chain(*transforms).label}")
    final = finalize(experiment, data, trained.params)
    batch = next(data.eval_batches("valid", 8))
    evaluated = np.asarray(jax.jit(final.score)(final.variables, batch))
    assert np.isfinite(evaluated).all()
    with tempfile.TemporaryDirectory() as folder:
        final.save(Path(folder) / "final", experiment, Quality("", {}, 0, {}))
        restored = load_final_model(Path(folder) / "final", experiment, data)
    assert restored.config == final.config
    jax.tree.map(np.testing.assert_array_equal, restored.variables, final.variables)
    np.testing.assert_array_equal(jax.jit(restored.score)(restored.variables, batch), evaluated)
    served = compile_final_model(restored, data.serving_samples(), (8,), 3)(data.serving_samples(), np.arange(8))
    assert all(len(values) == 8 and np.isfinite(values).all() for values in served.values())
    asked = {name: column[:8] for name, column in data.serving_samples().items()}
    scores = np.asarray(jax.jit(final.score)(final.variables, asked))
    if "items" in served:  # the best of the scores, to the last bit
        for i, (items, values) in enumerate(zip(served["items"], served["scores"], strict=True)):
            np.testing.assert_array_equal(values, scores[i, items])
    elif "probability" in served:
        np.testing.assert_array_equal(served["probability"], jax.nn.sigmoid(scores))
    else:
        np.testing.assert_array_equal(served["rating"], scores)
    return True


@settings(max_examples=6, derandomize=True)
@given(model=MODELS, transforms=st.lists(TRANSFORMS, min_size=1, max_size=4))
def test_chains(model: ModelConfig, transforms: list[Transform], ratings_file: Path):
    in_order = sorted(transforms, key=lambda transform: transform.stage)  # most of these are legal
    check_chain(model, in_order, ratings_file)


@pytest.mark.slow
@settings(max_examples=60)
@given(model=MODELS, transforms=st.lists(TRANSFORMS, min_size=1, max_size=4), is_sorted=st.booleans())
def test_many_chains(model: ModelConfig, transforms: list[Transform], is_sorted: bool, ratings_file: Path):
    if is_sorted:
        transforms = sorted(transforms, key=lambda transform: transform.stage)
    check_chain(model, transforms, ratings_file)
