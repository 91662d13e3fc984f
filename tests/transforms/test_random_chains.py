"""Any legal chain on any small model trains, finalizes, saves, restores and serves; others are refused before."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import event, given, note, settings
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
from recjax.transforms.protocol import Stage, Transform

Recipe = Callable[[], Transform]

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


def recipes(transform: Callable[..., Transform], **options: st.SearchStrategy) -> st.SearchStrategy[Recipe]:
    """Returns calls of the function with those options: options that do not go together are refused when called."""
    return st.fixed_dictionaries(options).map(lambda drawn: functools.partial(transform, **drawn))


one, some = st.just, st.sampled_from
OF_STAGE = {
    Stage.STRUCTURE: recipes(distill, weight=some([0.3, 1.0]), dropout_rate=one(0.0)),
    Stage.MASKS: st.one_of(
        recipes(
            prune,
            sparsity=some([0.3, 0.5, 0.85]),
            structure=some(["unit", "element"]),
            scope=some(["layer", "global"]),
            criterion=some(["magnitude", "random", "movement"]),
            update_every=one(1),
        ),
        recipes(prune, structure=some(["2:4", "4:8"]), update_every=one(1)),
    ),
    Stage.SHRINK: recipes(
        shrink,
        share=some([0.0, 0.5]),
        layers=some([0, 0, 1]),
        heads=some([0.0, 0.0, 0.5]),
        finetune_epochs=some([0, 1]),
        multiple_of=one(4),
        distill=some([0.0, 0.5]),
    ),
    Stage.FACTORS: recipes(low_rank, budget=some([0.3, 0.7]), when=some(["after", "start"])),
    Stage.PRECISION: st.one_of(recipes(bf16), recipes(mixed_precision, dtype=some(["bfloat16", "float16"]))),
    Stage.TABLES: st.one_of(
        recipes(compress_embeddings, method=some(["int8", "int4"]), through_training=st.booleans()),
        recipes(compress_embeddings, method=some(["bf16", "fp16"])),
        recipes(
            compress_embeddings, method=some(["hash", "quotient_remainder"]), ratio=some([0.3, 0.5]), min_rows=one(8)
        ),
        recipes(compress_embeddings, method=one("mixed_dimension"), blocks=one(2), min_rows=one(8)),
        recipes(compress_embeddings, method=one("tensor_train"), rank=one(2), min_rows=one(8)),
        recipes(compress_embeddings, method=one("prune_rows"), share=one(0.5), min_rows=one(8)),
    ),
    Stage.FREEZE: st.one_of(
        recipes(
            quantize,
            bits=some([8, 4, "fp8"]),
            backward_bits=some([None, None, 8]),
            logits=st.booleans(),
            products=st.booleans(),
            states=st.booleans(),
            per_tensor=st.booleans(),
            backend=some(["aqt", "qwix"]),
        ),
        recipes(
            quantize, bits=some([8, 4]), when=one("after"), weight_only=st.booleans(), backend=some(["aqt", "qwix"])
        ),
        recipes(quantize, activations=one("static"), calibration_batches=one(1)),
        recipes(sparse_layout, min_sparsity=some([0.3, 0.8])),
    ),
}


def chains(min_size: int) -> st.SearchStrategy[Sequence[Recipe]]:
    """Returns chains of one transform a stage, in the order of the stages: most of them are legal."""
    stages = st.lists(some(list(OF_STAGE)), unique=True, min_size=min_size, max_size=4).map(sorted)
    return stages.flatmap(lambda drawn: st.tuples(*(OF_STAGE[stage] for stage in drawn)))


ANY_ORDER = st.lists(st.one_of(*OF_STAGE.values()), min_size=2, max_size=4)


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


def check_chain(model: ModelConfig, wanted: Sequence[Recipe], ratings_file: Path) -> None:
    """Asserts all that must hold of a chain that is legal on the model, or of one that is not."""
    dataset, data = data_for(model.task, ratings_file)
    epochs: list[EpochRecord] = []
    trained = None
    with contextlib.suppress(UserError):
        transform = chain(*(make() for make in wanted))
        experiment = experiment_of(model, dataset, transform.members)
        trained = train(experiment, data, on_epoch=lambda record, of: epochs.append(record))
    if trained is None:
        assert not epochs  # refused before training
        event("refused")
        return
    event(f"legal, of {len(wanted)}")
    note(f"legal: {transform.label}")
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


@settings(max_examples=8, derandomize=True)
@given(model=MODELS, wanted=chains(min_size=2))
def test_chains(model: ModelConfig, wanted: Sequence[Recipe], ratings_file: Path):
    check_chain(model, wanted, ratings_file)


@pytest.mark.long
@settings(max_examples=60)
@given(model=MODELS, wanted=chains(min_size=1))
def test_many_chains(model: ModelConfig, wanted: Sequence[Recipe], ratings_file: Path):
    check_chain(model, wanted, ratings_file)


@settings(max_examples=8, derandomize=True)
@given(model=MODELS, wanted=ANY_ORDER)
def test_chains_in_any_order(model: ModelConfig, wanted: Sequence[Recipe], ratings_file: Path):
    """Most of these are refused."""
    check_chain(model, wanted, ratings_file)


@pytest.mark.long
@settings(max_examples=40)
@given(model=MODELS, wanted=ANY_ORDER)
def test_many_chains_in_any_order(model: ModelConfig, wanted: Sequence[Recipe], ratings_file: Path):
    check_chain(model, wanted, ratings_file)
