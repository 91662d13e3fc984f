"""Programs as shapes: that they are those which train and serve, and that nothing is allocated for them."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from recjax.config import Dataset, Experiment, Parallel, Training
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.data.synthetic_dlrm import DLRMv2Options, SyntheticDLRMv2
from recjax.errors import UserError
from recjax.hardware.product_flops import product_flops
from recjax.hardware.programs import serving_program, training_program
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.models.ease import EASEConfig
from recjax.parallel.mesh import make_mesh
from recjax.training.final_model import FinalModel
from recjax.training.first_step import ToTrain, first_step, plan_step
from recjax.training.pipeline import load_data, set_up
from recjax.transforms import distill, quantize
from recjax.transforms.protocol import chain


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh({"data": -1}, jax.devices("cpu")[:1])


def shapes(tree: object) -> object:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


@pytest.mark.parametrize("table_optimizer", ["dense", "rowwise_adagrad"])
def test_the_training_program_takes_what_training_takes(
    dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh, table_optimizer: str
) -> None:
    training = dataclasses.replace(dlrm_experiment.training, table_optimizer=table_optimizer)
    # Without dropout, whose draws are others on a mesh.
    model = dataclasses.replace(dlrm_experiment.model, dropout_rate=0.0)
    experiment = dataclasses.replace(dlrm_experiment, training=training, model=model)
    planned = training_program(experiment, labelled, mesh)
    assert planned.samples == 32
    assert planned.needs is not None
    held = planned.needs.held
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(planned.arguments[0]))
    assert held["parameters"] + held["optimizer state"] == state_bytes
    assert held["checkpoint being written"] > 0
    setup, batch = set_up(experiment, labelled), next(labelled.train_batches(32, 0, 1))
    parallel = Parallel(strategy="pjit", **mesh.shape)
    begun = plan_step(
        setup.model_config,
        setup.params,
        labelled.schema,
        batch,
        training,
        chain(),
        total_steps=math.ceil(labelled.n_train / 32) * training.epochs,
        parallel=parallel,
        jax_devices=list(mesh.devices.flat),
    )
    state = begun.devices.first_state(begun.init, setup.params)
    assert shapes(planned.arguments[0]) == shapes(state)
    assert shapes(planned.arguments[1]) == shapes(batch)
    # And computes what a step on one device computes.
    compiled = planned.function.trace(*planned.arguments).lower().compile()
    new, loss = compiled(state, begun.devices.put_batch(batch))
    to_train = ToTrain(
        model_config=setup.model_config, params=setup.params, data=labelled, training=training, transform=chain()
    )
    alone, first_state = first_step(to_train)
    expected, expected_loss = alone.take(first_state, batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    whole = begun.devices.whole(new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, expected)


def test_updates_by_rows_take_the_products_that_dense_ones_take(
    dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh
) -> None:
    counts = []
    for table_optimizer in ("dense", "rowwise_adagrad"):
        training = dataclasses.replace(dlrm_experiment.training, table_optimizer=table_optimizer)
        planned = training_program(dataclasses.replace(dlrm_experiment, training=training), labelled, mesh)
        counts.append(product_flops(planned.function.trace(*planned.arguments), 1))
    assert counts[0] == counts[1]


def test_the_serving_program_answers_as_the_final_model_does(
    int8_sasrec: FinalModel, sasrec_experiment: Experiment, next_item: NextItemData, mesh: Mesh
) -> None:
    experiment = dataclasses.replace(sasrec_experiment, transforms=(quantize(),))
    planned = serving_program(experiment, next_item, mesh, batch_size=4)
    assert planned.samples == 4
    assert shapes(planned.arguments[0]) == shapes(int8_sasrec.variables)
    requests = {name: column[:4] for name, column in next_item.serving_samples().items()}
    assert shapes(planned.arguments[1]) == shapes(requests)
    compiled = planned.function.trace(*planned.arguments).lower().compile()
    answered = compiled(int8_sasrec.variables, requests)
    expected = jax.jit(lambda v, b: int8_sasrec.serve(v, b, top_k=10))(int8_sasrec.variables, requests)
    np.testing.assert_array_equal(answered["items"], expected["items"])


def test_a_batch_is_split_and_parameters_are_whole(
    dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh
) -> None:
    state, batch = training_program(dlrm_experiment, labelled, mesh, batch_size=64).arguments
    assert {name: leaf.sharding.spec for name, leaf in batch.items()} == {
        "dense": PartitionSpec("data", None),
        "sparse_ids": PartitionSpec("data", None),
        "labels": PartitionSpec("data"),
        "weight": PartitionSpec("data"),
    }
    assert all(leaf.sharding.shard_shape(leaf.shape) == leaf.shape for leaf in jax.tree.leaves(state))


def test_tables_of_a_hundred_gigabytes_are_planned_without_being_there(mesh: Mesh) -> None:
    training = Training(epochs=1, batch_size=1024, table_optimizer="rowwise_adagrad")
    experiment = Experiment(
        name="large",
        dataset=Dataset(source="synthetic-dlrm-v2"),
        model=DLRMDCNv2Config(embedding_dim=128),
        training=training,
        finetuning=training,
    )
    data = SyntheticDLRMv2(DLRMv2Options(table_scale=1.0))
    for program in (training_program, serving_program):
        parameters = program(experiment, data, mesh).arguments[0]
        assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parameters)) > 100e9


def test_a_large_model_with_a_transform_is_refused_rather_than_drawn(mesh: Mesh) -> None:
    training = Training(epochs=1, batch_size=1024)
    experiment = Experiment(
        name="large",
        dataset=Dataset(source="synthetic-dlrm-v2"),
        model=DLRMDCNv2Config(embedding_dim=128),
        training=training,
        finetuning=training,
        transforms=(quantize(),),
    )
    data = SyntheticDLRMv2(DLRMv2Options(table_scale=1.0))
    with pytest.raises(UserError, match=r"int8.* looks at parameters, and the 104\.6 GB of large are not drawn"):
        serving_program(experiment, data, mesh)


def test_a_student_is_planned_with_its_teacher(dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh) -> None:
    student = dataclasses.replace(dlrm_experiment, transforms=(distill(top_mlp=(8,)),))
    planned = training_program(student, labelled, mesh)
    assert "teacher" in planned.arguments[1]
    assert planned.function.trace(*planned.arguments).lower().as_text()


def test_a_model_that_is_solved_has_no_step_to_plan(ratings_file: Path, mesh: Mesh) -> None:
    training = Training(epochs=1)
    experiment = Experiment(
        name="ease",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random_by_user"),
        model=EASEConfig(),
        training=training,
        finetuning=training,
    )
    data = load_data(experiment)
    with pytest.raises(UserError, match="EASE is solved on one device"):
        training_program(experiment, data, mesh)
    assert serving_program(experiment, data, mesh).samples == 256
