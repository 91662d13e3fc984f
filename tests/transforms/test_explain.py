import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from assertions import assert_one_line

from recjax.cli import main
from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.models.bpr import BPRConfig
from recjax.models.ease import EASEConfig
from recjax.models.gru4rec import GRU4RecConfig
from recjax.models.lstm_two_branch import LSTMTwoBranchConfig
from recjax.training.fit import FitResult
from recjax.training.pipeline import dry_run, finalize, load_data, train
from recjax.transforms.compress_embeddings import compress_embeddings
from recjax.transforms.distill import distill
from recjax.transforms.explain import Cost, Explanation, explain
from recjax.transforms.low_rank import low_rank
from recjax.transforms.mixed_precision import mixed_precision
from recjax.transforms.paths import set_path
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Transform, chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink
from recjax.transforms.sparse_layout import sparse_layout

# The tiny DLRM-DCNv2: one dense feature, five fields and the bottom MLP's output of four values each, so 24 inputs.
KERNELS = {
    "bottom_mlp/dense_0": (1, 8),
    "bottom_mlp/dense_1": (8, 4),
    "cross/down_0": (24, 4),
    "cross/up_0": (4, 24),
    "cross/down_1": (24, 6),
    "cross/up_1": (6, 24),
    "top_mlp/dense_0": (24, 16),
    "top_mlp/dense_1": (16, 8),
    "logit": (8, 1),
}
TABLES = {"table_hour": 24, "table_item": 24, "table_quarter": 3, "table_user": 30, "table_weekday": 7}
BIASES = 8 + 4 + 24 + 24 + 16 + 8 + 1


def by_path(explanation: Explanation) -> dict[str, tuple[Cost | None, Cost | None]]:
    return {layer.path: (layer.before, layer.after) for layer in explanation.layers}


def after(explanation: Explanation, path: str) -> Cost:
    cost = by_path(explanation)[path][1]
    assert cost is not None
    return cost


@pytest.fixture(scope="module")
def int8(dlrm_experiment: Experiment) -> Explanation:
    return explain(quantize(8), dlrm_experiment)


def test_a_float_model_by_hand(dlrm_experiment: Experiment):
    explanation = explain(chain(), dlrm_experiment)
    kernels = {
        path: Cost(stored=f"float32 {[i, o]}", bytes=4 * i * o, flops=2 * i * o, product="float32")
        for path, (i, o) in KERNELS.items()
    }
    tables = {path: Cost(stored=f"float32 {[rows, 4]}", bytes=16 * rows) for path, rows in TABLES.items()}
    other = {"other": Cost(stored="7 arrays, float32", bytes=4 * BIASES)}
    expected = kernels | tables | other
    assert by_path(explanation) == {path: (cost, cost) for path, cost in expected.items()}
    assert [layer.path for layer in explanation.layers] == list(expected)  # in the order of the forward pass
    n_weights = sum(i * o for i, o in KERNELS.values())
    assert explanation.before == explanation.after
    assert explanation.after == Cost(bytes=4 * (n_weights + 4 * sum(TABLES.values()) + BIASES), flops=2 * n_weights)


def test_int8_kernels_by_hand(int8: Explanation):
    for path, (i, o) in KERNELS.items():
        before, final = by_path(int8)[path]
        assert before == Cost(stored=f"float32 {[i, o]}", bytes=4 * i * o, flops=2 * i * o, product="float32")
        if path == "logit":
            assert final == before
        else:  # a byte a weight and a scale of four an output
            stored = f"int8 {[i, o]} + scale"
            assert final == Cost(stored=stored, bytes=i * o + 4 * o, flops=2 * i * o, product="int8")


def test_four_bits_weights_alone_and_factors_by_hand(dlrm_experiment: Experiment):
    weights = explain(quantize(4, weight_only=True), dlrm_experiment)
    packed = after(weights, "top_mlp/dense_0")
    assert (packed.stored, packed.bytes, packed.flops) == ("packed int8 [12, 16] + scale", 12 * 16 + 64, 2 * 24 * 16)
    assert packed.product == "float32 x int8"
    low = explain(chain(low_rank(rank=2), quantize(8)), dlrm_experiment)
    assert after(low, "top_mlp/dense_0") == Cost(
        stored="down (int8 [24, 2] + scale) + up (int8 [2, 16] + scale)",
        bytes=24 * 2 + 4 * 2 + 2 * 16 + 4 * 16,
        flops=2 * (24 * 2 + 2 * 16),
        product="int8",
    )
    said = {layer.path: layer.said for layer in low.layers}
    assert said["top_mlp/dense_0"][0].startswith("low_rank(rank=2): rank 2, energy 0.")
    assert said["top_mlp/dense_0"][1:] == ("int8: kernels int8",)
    assert said["bottom_mlp/dense_0"][0] == "low_rank(rank=2): left whole"  # 2 (1 + 8) > 8


def test_removed_units_by_hand(dlrm_experiment: Experiment):
    explanation = explain(chain(prune(0.5), shrink(multiple_of=1)), dlrm_experiment)
    halved = {
        "bottom_mlp/dense_0": (1, 4),
        "bottom_mlp/dense_1": (4, 4),
        "cross/down_0": (24, 2),
        "cross/up_0": (2, 24),
        "cross/down_1": (24, 3),
        "cross/up_1": (3, 24),
        "top_mlp/dense_0": (24, 8),
        "top_mlp/dense_1": (8, 4),
        "logit": (4, 1),
    }
    for path, (i, o) in halved.items():
        expected = Cost(stored=f"float32 {[i, o]}", bytes=4 * i * o, flops=2 * i * o, product="float32")
        assert after(explanation, path) == expected
    assert after(explanation, "other").bytes == 4 * (4 + 4 + 24 + 24 + 8 + 4 + 1)
    said = {layer.path: layer.said for layer in explanation.layers}
    assert "shrink(multiples of 1): widths [16, 8]" in said["top_mlp/dense_0"]
    assert said["logit"] == ()


def test_masks_alone_save_nothing(dlrm_experiment: Experiment):
    explanation = explain(prune(0.5), dlrm_experiment)
    assert explanation.before == explanation.after
    assert next(layer.said for layer in explanation.layers if layer.path == "cross/down_0") == (
        "prune(0.5): zero share 0.5",
    )


def test_sparse_kernels_by_hand(dlrm_experiment: Experiment):
    explanation = explain(chain(prune(0.9, structure="element"), sparse_layout()), dlrm_experiment)
    kept = 24 * 16 - int(0.9 * 24 * 16)  # a value and its column, and where each of 16 rows begins and the last ends
    assert after(explanation, "top_mlp/dense_0") == Cost(
        stored=f"data float32 [{kept}] + indices int32 [{kept}] + indptr int32 [17]",
        bytes=8 * kept + 4 * 17,
        flops=2 * kept,
        product="sparse float32",
    )


def test_integer_tables_by_hand(dlrm_experiment: Experiment):
    explanation = explain(compress_embeddings("int8", tables=("table_item",)), dlrm_experiment)
    table = after(explanation, "table_item")
    assert table == Cost(stored="uint8 [24, 4] + affine + unit", bytes=24 * 4 + 24 * 4 + 4)
    assert after(explanation, "table_user").stored == "float32 [30, 4]"
    assert explanation.said == ("tables(int8, some): method int8",)


@pytest.mark.parametrize("products", [False, True])
def test_attention_by_hand(sasrec_experiment: Experiment, products: bool):
    explanation = explain(quantize(8, products=products), sasrec_experiment)
    L, D, V = 6, 8, 24  # two heads share D
    float_part, int8_part = Cost(product="float32"), Cost(product="int8")
    for name in ("scores", "values"):
        before, final = by_path(explanation)[f"block_0/attention/{name}"]
        assert before == dataclasses.replace(float_part, flops=2 * L * L * D)
        assert final == dataclasses.replace(int8_part if products else float_part, flops=2 * L * L * D)
    assert after(explanation, "block_0/attention/query").flops == 2 * L * D * D
    assert after(explanation, "block_0/mlp/dense_0").flops == 2 * L * D * 16
    assert after(explanation, "items").flops == 2 * D * V  # the last position's scores of the catalogue


def test_scores_of_integer_rows_count_although_one_vector_is_multiplied_by_a_sum(sasrec_experiment: Experiment):
    explanation = explain(compress_embeddings("int8", tables=("items",)), sasrec_experiment)
    items = after(explanation, "items")
    assert (items.flops, items.product) == (2 * 8 * 24, "float32")


def test_a_recurrent_layers_state_counts_once_a_step(sasrec_experiment: Experiment):
    experiment = dataclasses.replace(sasrec_experiment, model=GRU4RecConfig(embedding_dim=8, units=(8,)))
    before, final = by_path(explain(quantize(8, states=True), experiment))["layer_0/state"]
    flops = 2 * 6 * 8 * 24  # six positions, three gates of eight units
    assert before == Cost(stored="float32 [8, 24]", bytes=4 * 8 * 24, flops=flops, product="float32")
    assert final == Cost(stored="int8 [8, 24] + scale", bytes=8 * 24 + 4 * 24, flops=flops, product="int8")


def test_a_sparse_state_counts_its_values_once_a_step(dlrm_experiment: Experiment):
    model = LSTMTwoBranchConfig(embedding_dim=4, units=4, mlp_dims=(8,))
    experiment = dataclasses.replace(dlrm_experiment, model=model)
    data = load_data(experiment)
    params = dry_run(experiment, data).variables["params"]
    kernel = jnp.zeros((4, 16)).at[1, :5].set(1.0)
    params = set_path(params, "user_branch/state_kernel", kernel)
    transforms = chain(prune(0.9, structure="element"), sparse_layout(include=("user_branch/state",)))
    explanation = explain(transforms, experiment, params=params)
    final = after(explanation, "user_branch/state")
    assert (final.product, final.bytes) == ("sparse float32", 8 * 5 + 4 * 17)
    assert final.flops == 2 * 5 * experiment.dataset.max_history
    assert "user_branch" not in by_path(explanation)


def test_a_float16_policy_and_a_student_of_another_depth(sasrec_experiment: Experiment, dlrm_experiment: Experiment):
    narrow = after(explain(mixed_precision("float16"), dlrm_experiment), "top_mlp/dense_0")
    assert (narrow.stored, narrow.product) == ("float16 [24, 16]", "float16")
    model = dataclasses.replace(sasrec_experiment.model, mlp_dims=(16, 16))
    explanation = explain(distill(mlp_dims=(8,)), dataclasses.replace(sasrec_experiment, model=model))
    kept, removed = (by_path(explanation)[f"block_{i}/mlp/dense_0"] for i in (0, 1))
    assert after(explanation, "block_0/mlp/dense_0").stored == "float32 [8, 8]"
    assert kept[0] == removed[0]
    assert removed[1] is None
    assert by_path(explanation)["block_1/attention/scores"][1] is None
    assert "→ removed" in str(explanation)


TRANSFORMS: dict[str, Transform] = {
    "fp32": chain(),
    "int8": quantize(8),
    "pruned": chain(prune(0.5), shrink(multiple_of=1), bf16(), quantize(8, logits=True)),
    "tables": chain(low_rank(budget=0.5), compress_embeddings("int4")),
    "shared": compress_embeddings("hash", ratio=0.5, min_rows=10),
    "student": distill(top_mlp=(4,)),
}


@pytest.mark.parametrize(
    "transform",
    [pytest.param(t, id=name, marks=[pytest.mark.slow] * (name == "pruned")) for name, t in TRANSFORMS.items()],
)
def test_bytes_are_those_of_the_model_that_training_gives(
    dlrm_experiment: Experiment, labelled: LabelledData, transform: Transform
):
    short = dataclasses.replace(dlrm_experiment.training, epochs=1)
    experiment = dataclasses.replace(
        dlrm_experiment, training=short, finetuning=short, transforms=chain(transform).members
    )
    model = finalize(experiment, labelled, train(experiment, labelled).params)
    explanation = explain(transform, experiment)
    assert explanation.after.bytes == model.parameter_bytes()
    assert dry_run(experiment, labelled).config == model.config


def test_given_parameters_are_those_that_are_factored(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    transform = low_rank(energy=0.5)
    explanation = explain(transform, sasrec_experiment, params=trained_sasrec.params)
    final = finalize(dataclasses.replace(sasrec_experiment, transforms=(transform,)), next_item, trained_sasrec.params)
    layers = final.report.details[transform.label]["layers"]
    said = {layer.path: layer.said for layer in explanation.layers}
    assert layers
    for path, report in layers.items():
        words = f"{transform.label}: rank {report['rank']}, energy {report['energy']}"
        assert said[path] == (words,)
    assert explanation.values.startswith("parameters are those given")


def test_a_dry_run_trains_nothing(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any):
    transforms = (prune(0.5), shrink(multiple_of=1, finetune_epochs=3))
    model = dry_run(dataclasses.replace(dlrm_experiment, transforms=transforms), labelled, dlrm_params)
    kept = np.asarray(model.variables["params"]["cross"]["down_0"]["kernel"])
    drawn = np.asarray(dlrm_params["cross"]["down_0"]["kernel"])
    assert kept.shape == (24, 2)
    assert all(any((column == whole).all() for whole in drawn.T) for column in kept.T)
    assert jnp.array_equal(model.variables["params"]["table_item"]["table"], dlrm_params["table_item"]["table"])


def test_json_holds_plain_values(int8: Explanation):
    values = json.loads(json.dumps(int8.to_json()))
    assert values == int8.to_json()
    assert values["label"] == "int8"
    assert values["after"]["bytes"] == int8.after.bytes
    assert values["layers"][0]["path"] == "bottom_mlp/dense_0"


def test_the_table_names_every_layer_and_the_sums(int8: Explanation, capsys: pytest.CaptureFixture[str]):
    text = str(int8)
    assert all(layer.path in text for layer in int8.layers)
    assert max(map(len, text.splitlines())) <= 100
    total = [line for line in text.splitlines() if "total" in line]
    assert len(total) == 1
    assert "5.8 KiB" in total[0]
    assert "2.1 kflop" in total[0]
    assert "float32 [24, 16]" in text
    assert "→ int8 [24, 16] + scale" in text
    assert "…" not in text
    assert text.splitlines()[-1].startswith("parameters are drawn, not trained")
    capsys.readouterr()


def test_it_is_printed_and_returned(dlrm_experiment: Experiment, capsys: pytest.CaptureFixture[str]):
    explanation = explain(bf16(), dlrm_experiment)
    assert capsys.readouterr().out == f"{explanation}\n"


def test_a_model_without_layers_still_has_its_products(sasrec_experiment: Experiment, ratings_file: Path):
    dataset = dataclasses.replace(sasrec_experiment.dataset, split="random")
    experiment = dataclasses.replace(sasrec_experiment, dataset=dataset, model=BPRConfig(embedding_dim=4))
    explanation = explain(compress_embeddings("bf16"), experiment)
    assert explanation.after.flops == 2 * 4 * 24
    with pytest.raises(UserError, match="quantize cannot be applied: BPRConfig has no dense layer"):
        explain(quantize(8), experiment)


def test_a_solved_model(sasrec_experiment: Experiment):
    dataset = dataclasses.replace(sasrec_experiment.dataset, split="random")
    experiment = dataclasses.replace(sasrec_experiment, dataset=dataset, model=EASEConfig())
    assert explain(chain(), experiment).before.bytes > 0
    with pytest.raises(UserError, match="has nothing to prune"):
        explain(prune(0.5), experiment)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda: prune(0.5, structure="unit"), "has nothing to prune"),
        (lambda: chain(quantize(8), bf16()), "illegal chain"),
        (lambda: quantize(8, include=("nothing",)), "matches no layer"),
    ],
)
def test_a_chain_that_does_not_fit(logistic_experiment: Experiment, transform: Callable[[], Transform], message: str):
    with pytest.raises(UserError, match=message):
        explain(transform(), logistic_experiment)


CONFIG = """
from recjax.config import Dataset, Experiment, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.transforms import quantize


def get_config():
    training = Training(epochs=1)
    return Experiment(
        name="tiny",
        dataset=Dataset(source={source!r}, min_interactions=1, split="random"),
        model=DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(8,), cross_ranks=(4,), top_mlp=(8,)),
        training=training,
        finetuning=training,
        transforms=(quantize(8{options}),),
    )
"""


@pytest.fixture
def config(tmp_path: Path, ratings_file: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(source=str(ratings_file), options=""))
    return str(path)


def test_the_command_prints_the_table(config: str, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", config, "--set", "model.top_mlp=16"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("tiny: int8\n")
    assert "float32 [24, 16]" in output
    assert "→ int8 [24, 16] + scale" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nothing.py"], "no config file 'nothing.py'"),
        (["CONFIG", "--set", "model.top_mpl=16"], "did you mean 'top_mlp'?"),
        (["CONFIG", "--set", "dataset.source=nothing"], "nothing"),
        (["CONFIG", "--device", "tpu"], "no tpu device"),
    ],
)
def test_the_commands_errors_are_one_line(
    config: str, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["explain", *(config if word == "CONFIG" else word for word in arguments)]) == 2
    assert_one_line(capsys.readouterr().err, part)


def test_a_transform_that_does_not_fit_is_one_line(
    tmp_path: Path, ratings_file: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(source=str(ratings_file), options=", include=('nothing',)"))
    assert main(["explain", str(path)]) == 2
    assert_one_line(capsys.readouterr().err, "quantize pattern 'nothing' matches no layer")
