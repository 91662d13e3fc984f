import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.config import Dataset, Experiment, Training
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.models.lstm_two_branch import LSTMTwoBranchConfig
from recjax.training.checkpoint import Checkpoints
from recjax.training.optimizer import make_optimizer
from recjax.training.pipeline import dry_run, finalize, load_data, train
from recjax.transforms.low_rank import low_rank
from recjax.transforms.paths import flatten
from recjax.transforms.protocol import chain
from recjax.transforms.prune import Prune, prune
from recjax.transforms.shrink import shrink
from recjax.transforms.sparse_layout import sparse_layout
from recjax.transforms.sparsity import sparsity_report


@pytest.mark.parametrize(
    "transform",
    [
        prune(0.75, update_every=3, criterion="movement"),
        prune(0.75, update_every=3, criterion="random"),
        prune(update_every=3, structure="1:4"),
    ],
    ids=lambda transform: transform.label,
)
def test_a_restored_state_goes_on_as_the_unbroken_one(
    transform: Prune, dlrm_experiment: Experiment, dlrm_params: Any, tmp_path: Path
):
    optimizer = make_optimizer(dlrm_experiment.training, chain(transform), dlrm_experiment.model, 40)
    step = jax.jit(optimizer.update)

    def after(params: Any, state: Any, numbers: range) -> tuple[Any, Any]:
        for number in numbers:
            updates, state = step(jax.tree.map(lambda x, n=number: jnp.sin(n * x), params), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = after(dlrm_params, optimizer.init(dlrm_params), range(9))
    checkpoints = Checkpoints(tmp_path / "run", {"name": "a"})
    checkpoints.save(1, {"params": params, "state": state}, [])
    tree, _ = checkpoints.restore({"params": params, "state": optimizer.init(params)})
    unbroken, resumed = after(params, state, range(9, 30)), after(tree["params"], tree["state"], range(9, 30))
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)
    assert (np.asarray(flatten(unbroken[0])["top_mlp/dense_1/kernel"]) == 0).mean() >= 0.75


def test_a_trained_transformer_keeps_two_of_four(sasrec_experiment: Experiment, next_item: NextItemData):
    experiment = dataclasses.replace(sasrec_experiment, transforms=(prune(structure="2:4", update_every=2),))
    params = train(experiment, next_item).params
    for layer in ("attention/query", "attention/out", "mlp/dense_0", "mlp/dense_1"):
        kernel = np.asarray(flatten(params)[f"block_0/{layer}/kernel"])
        np.testing.assert_array_equal((kernel.reshape(-1, 4, kernel.shape[1]) != 0).sum(1), 2)
    shares = sparsity_report(params, finalize(experiment, next_item, params).variables["params"])
    assert shares == {"masked_share": 0.5, "realised_share": 0}


def test_a_trained_recurrent_layer_is_masked(ratings_file: Path):
    dataset = Dataset(
        source=str(ratings_file), min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2), max_history=6
    )
    training = Training(epochs=2, batch_size=16, learning_rate=1e-2)
    experiment = Experiment(
        name="tiny_lstm",
        dataset=dataset,
        model=LSTMTwoBranchConfig(embedding_dim=8, units=6, mlp_dims=(8,)),
        training=training,
        finetuning=training,
        transforms=(prune(0.75, structure="element", update_every=2),),
    )
    flat = flatten(train(experiment, load_data(experiment)).params)
    masked = {path for path, leaf in flat.items() if (np.asarray(leaf) == 0).mean() == 0.75}
    branches = {f"{side}_branch/{kernel}" for side in ("user", "item") for kernel in ("state_kernel", "input/kernel")}
    assert masked == {*branches, "mlp/dense_0/kernel"}  # mlp/dense_1 gives the answer


def test_units_of_factors_are_removed(dlrm_experiment: Experiment, labelled: LabelledData):
    start = low_rank(budget=0.8, when="start", include=("top_mlp/dense_0", "top_mlp/dense_1"))
    masks, removal = prune(0.5, update_every=2), shrink(finetune_epochs=0, multiple_of=1)
    experiment = dataclasses.replace(dlrm_experiment, transforms=(start, masks, removal))
    params = train(experiment, labelled).params
    removed = finalize(experiment, labelled, params)
    masked = finalize(dataclasses.replace(experiment, transforms=(start, masks)), labelled, params)
    assert removed.config.top_mlp == (8, 4)
    assert removed.variables["params"]["top_mlp"]["dense_0"]["kernel"]["up"].shape[1] == 8
    batch = next(labelled.eval_batches("valid", 8))
    scores, expected = (jax.jit(model.score)(model.variables, batch) for model in (removed, masked))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_weights_of_factors_are_stored_sparse(dlrm_experiment: Experiment, labelled: LabelledData):
    start = low_rank(budget=0.8, when="start", include=("top_mlp/dense_0",))
    transforms = (start, prune(0.8, structure="element", update_every=2), sparse_layout(min_sparsity=0.5))
    experiment = dataclasses.replace(dlrm_experiment, transforms=transforms)
    final = finalize(experiment, labelled, train(experiment, labelled).params)
    factors = final.variables["params"]["top_mlp"]["dense_0"]["kernel"]
    assert all("indptr" in factor for factor in factors.values())


def test_a_dry_run_removes_as_much_as_a_training(dlrm_experiment: Experiment, labelled: LabelledData):
    transform = prune(0.9, structure="element", scope="global", criterion="movement")
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer="lazy_adam")  # sees parameters by path
    experiment = dataclasses.replace(dlrm_experiment, training=training, transforms=(transform,))
    trained, dry = finalize(experiment, labelled, train(experiment, labelled).params), dry_run(experiment, labelled)
    kept, of_dry_run = (model.report.details[transform.label]["kept_values"] for model in (trained, dry))
    total = trained.report.details[transform.label]["total_values"]
    assert kept == of_dry_run == total - int(0.9 * total)
