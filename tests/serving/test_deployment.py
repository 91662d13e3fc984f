import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.errors import CheckpointError, DeviceError, SplitError, UserError
from recjax.evaluation import make_evaluator
from recjax.serving.compiled import compile_final_model
from recjax.serving.deployment import (
    DeployedLimits,
    DeployedServing,
    Deployment,
    load_deployed,
    path_from,
    read_deployment,
    write_deployment,
)
from recjax.serving.on_devices import compile_on_devices
from recjax.training.pipeline import finalize
from recjax.transforms import chain, compress_embeddings, distill, mixed_precision, quantize, shrink
from recjax.transforms.paths import flatten

CONFIG = """from recjax.config import Dataset, Experiment, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config


def get_config():
    training = Training(epochs=4, batch_size=32, learning_rate=1e-2)
    return Experiment(
        name="tiny_dlrm",
        dataset=Dataset(source={source!r}, min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2)),
        model=DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(8,), cross_ranks=(4, 6), top_mlp=(16, 16)),
        training=training,
        finetuning=training,
    )
"""
CHAIN = chain(compress_embeddings("int8"), quantize(when="after", logits=True))


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory,
    ratings_file: Path,
    dlrm_experiment: Experiment,
    labelled: LabelledData,
    dlrm_params: Any,
) -> Deployment:
    """Returns the deployment of a small model that was never trained, written with its model."""
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "tiny.py").write_text(CONFIG.format(source=str(ratings_file)))
    deployment = Deployment(
        name="tiny_dlrm",
        config="tiny.py",
        overrides=("model.top_mlp=16,8", "model.dropout_rate=0.1"),
        model="models/best",
        transform=CHAIN,
        serving=DeployedServing(buckets=(1, 4, 16), max_batch=16),
        limits=DeployedLimits(p99_ms=20.0, quality_floor=0.99, queries='1 a query, "uniform" rows'),
        platform="cpu",
        measured={"samples_per_s": 1234.5, "p99_ms_ci95": [9.0, 11.0], "usd": None, "reasons": {"usd": "nobody says"}},
        environment={"versions": {"jax": "0.12.0"}, "flags": {}, "commit": "d8f8d43", "modified": False},
        folder=folder,
    )
    write_deployment(deployment, folder / "deployment.toml")
    experiment = deployment.experiment()
    assert dataclasses.replace(experiment, transforms=(), parallel=dlrm_experiment.parallel) == dlrm_experiment
    model = finalize(experiment, labelled, dlrm_params)
    quality = make_evaluator(model.score, labelled, "valid")(model.variables)
    (folder / "models").mkdir()
    model.save(folder / "models" / "best", experiment, quality)
    return deployment


def test_what_was_written_is_read(deployed: Deployment) -> None:
    again = read_deployment(deployed.folder / "deployment.toml")
    assert dataclasses.replace(again, measured=deployed.measured) == deployed
    assert again.measured == {k: v for k, v in deployed.measured.items() if k != "usd"}  # TOML has no null
    text = (deployed.folder / "deployment.toml").read_text()
    # A reader sees what is not at its default, and nothing else.
    assert '[[transforms]]\ntransform = "quantize"\nwhen = "after"\nlogits = true\n' in text


def test_the_deployed_model_answers_as_the_tuned_one(
    deployed: Deployment, labelled: LabelledData, dlrm_params: Any
) -> None:
    compiled, columns = load_deployed(read_deployment(deployed.folder / "deployment.toml"))
    tuned = compile_final_model(
        finalize(deployed.experiment(), labelled, dlrm_params), labelled.serving_samples(), (1, 4, 16), 10
    )
    rows = np.array([5, 0, 7], np.int32)
    answers, expected = compiled(columns, rows), tuned(labelled.serving_samples(), rows)
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(answers[name], values)
    assert compiled.buckets == (1, 4, 16)


@pytest.mark.parametrize(("devices", "model_devices"), [(4, 1), (4, 2), (2, 2)])
def test_devices_share_a_batch_and_layers(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any, devices: int, model_devices: int
) -> None:
    model, columns = finalize(dlrm_experiment, labelled, dlrm_params), labelled.serving_samples()
    on_one = compile_on_devices(model, columns, (4, 16), 10)
    shared = compile_on_devices(model, columns, (4, 16), 10, devices, model_devices)
    assert shared.programs[16].shares == devices // model_devices
    split = {path for path, leaf in flatten(shared.variables["params"]).items() if not leaf.is_fully_replicated}
    assert ("top_mlp/dense_0/kernel" in split) == (model_devices > 1)
    assert not any("table" in path for path in split)
    rows = np.arange(9, dtype=np.int32)
    for name, values in on_one(columns, rows).items():
        np.testing.assert_allclose(shared(columns, rows)[name], values, rtol=1e-5)


def test_devices_share_batches_alone_of_a_model_whose_kernels_are_int8(deployed: Deployment) -> None:
    on_one, columns = load_deployed(deployed)
    serving = DeployedServing(buckets=(4, 16), max_batch=16, devices=4)
    shared, _ = load_deployed(dataclasses.replace(deployed, serving=serving))
    assert shared.programs[16].shares == 4
    rows = np.arange(9, dtype=np.int32)
    for name, values in on_one(columns, rows).items():
        np.testing.assert_allclose(shared(columns, rows)[name], values, rtol=1e-5)
    layers = dataclasses.replace(serving, model_devices=2)
    with pytest.raises(SplitError, match="2 devices cannot share the layers of this DLRMDCNv2: each kernel is whole"):
        load_deployed(dataclasses.replace(deployed, serving=layers))


@pytest.mark.parametrize(
    "members",
    [
        (),
        (distill(top_mlp=(8,)), quantize(layer_bits=(("top_mlp/.*", 4),))),
        (shrink(0.5, finetune_epochs=1), mixed_precision(policy=(("logit", "float32"),)), compress_embeddings("int4")),
    ],
)
def test_any_chain_is_read_back(members: tuple[Any, ...], deployed: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    write_deployment(dataclasses.replace(deployed, transform=chain(*members)), file)
    assert read_deployment(file).transform == chain(*members)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "deployment.version is 2; allowed: 1"),
        ("[serving]", "[served]", "unknown section 'served'"),
        ('model = "models/best"\n', "", r"\[deployment\] is 'without model'"),
        ("buckets = [1, 4, 16]\n", "", r"\[serving\] is 'without buckets'"),
        ("buckets = [1, 4, 16]", "buckets = [4, 1, 16]", "ascending positive sizes"),
        ("max_batch = 16", "max_batch = 8", "serving.max_batch is 8; allowed: 16"),
        ("max_batch = 16", 'max_batch = "many"', "valid integer"),
        ("max_batch = 16", "max_batches = 16", r"without max_batch"),
        ("top_k = 10", "top_n = 10", "unknown DeployedServing key 'top_n'"),
        ('transform = "quantize"', 'transform = "quantise"', "did you mean 'quantize'"),
        ("logits = true", 'logits = "perhaps"', "valid boolean"),
        ("p99_ms = 20.0", "p99 = 20.0", "without p99_ms"),
        ("[limits]", "[limits", "is no TOML"),
        ('platform = "cpu"', "platform = 3", "Deployment.platform is 3"),
        ('overrides = ["model', 'override = ["model', "unknown key of .deployment. 'override'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    old: str, new: str, words: str, deployed: Deployment, tmp_path: Path
) -> None:
    text = (deployed.folder / "deployment.toml").read_text()
    assert old in text
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        read_deployment(file)
    assert re.search(words, str(error.value))
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the deployment .*; `recjax tune` writes one"):
        read_deployment(tmp_path / "none.toml")


def test_a_file_is_read_and_not_run(deployed: Deployment, tmp_path: Path) -> None:
    text = (deployed.folder / "deployment.toml").read_text()
    file, witness = tmp_path / "hostile.toml", tmp_path / "ran"
    file.write_text(text.replace('"quantize"', f"\"__import__('pathlib').Path('{witness}').touch()\""))
    with pytest.raises(UserError, match="unknown transform"):
        read_deployment(file)
    assert not witness.exists()


def test_a_model_of_other_overrides_is_refused(deployed: Deployment) -> None:
    other = dataclasses.replace(deployed, overrides=("model.top_mlp=16,8", "model.dropout_rate=0.2"))
    with pytest.raises(CheckpointError, match=r"model\.dropout_rate"):
        load_deployed(other)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_deployed(dataclasses.replace(deployed, model="models/none"))


def test_another_platform_and_too_few_devices_are_one_line(deployed: Deployment) -> None:
    with pytest.raises(DeviceError, match="was tuned on a tpu, and this is a cpu"):
        load_deployed(dataclasses.replace(deployed, platform="tpu"))
    many = DeployedServing(buckets=(16,), max_batch=16, devices=jax.local_device_count() + 1)
    with pytest.raises(DeviceError, match=f"needs {jax.local_device_count() + 1} devices"):
        load_deployed(dataclasses.replace(deployed, serving=many))


def test_paths_are_relative_to_the_folder(tmp_path: Path) -> None:
    assert path_from(tmp_path / "runs" / "tune", tmp_path / "configs" / "a.py") == "../../configs/a.py"
    assert path_from(tmp_path, tmp_path / "models" / "x") == "models/x"
