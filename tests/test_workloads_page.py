"""docs/workloads.md has the sizes and the counts that the two MLPerf-like workloads have."""

import dataclasses
import re
from pathlib import Path

import jax
import pytest

from benchmarks.suite import load_suite
from configs import dlrm_v2_like, dlrm_v3_like
from recjax.config import Experiment
from recjax.data.candidates import SyntheticDLRMv3
from recjax.data.synthetic_dlrm import BAG_LENGTHS, DLRMv2Options, SyntheticDLRMv2
from recjax.hardware.product_flops import product_flops
from recjax.training.pipeline import load_data, one_batch
from recjax.training.step import init_params

PAGE = " ".join((Path(__file__).parent.parent / "docs" / "workloads.md").read_text(encoding="utf-8").split())


def flops_of_a_sample(experiment: Experiment) -> float:
    """Returns the operations of a sample's products, counted from shapes; a multiply-add counts two."""
    data = load_data(experiment)
    module = experiment.model.build(data.schema)
    params = jax.eval_shape(lambda: init_params(module, one_batch(data, 1), 0))
    request = {name: jax.ShapeDtypeStruct((1, *c.shape[1:]), c.dtype) for name, c in data.serving_samples().items()}
    serve = jax.jit(lambda params, batch: module.apply({"params": params}, batch, top_k=1, method="serve"))
    return sum(product_flops(serve.trace(params, request), 1).values())


def with_history(n: int) -> Experiment:
    experiment = dlrm_v3_like.get_config()
    return dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, max_history=n))


def test_flops_of_dlrm_v2():
    flops = flops_of_a_sample(dlrm_v2_like.get_config())
    # Multiply-adds: bottom MLP, three cross layers of rank 512, top MLP; 27 vectors of 128.
    width = 27 * 128
    bottom, cross = 13 * 512 + 512 * 256 + 256 * 128, 3 * 2 * width * 512
    top = width * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    assert flops == 2 * (bottom + cross + top)
    assert f"{flops / 1e6:.1f} MFLOP" in PAGE


@pytest.mark.parametrize("history", [256, 6_715, 8_192])
def test_flops_of_dlrm_v3(history: int):
    flops = flops_of_a_sample(with_history(history))
    T = 1 + history
    S, D = T + 2_048, 512
    layers = 5 * (S * 7 * D * D + 2 * S * T * D)
    assert layers == pytest.approx(flops / 2, rel=0.15)  # the rest are MLPs of the items
    (row,) = re.findall(rf"\| {history:,} \|.*?\| ([0-9.,]+) \|", PAGE)
    assert float(row.replace(",", "")) == pytest.approx(flops / 1e9, abs=0.05 if flops < 1e11 else 0.5)


def test_sizes_of_dlrm_v2():
    data = load_data(dlrm_v2_like.get_config())
    assert isinstance(data, SyntheticDLRMv2)
    full = SyntheticDLRMv2(DLRMv2Options()).schema.fields
    rows, all_rows = (sum(field.vocab_size for field in fields) for fields in (data.schema.fields, full))
    assert f"{rows:,} rows" in PAGE
    assert f"{all_rows:,} rows" in PAGE
    assert [field.length for field in data.schema.fields] == list(BAG_LENGTHS)
    assert f"{sum(BAG_LENGTHS)} ids a sample" in PAGE


def test_sizes_of_dlrm_v3():
    data = load_data(dlrm_v3_like.get_config())
    assert isinstance(data, SyntheticDLRMv3)
    lengths = data.serving_samples()["lengths"]
    assert f"{lengths.min()} to {lengths.max()} items, {lengths.mean():.0f} on average" in PAGE
    assert (data.schema.n_items, data.schema.n_users) == (100_000, 500)


@pytest.mark.parametrize(("name", "limit_ms"), [("dlrm_v2_like", 60.0), ("dlrm_v3_like", 80.0)])
def test_suites_say_what_they_are(name: str, limit_ms: float):
    suite = load_suite(name, [])
    (case,) = suite.cases
    assert case.experiment.serving.slo_ms == limit_ms
    assert f"p99 of {limit_ms:g} ms" in PAGE
    assert "MLPerf-like" in suite.description
    assert case.variants[0].label == "fp32"
    for variant in case.variants:
        assert f"`{variant.label}`" in PAGE
