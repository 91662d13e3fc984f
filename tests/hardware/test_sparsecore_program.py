"""What SparseCores cannot train is refused before anything is compiled; test_compile_absent compiles."""

import dataclasses

import jax
import pytest
from jax.sharding import Mesh

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.hardware.sparsecore_program import sparsecore_program
from recjax.models.deepfm import DeepFMConfig
from recjax.parallel.mesh import make_mesh
from recjax.transforms import quantize


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh({"data": -1}, jax.devices("cpu")[:1])


def with_rows(experiment: Experiment, table_optimizer: str = "sgd") -> Experiment:
    training = dataclasses.replace(experiment.training, table_optimizer=table_optimizer)
    return dataclasses.replace(experiment, training=training)


def test_no_transforms(dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh) -> None:
    experiment = dataclasses.replace(with_rows(dlrm_experiment), transforms=(quantize(),))
    with pytest.raises(UserError, match=r"int8.* is not there for tables on SparseCores, which are float32; plan"):
        sparsecore_program(experiment, labelled, mesh)


def test_no_other_task(sasrec_experiment: Experiment, next_item: NextItemData, mesh: Mesh) -> None:
    with pytest.raises(UserError, match="tiny_sasrec is no model of the labelled task; SparseCores take dlrm or dlrm_"):
        sparsecore_program(with_rows(sasrec_experiment), next_item, mesh)


def test_no_dense_updates(dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh) -> None:
    with pytest.raises(UserError, match=r"training\.table_optimizer is dense, and SparseCores update the rows that"):
        sparsecore_program(with_rows(dlrm_experiment, "dense"), labelled, mesh)


def test_no_clipping(dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh) -> None:
    training = dataclasses.replace(with_rows(dlrm_experiment).training, max_grad_norm=0.5)
    with pytest.raises(UserError, match=r"training\.max_grad_norm is 0\.5, and .* clips no gradients; set it to 0$"):
        sparsecore_program(dataclasses.replace(dlrm_experiment, training=training), labelled, mesh)


def test_no_second_table_of_a_field(dlrm_experiment: Experiment, labelled: LabelledData, mesh: Mesh) -> None:
    experiment = dataclasses.replace(dlrm_experiment, model=DeepFMConfig(embedding_dim=4))
    with pytest.raises(UserError, match="SparseCores take models with one table a field and no other; this one has"):
        sparsecore_program(with_rows(experiment), labelled, mesh)
