import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.config import Experiment
from recjax.data.labelled import LabelledData
from recjax.data.next_item import NextItemData
from recjax.errors import UserError
from recjax.evaluation import Quality
from recjax.models.bpr import BPRConfig
from recjax.models.ials import IALSConfig
from recjax.nn.tables import all_rows
from recjax.training import pipeline
from recjax.training.final_model import load_final_model
from recjax.training.fit import FitResult
from recjax.training.pipeline import finalize, load_data, set_up, train
from recjax.training.row_counts import count_rows
from recjax.transforms import table_rounding
from recjax.transforms.compress_embeddings import CompressEmbeddings, compress_embeddings, tables_of
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import Mode, Stage, chain
from recjax.transforms.quantize import quantize

AFTER = (
    compress_embeddings("int8"),
    compress_embeddings("int4"),
    compress_embeddings("bf16"),
    compress_embeddings("fp16"),
    compress_embeddings("prune_rows", share=0.5, min_rows=1),
)
THROUGH = (
    compress_embeddings("int8", through_training=True),
    compress_embeddings("int4", through_training=True),
    compress_embeddings("hash", ratio=0.5, min_rows=20),
    compress_embeddings("quotient_remainder", ratio=0.6, min_rows=20),
    compress_embeddings("mixed_dimension", blocks=3, alpha=0.9, min_rows=20),
    compress_embeddings("tensor_train", rank=1, min_rows=20),
)


def nothing_counted() -> Any:
    raise AssertionError("this method counts nothing")


def short(experiment: Experiment, *transforms: Any) -> Experiment:
    """Returns the experiment with few epochs: what is tested here needs no good model."""
    training = dataclasses.replace(experiment.training, epochs=2)
    return dataclasses.replace(experiment, training=training, transforms=transforms)


@pytest.fixture(scope="session")
def skewed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 60 users of whom each rated the first few items and a few of 180 others, so that blocks differ."""
    rng = np.random.default_rng(0)
    lines = ["user,item,rating,timestamp"]
    for user in range(60):
        items = [*rng.permutation(6), *(6 + rng.choice(180, 4, replace=False))]
        times = 1_000_000_000 + np.cumsum(rng.integers(3_600, 30 * 86_400, len(items)))
        lines += [f"{user},{item},{5 if (user + item) % 2 else 2},{t}" for item, t in zip(items, times, strict=True)]
    path = tmp_path_factory.mktemp("skewed") / "skewed.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@functools.cache
def fitted(experiment: Experiment, transform: Any) -> tuple[Experiment, Any, FitResult]:
    experiment = short(experiment, *filter(None, [transform]))
    data = load_data(experiment)
    return experiment, data, train(experiment, data)


@pytest.fixture(params=["sasrec", pytest.param("dlrm", marks=pytest.mark.slow)])
def experiment(request: pytest.FixtureRequest, skewed_file: Path) -> Experiment:
    tiny = request.getfixturevalue(f"{request.param}_experiment")
    return dataclasses.replace(tiny, dataset=dataclasses.replace(tiny.dataset, source=str(skewed_file)))


@pytest.mark.parametrize("transform", THROUGH, ids=lambda t: t.label)
def test_what_training_evaluated_is_what_is_served_and_loaded(experiment: Experiment, transform: Any, tmp_path: Path):
    experiment, data, result = fitted(experiment, transform)
    assert all(np.isfinite(record.train_loss) for record in result.history)
    model = finalize(experiment, data, result.params)
    sizes = model.report.details[transform.label]["tables"].values()
    assert sizes
    assert all(size["bytes_after"] < size["bytes_before"] for size in sizes)
    batch = next(data.eval_batches("valid", 8))
    evaluated = chain(transform).intercept(experiment.model.build(data.schema), Mode.EVALUATE)
    expected = jax.jit(evaluated.apply)({"params": result.params}, batch)
    served = jax.jit(model.score)(model.variables, batch)
    np.testing.assert_allclose(served, expected, rtol=0, atol=2e-6)  # the same rows, sums maybe in another order

    model.save(tmp_path / "final", experiment, Quality("", {}, 0, {}))
    loaded = load_final_model(tmp_path / "final", experiment, data)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)
    np.testing.assert_array_equal(jax.jit(loaded.score)(loaded.variables, batch), served)


@pytest.mark.parametrize("transform", AFTER, ids=lambda t: t.label)
def test_what_is_made_after_training_is_stored_and_served(
    experiment: Experiment,
    transform: Any,
    tmp_path: Path,
):
    _, data, result = fitted(experiment, None)
    experiment, params = short(experiment, transform), result.params
    model = finalize(experiment, data, params)
    batch = next(data.eval_batches("valid", 8))
    scores = jax.jit(model.score)(model.variables, batch)
    # The same model with the served rows as a float table.
    dense = params
    shapes, forms = tables_of(params), tables_of(model.variables["params"])
    for path, form in forms.items():
        dense = {**dense, path: {"table": all_rows(form, len(shapes[path]), jnp.float32)}}
    expected = jax.jit(experiment.model.build(data.schema).apply)({"params": dense}, batch)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)

    model.save(tmp_path / "final", experiment, Quality("", {}, 0, {}))
    loaded = load_final_model(tmp_path / "final", experiment, data)
    np.testing.assert_array_equal(jax.jit(loaded.score)(loaded.variables, batch), scores)


def test_int8_is_close_and_reported(sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult):
    model = finalize(
        dataclasses.replace(sasrec_experiment, transforms=(compress_embeddings("int8"),)),
        next_item,
        trained_sasrec.params,
    )
    items = np.asarray(trained_sasrec.params["items"]["table"])
    restored = all_rows(model.variables["params"]["items"]["table"], len(items), jnp.float32)
    step = (items.max(1) - items.min(1)) / 255
    assert (np.abs(restored - items) <= 0.55 * step[:, None]).all()
    n_items, n_positions, dim = len(items), next_item.schema.max_history, 8
    assert model.report.details["tables(int8)"] == {
        "method": "int8",
        "tables": {
            path: {"bytes_before": n * dim * 4, "bytes_after": n * (dim + 4) + 4}
            for path, n in (("items", n_items), ("positions", n_positions))
        },
        "left_alone": {},
    }
    assert json.loads(json.dumps(model.report.details)) == model.report.details


def test_only_named_tables_are_touched_and_reasons_are_given(
    dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any
):
    transform = compress_embeddings("prune_rows", tables=("table_user", "table_item"), share=0.5, min_rows=25)
    model = finalize(dataclasses.replace(dlrm_experiment, transforms=(transform,)), labelled, dlrm_params)
    report = model.report.details["tables(prune_rows 0.5, some)"]
    assert set(report["tables"]) == {"table_user"}
    assert report["left_alone"] == {"table_item": "24 rows are fewer than min_rows, 25"}
    others = {path for path in dlrm_params if path != "table_user"}
    for path in others:
        jax.tree.map(np.testing.assert_array_equal, model.variables["params"][path], dlrm_params[path])


def test_an_epoch_is_counted_once_for_all_tables(
    dlrm_experiment: Experiment, labelled: LabelledData, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return count_rows(*arguments)

    monkeypatch.setattr(pipeline, "count_rows", counted)
    by_popularity = compress_embeddings("mixed_dimension", blocks=3, alpha=0.9, min_rows=8)
    params = set_up(dataclasses.replace(dlrm_experiment, transforms=(by_popularity,)), labelled).params
    assert len(by_popularity._chosen(dlrm_experiment.model, params)[0]) > 1
    assert len(calls) == 1
    rare = dataclasses.replace(dlrm_experiment, transforms=(compress_embeddings("prune_rows", share=0.5, min_rows=8),))
    model = finalize(rare, labelled, set_up(rare, labelled).params)
    assert len(next(iter(model.report.details.values()))["tables"]) > 1
    assert len(calls) == 1 + 1


def test_four_bits_leave_odd_widths_alone():
    params = {"a": {"table": jnp.ones((4, 3))}, "b": {"table": jnp.ones((4, 2))}, "bias": {"table": jnp.ones((4, 1))}}
    chosen, left_alone = compress_embeddings("int4")._chosen(BPRConfig(), params)
    assert set(chosen) == {"b"}
    assert left_alone == {"a": "four bits need an even width, and its is 3"}


def test_tables_are_found_wherever_they_are():
    table = jnp.ones((3, 2))
    form = {"hashed": table}
    params = {"items": {"table": table}, "fields": {"x": {"table": form}, "y": {"table": jnp.ones((3, 1))}}, "b": {}}
    assert set(tables_of(params)) == {"items", "fields/x"}
    assert set(tables_of({"table": table})) == {""}


def test_a_chain_with_precision_and_frozen_kernels_serves_both(
    sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult
):
    transforms = (bf16(), compress_embeddings("int8"), quantize())
    experiment = dataclasses.replace(sasrec_experiment, transforms=transforms)
    model = finalize(experiment, next_item, trained_sasrec.params)
    assert model.variables["params"]["items"]["table"]["values"].dtype == jnp.uint8
    assert model.variables["params"]["block_0"]["mlp"]["dense_0"]["kernel"]["values"].dtype == jnp.int8
    batch = next(next_item.eval_batches("valid", 8))
    scores = jax.jit(model.score)(model.variables, batch)
    expected = jax.jit(sasrec_experiment.model.build(next_item.schema).apply)({"params": trained_sasrec.params}, batch)
    assert np.corrcoef(np.ravel(scores), np.ravel(expected))[0, 1] > 0.99


def test_integers_of_a_form_are_not_trained_and_row_updates_leave_forms_to_the_optimizer(
    dlrm_experiment: Experiment, skewed_file: Path
):
    settings = dataclasses.replace(
        dlrm_experiment.training, epochs=1, table_optimizer="lazy_adam", weight_decay=0.1, max_grad_norm=1.0
    )
    transform = compress_embeddings("mixed_dimension", tables=("table_item",), blocks=3, alpha=0.9, min_rows=20)
    dataset = dataclasses.replace(dlrm_experiment.dataset, source=str(skewed_file))
    experiment = dataclasses.replace(dlrm_experiment, dataset=dataset, training=settings, transforms=(transform,))
    data = load_data(experiment)
    params = train(experiment, data).params
    assert isinstance(params["table_user"]["table"], jax.Array)
    place = params["table_item"]["table"]["place"]
    assert place.dtype == jnp.int32
    assert sorted(np.asarray(place)) == list(range(len(place)))


# What a chain reads, and what users see.


def test_labels_stages_and_what_training_must_know():
    found = {t.label: (t.stage, t.trains, t.from_scratch) for t in (*AFTER, *THROUGH)}
    assert found == {
        "tables(int8)": (Stage.TABLES, False, False),
        "tables(int4)": (Stage.TABLES, False, False),
        "tables(bf16)": (Stage.TABLES, False, False),
        "tables(fp16)": (Stage.TABLES, False, False),
        "tables(prune_rows 0.5)": (Stage.TABLES, False, False),
        "tables(int8, in training)": (Stage.TABLES, True, False),
        "tables(int4, in training)": (Stage.TABLES, True, False),
        "tables(hash 0.5)": (Stage.STRUCTURE, True, True),
        "tables(quotient_remainder 0.6)": (Stage.STRUCTURE, True, True),
        "tables(mixed_dimension 3 blocks 0.9)": (Stage.STRUCTURE, True, False),
        "tables(tensor_train rank 1)": (Stage.STRUCTURE, True, False),
    }
    assert compress_embeddings("prune_rows", min_count=5).label == "tables(prune_rows below 5)"
    assert chain(compress_embeddings("hash"), quantize()).from_scratch
    assert not chain(compress_embeddings("int8"), quantize()).from_scratch
    assert {t.support(platform) for t in AFTER for platform in ("cpu", "cuda", "tpu")} == {"native"}
    assert json.loads(json.dumps(THROUGH[2].to_json()))["method"] == "hash"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "int2"}, "unknown CompressEmbeddings.method 'int2'; valid: .*did you mean 'int4'|'int8'"),
        ({"method": "int8", "ratios": 0.5}, "unknown CompressEmbeddings key 'ratios'.*did you mean 'ratio'"),
        ({"method": "int8", "ratio": 0.5}, "ratio=0.5 is no option of int8; it is one of hash, quotient_remainder"),
        ({"method": "hash", "through_training": True}, "through_training=True is no option of hash"),
        ({"method": "hash", "ratio": 1.0}, r"ratio is 1.0; allowed: \(0, 1\)"),
        ({"method": "quotient_remainder", "ratio": 0}, r"ratio is 0; allowed: \(0, 1\)"),
        ({"method": "mixed_dimension", "blocks": 1}, "blocks is 1; allowed: >= 2"),
        ({"method": "mixed_dimension", "alpha": 0.0}, r"alpha is 0.0; allowed: \(0, 1\]"),
        ({"method": "tensor_train", "rank": 0}, "rank is 0; allowed: >= 1"),
        ({"method": "hash", "min_rows": 0}, "min_rows is 0; allowed: >= 1"),
        ({"method": "prune_rows"}, r"min_count=0, share=0'; allowed: one of min_count >= 1 and share in \(0, 1\)"),
        ({"method": "prune_rows", "min_count": 2, "share": 0.1}, "min_count=2, share=0.1'; allowed: one of"),
        ({"method": "prune_rows", "min_count": -1}, "min_count is -1; allowed: >= 0"),
        ({"method": "prune_rows", "share": 1.0}, r"share is 1.0; allowed: \[0, 1\)"),
        ({"method": "int8", "tables": ("(",)}, r"table '\(' is no regular expression"),
        ({"method": "int8", "tables": ()}, r"tables is \(\); allowed: patterns"),
    ],
)
def test_malformed_options_are_refused_in_one_line(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as error:
        CompressEmbeddings(**options)
    assert "\n" not in str(error.value)


def start(transform: Any, model_config: Any, params: Any, counts: Any = nothing_counted) -> Any:
    return transform.start(model_config, params, 0, counts)


def test_models_and_tables_that_cannot_be_compressed_are_refused_by_name(dlrm_params: Any):
    params = {"users": {"table": jnp.ones((8, 4))}, "items": {"table": jnp.ones((9, 4))}}
    with pytest.raises(UserError, match="'item' matches no table of BPRConfig; its tables: users, items"):
        start(compress_embeddings("int8", tables=("users", "item")), BPRConfig(), params)
    with pytest.raises(
        UserError, match=r"tables\(int8\) has nothing to compress in BPRConfig: it has no embedding table"
    ):
        start(compress_embeddings("int8"), BPRConfig(), {"bias": {"table": jnp.ones((4, 1))}})
    with pytest.raises(UserError, match=r"nothing to compress.*users: 8 rows are fewer than min_rows, 100; items: 9"):
        start(compress_embeddings("hash"), BPRConfig(), params)
    with pytest.raises(UserError, match=r"nothing to compress.*users: 8 rows need a ratio of 0.707 or more"):
        start(compress_embeddings("quotient_remainder", ratio=0.5, min_rows=1), BPRConfig(), params)
    with pytest.raises(UserError, match="needs gradients, and IALSConfig is solved; use int8 or int4 after training"):
        start(compress_embeddings("hash", min_rows=1), IALSConfig(), params)
    unseen = {path: np.zeros(8, np.int32) for path in params}
    with pytest.raises(UserError, match="popular, and the training loss looks none of them up by id"):
        start(compress_embeddings("mixed_dimension", min_rows=1), BPRConfig(), params, lambda: unseen)


def test_values_beyond_a_types_range_are_refused():
    with pytest.raises(UserError, match="table items has a value of 70000 and float16 holds up to 65504"):
        table_rounding.narrower_float(jnp.full((2, 2), 70_000.0), "float16", "items")
    with pytest.raises(UserError, match="table items has a value of 300; rows rounded in training hold up to 255"):
        table_rounding.integers_as_trained(jnp.full((2, 2), 300.0), 8, "items")


def test_forms_that_would_be_larger_are_not_made():
    params = {"users": {"table": jnp.ones((8, 4))}}
    started = start(compress_embeddings("tensor_train", rank=16, min_rows=1), BPRConfig(), params)
    assert started["users"]["table"] is params["users"]["table"]
