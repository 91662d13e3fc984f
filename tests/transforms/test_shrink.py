from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.training.fit import FitResult
from recjax.transforms.paths import flatten, unflatten_like
from recjax.transforms.protocol import Finalization
from recjax.transforms.shrink import Shrink, shrink


def empty(model_config: Any, params: Any, n_kept: int, seed: int = 0) -> Any:
    """Returns the parameters with all but `n_kept` random units of every hidden layer zeroed."""
    rng = np.random.default_rng(seed)
    flat = {path: np.array(leaf) for path, leaf in flatten(params).items()}
    for layer in model_config.hidden_units():
        width = getattr(model_config, layer.field)[layer.index]
        gone = rng.permutation(width)[n_kept:]
        for path, axis in layer.slices:
            flat[path][(slice(None),) * axis + (gone,)] = 0
    return unflatten_like(params, {path: jnp.asarray(leaf) for path, leaf in flat.items()})


def shrunk(transform: Shrink, model_config: Any, params: Any) -> tuple[Any, Any, Any]:
    def forbidden(*_: Any) -> Any:
        raise AssertionError("finetune_epochs=0 trains nothing")

    context = Finalization(build=forbidden, batches=forbidden, retrain=forbidden, counts=forbidden, shapes=forbidden)
    config, variables, report = transform.finalize(model_config, {"params": params}, context)
    return config, variables["params"], report.details["widths"]


def logits(model_config: Any, data: Any, params: Any, batch: Any) -> np.ndarray:
    return np.asarray(jax.jit(model_config.build(data.schema).apply)({"params": params}, batch))


def test_dlrm_answers_the_same_with_fewer_parameters(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    masked = empty(dlrm_experiment.model, dlrm_params, n_kept=3)
    config, params, widths = shrunk(shrink(finetune_epochs=0, multiple_of=1), dlrm_experiment.model, masked)
    assert (config.bottom_mlp, config.cross_ranks, config.top_mlp) == ((3,), (3, 3), (3, 3))
    assert config.embedding_dim == dlrm_experiment.model.embedding_dim
    assert widths == {
        "bottom_mlp[0]": [8, 3],
        "cross_ranks[0]": [4, 3],
        "cross_ranks[1]": [6, 3],
        "top_mlp[0]": [16, 3],
        "top_mlp[1]": [8, 3],
    }
    batch = next(labelled.eval_batches("valid", 32))
    before = logits(dlrm_experiment.model, labelled, masked, batch)
    np.testing.assert_allclose(logits(config, labelled, params, batch), before, rtol=1e-5, atol=1e-5)
    N, D = labelled.schema.n_dense, config.embedding_dim
    X = D * (1 + len(labelled.schema.fields))
    expected = sum(field.vocab_size * D for field in labelled.schema.fields)
    expected += (N + 1) * 3 + (3 + 1) * D  # bottom MLP
    expected += 2 * (X * 3 + (3 + 1) * X)  # cross network
    expected += (X + 1) * 3 + (3 + 1) * 3 + (3 + 1) * 1  # top MLP and logit
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    fresh = jax.eval_shape(config.build(labelled.schema).init, jax.random.key(0), batch)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)


def test_sasrec_answers_the_same_with_fewer_parameters(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    masked = empty(sasrec_experiment.model, trained_sasrec.params, n_kept=5)
    config, params, widths = shrunk(shrink(finetune_epochs=0, multiple_of=1), sasrec_experiment.model, masked)
    assert config.mlp_dims == (5,)
    assert widths == {"mlp_dims[0]": [16, 5]}
    batch = next(next_item.eval_batches("valid", 16))
    before = logits(sasrec_experiment.model, next_item, masked, batch)
    np.testing.assert_allclose(logits(config, next_item, params, batch), before, rtol=1e-5, atol=1e-5)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (masked, params)]
    D = config.embedding_dim
    assert sizes[0] - sizes[1] == (16 - 5) * (D + 1 + D)  # a unit's column, bias and row


@pytest.mark.parametrize(
    ("multiple_of", "n_kept", "widths"),
    [
        (4, 3, [4, 4, 4, 4, 4]),  # rounded up
        (8, 0, [8, 4, 6, 8, 8]),  # never to nothing, and never above what there was
    ],
)
def test_widths_are_kept_at_multiples(
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    dlrm_params: Any,
    multiple_of: int,
    n_kept: int,
    widths: list[int],
):
    masked = empty(dlrm_experiment.model, dlrm_params, n_kept)
    transform = shrink(finetune_epochs=0, multiple_of=multiple_of)
    config, params, _ = shrunk(transform, dlrm_experiment.model, masked)
    assert [*config.bottom_mlp, *config.cross_ranks, *config.top_mlp] == widths
    batch = next(labelled.eval_batches("valid", 32))
    before = logits(dlrm_experiment.model, labelled, masked, batch)
    np.testing.assert_allclose(logits(config, labelled, params, batch), before, rtol=1e-5, atol=1e-5)


def test_nothing_emptied_means_nothing_removed(dlrm_experiment: Experiment, dlrm_params: Any):
    config, params, _ = shrunk(shrink(finetune_epochs=0), dlrm_experiment.model, dlrm_params)
    assert config == dlrm_experiment.model
    jax.tree.map(np.testing.assert_array_equal, params, dlrm_params)


def test_retrain_gets_the_smaller_model_and_has_the_last_word(dlrm_experiment: Experiment, dlrm_params: Any):
    seen = []

    def retrain(model_config: Any, params: Any, epochs: int) -> Any:
        seen.append((model_config.top_mlp, params["logit"]["kernel"].shape, epochs))
        return {"retrained": jnp.ones(1)}

    def forbidden(*_: Any) -> Any:
        raise AssertionError("shrink builds no module")

    masked = empty(dlrm_experiment.model, dlrm_params, n_kept=2)
    context = Finalization(build=forbidden, batches=forbidden, retrain=retrain, counts=forbidden, shapes=forbidden)
    transform = shrink(finetune_epochs=3, multiple_of=1)
    _, variables, _ = transform.finalize(dlrm_experiment.model, {"params": masked}, context)
    assert seen == [((2, 2), (2, 1), 3)]
    assert list(variables["params"]) == ["retrained"]


def test_values_out_of_range_are_refused():
    with pytest.raises(UserError, match="shrink finetune_epochs is -1; allowed: >= 0"):
        shrink(finetune_epochs=-1)
    with pytest.raises(UserError, match="shrink multiple_of is 0; allowed: >= 1"):
        shrink(multiple_of=0)
