"""One real run of a tiny suite through `run_suite`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import measure, measuring
from benchmarks.prepare import prepare_case
from benchmarks.results import Row, check_row, read_row_samples, read_rows
from benchmarks.runner import run_suite
from benchmarks.suite import Case, Measurement, Suite
from recjax.config import Experiment, Serving
from recjax.errors import UserError
from recjax.hardware import ceilings
from recjax.load import rate_search
from recjax.transforms.precision import bf16
from recjax.transforms.protocol import chain
from recjax.transforms.prune import prune
from recjax.transforms.quantize import quantize
from recjax.transforms.shrink import shrink
from recjax.transforms.support import dot_support

BUCKETS = (1, 8, 16)
# Masks are updated at every step: a run this short would never reach the tenth.
FULL_CHAIN = chain(prune(0.5, update_every=1), shrink(finetune_epochs=1, multiple_of=1), quantize())
MASKED = FULL_CHAIN.only_masked()
SCENARIOS = [("single_stream", 1), ("multi_stream", 8), ("offline", 16), ("server", 16)]


@pytest.fixture(scope="module")
def tiny_suite(sasrec_experiment: Experiment) -> Suite:
    experiment = dataclasses.replace(
        sasrec_experiment,
        training=dataclasses.replace(sasrec_experiment.training, epochs=2),
        finetuning=dataclasses.replace(sasrec_experiment.finetuning, epochs=2),
        serving=Serving(buckets=BUCKETS, slo_ms=200.0, top_k=5),
    )
    return Suite(
        name="tiny",
        description="three variants of a tiny SASRec",
        cases=(Case(experiment=experiment, variants=(chain(), MASKED, FULL_CHAIN)),),
        measurement=Measurement(
            processes=2,
            rounds=3,
            window_s=0.01,
            min_queries=5,
            probe_s=0.01,
            search_steps=1,
            curve=(0.5,),
            train_window_s=0.01,
            seed=0,
        ),
    )


@pytest.fixture(scope="module")
def small_ceilings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ceilings.MATRIX_SIZE, "cpu", 64)
        patch.setitem(ceilings.PASS_BYTES, "cpu", 1 << 16)
        for module in (measure, rate_search):
            patch.setattr(module, "MIN_PROBE_QUERIES", 460)  # of which early stopping lets none exceed the limit
            patch.setattr(module, "MIN_CONFIRMING_QUERIES", 460)
        yield


@pytest.fixture(scope="module")
def run_folder(tiny_suite: Suite, small_ceilings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert run_suite(tiny_suite, jax.devices("cpu")[0], folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(run_folder: Path) -> list[Row]:
    return read_rows(run_folder / "results.jsonl")


def test_more_items_to_return_than_there_are_is_refused_before_training(
    sasrec_experiment: Experiment, tmp_path: Path
) -> None:
    case = Case(experiment=dataclasses.replace(sasrec_experiment, serving=Serving(top_k=100)))
    with pytest.raises(UserError, match=r"serving.top_k is 100; allowed: at most the 24 items of tiny"):
        prepare_case(case, tmp_path)


def of_variant(rows: list[Row], variant: str) -> list[Row]:
    return [row for row in rows if row.variant == variant]


def test_every_variant_and_the_null_model_have_every_scenario(rows: list[Row]) -> None:
    for variant in ("fp32", MASKED.label, FULL_CHAIN.label, "null"):
        assert [(row.scenario, row.batch_size) for row in of_variant(rows, variant)] == SCENARIOS
    assert len(rows) == 4 * len(SCENARIOS)


def test_every_row_is_complete_and_of_one_run(rows: list[Row]) -> None:
    for row in rows:
        check_row(row)
        assert row.device["platform"] == "cpu"
        assert (row.suite, row.case) == ("tiny", f"tiny_sasrec/{row.variant}")
        assert row.estimated is False
    assert len({row.run_id for row in rows}) == 1


def test_nothing_was_compiled_inside_a_window(rows: list[Row]) -> None:
    assert {row.recompiles_in_window for row in rows} == {0}
    assert min(row.compile_s for row in rows) > 0


def test_rows_of_closed_loops_count_what_was_answered(rows: list[Row]) -> None:
    for row in rows:
        assert row.load is not None
        assert 0 < row.load["position_padding"] < 1  # histories of 3 to 6 items, each padded to 6
        if row.scenario == "server":
            continue
        assert row.latency_ms["n"] >= 2 * 3 * 5  # processes x rounds x min_queries
        assert row.padding_waste == 0  # each query fills a bucket
        ratio = row.throughput_samples_per_s / row.throughput_queries_per_s
        assert ratio == pytest.approx(row.batch_size)
        assert row.valid
        assert row.reasons["target_qps"] == "only the server scenario has a latency limit"


def test_server_rows_hold_the_limit_or_say_that_they_do_not(rows: list[Row]) -> None:
    for row in (row for row in rows if row.scenario == "server"):
        assert row.slo_ms == 200.0
        assert row.target_qps is not None
        assert row.target_qps > 0
        assert (row.search is None) == (row.variant == "null")
        assert not row.valid or row.latency_ms["p99"] <= 200
        if row.search:
            held = row.search["confirmed"]
            assert (row.search["confirmations"] == 3) or not held
            assert len(row.search["rates_qps"]) == row.processes == 2
            assert row.target_qps == min(row.search["rates_qps"])
            first = row.search["rates_qps"][0]
            assert [point["rate_qps"] for point in row.search["curve"]] == [pytest.approx(first / 2)]
        assert row.load is not None
        assert row.load["loop"] == "open, from a process of its own"


def test_speedups_are_over_fp32_in_the_same_rounds(rows: list[Row]) -> None:
    for row in rows:
        if row.scenario == "server" or row.variant == "null":
            assert row.speedup is None
        elif row.variant == "fp32":
            assert row.speedup == {"median": 1.0, "range": [1.0, 1.0], "rounds": 6, "ci95": [1.0, 1.0]}
        else:
            assert row.speedup is not None
            assert row.speedup["rounds"] == 6
            assert row.speedup["range"][0] <= row.speedup["median"] <= row.speedup["range"][1]


def test_masked_and_realised_speed_stand_apart(rows: list[Row]) -> None:
    variants = (of_variant(rows, variant) for variant in ("fp32", MASKED.label, FULL_CHAIN.label))
    for plain, masked, removed in zip(*variants, strict=True):
        if plain.scenario == "server":
            continue
        assert plain.masked_speedup is plain.realised_speedup is None
        assert masked.masked_speedup == masked.speedup
        assert masked.realised_speedup is None
        assert "nothing in the chain removes" in masked.reasons["realised_speedup"]
        assert removed.masked_speedup == masked.speedup
        assert removed.realised_speedup == removed.speedup
        assert (plain.masked_share, plain.realised_share) == (0, 0)
        assert masked.masked_share is not None
        assert removed.realised_share is not None
        assert masked.masked_share > 0.1
        assert masked.realised_share == 0
        assert removed.masked_share is not None
        rounded = 0.01  # a few weights round to the integer 0
        assert removed.masked_share < rounded
        assert removed.realised_share > masked.masked_share - rounded


def test_rows_say_how_fast_the_variant_trains(rows: list[Row]) -> None:
    plain, masked, removed = (of_variant(rows, v)[0] for v in ("fp32", MASKED.label, FULL_CHAIN.label))
    assert plain.train_speedup == {"median": 1.0, "range": [1.0, 1.0], "rounds": 20}
    assert masked.train_speedup is not None
    assert masked.train_speedup["range"][0] <= masked.train_speedup["median"] <= masked.train_speedup["range"][1]
    assert masked.train_samples_per_s is not None
    assert masked.train_samples_per_s > 0
    assert removed.train_speedup == masked.train_speedup  # what shrink does comes after training


def test_quantized_rows_show_the_products_of_their_program(rows: list[Row]) -> None:
    for row in of_variant(rows, FULL_CHAIN.label):
        assert row.products is not None
        # XLA may widen the int8 operands of a product with few rows, as it does at batch 1.
        assert {product for product in row.products if product.endswith("-> s32")}
        if row.batch_size > 1:
            assert row.products["s8 x s8 -> s32"] >= 1
    for row in of_variant(rows, "fp32"):
        assert set(row.products or ()) == {"f32 x f32 -> f32"}


def test_the_full_chain_says_what_it_did(rows: list[Row]) -> None:
    fp32, transformed = of_variant(rows, "fp32"), of_variant(rows, FULL_CHAIN.label)
    for before, after in zip(fp32, transformed, strict=True):
        assert before.support == "native"
        assert after.support == dot_support("cpu", "int8")  # the chain's masks are removed
        assert [transform["transform"] for transform in after.transforms] == ["prune", "shrink", "quantize"]
        assert before.transforms == []
        report = after.transform_report
        assert set(report) == {"prune(0.5, every 1)", "shrink(multiples of 1)", "int8"}
        assert report["int8"]["kernels"]
        for wide, narrow in report["shrink(multiples of 1)"]["widths"].values():
            assert narrow == wide // 2
        assert after.parameter_bytes < before.parameter_bytes
        assert after.dense_layer_bytes is not None
        assert before.dense_layer_bytes is not None
        assert after.dense_layer_bytes < before.dense_layer_bytes / 2
        assert after.model_config["mlp_dims"] == [width // 2 for width in before.model_config["mlp_dims"]]


def test_rows_of_the_null_model_have_figures_of_the_harness_alone(rows: list[Row]) -> None:
    for row in of_variant(rows, "null"):
        assert (row.model, row.parameter_bytes, row.quality, row.speedup) == ("null", 0, None, None)
        assert row.reasons["quality"] == "the null model has none: it is the floor of the harness"
        assert row.throughput_samples_per_s > 0


def test_quality_stands_beside_its_protocol_and_references(rows: list[Row]) -> None:
    for row in (row for row in rows if row.variant != "null"):
        assert row.protocol is not None
        assert row.protocol.endswith("/test")
        assert row.quality is not None
        assert row.quality_metric == "ndcg@10"
        assert set(row.quality_reference or {}) == {"random", "popularity"}
        fp32 = of_variant(rows, "fp32")[0].quality
        assert fp32 is not None
        assert row.quality_retained == pytest.approx(row.quality["ndcg@10"] / fp32["ndcg@10"])


def test_roofline_figures_follow_from_the_row(rows: list[Row]) -> None:
    for row in rows:
        if row.variant == "null" or row.scenario == "server":
            assert row.bound_by is None
            assert "bound_by" in row.reasons
            continue
        assert row.mfu is None
        assert row.reasons["mfu"] == "cpu is unknown: recjax/hardware/facts.toml has no published peak of it"
        limits = row.environment["ceilings"]
        dtype = "int8" if row.variant == FULL_CHAIN.label else "float32"
        assert row.flops_per_sample is not None
        assert row.bytes_per_sample is not None
        compute_s = row.flops_per_sample / limits["flops_per_s"][dtype]
        memory_s = row.bytes_per_sample / limits["bytes_per_s"]
        share = max(compute_s, memory_s) * row.throughput_samples_per_s
        if share > 1:  # bytes that come from caches; whether a tiny model's do depends on the machine's mood
            assert row.achieved_fraction_of_roofline is None
            assert row.bound_by == ("compute" if compute_s >= memory_s else None)
            why = "of the product rate" if compute_s >= memory_s else "by XLA's count of bytes"
            assert row.reasons["achieved_fraction_of_roofline"].startswith(f"{share:.1f} {why}")
            continue
        assert row.bound_by == ("compute" if compute_s >= memory_s else "memory")
        assert row.achieved_fraction_of_roofline == pytest.approx(share)


def test_every_latency_sample_is_kept(rows: list[Row], run_folder: Path) -> None:
    samples = read_row_samples(run_folder / "samples.npz")
    assert set(samples) == {f"{row.case}/{row.scenario}/{row.batch_size}" for row in rows}
    for row in rows:
        of_row = samples[f"{row.case}/{row.scenario}/{row.batch_size}"]
        assert len(of_row.latency_ms) == row.latency_ms["n"]
        assert of_row.latency_ms.max() == pytest.approx(row.latency_ms["max"], rel=1e-6)
        if row.scenario != "server":
            assert of_row.processes == [0, 0, 0, 1, 1, 1]


def test_the_parts_of_a_latency_add_up_to_its_mean(rows: list[Row]) -> None:
    for row in rows:
        assert row.time_split_ms is not None
        assert sum(row.time_split_ms.values()) == pytest.approx(row.latency_ms["mean"])
        assert row.tail_split_ms is not None
        assert row.tail_split_ms.keys() == row.time_split_ms.keys()
        assert row.latency_ms["mean"] <= sum(row.tail_split_ms.values()) <= 1.001 * row.latency_ms["max"]
        assert ("queue" in row.time_split_ms) == (row.scenario == "server")


def test_rows_say_what_was_checked(rows: list[Row]) -> None:
    for row in rows:
        assert row.processes == 2
        assert row.outliers is not None
        assert row.host is not None
        assert row.host["watched_s"] > 0
        assert row.peak_host_bytes is not None
        assert row.peak_host_bytes > 50_000_000
        assert row.compile_cached_s is not None
        if row.scenario != "server":
            assert row.memory_growth is not None
        assert (row.answer_caching is None) == (row.scenario != "single_stream")
        assert row.energy_j_per_1k_samples is not None or "RAPL" in row.reasons["energy_j_per_1k_samples"]


def test_the_run_leaves_a_report_and_the_models(rows: list[Row], run_folder: Path) -> None:
    assert FULL_CHAIN.label in (run_folder / "report.md").read_text()
    assert FULL_CHAIN.label in (run_folder / "report.html").read_text()
    models = sorted(path.name for path in (run_folder / "models" / "tiny_sasrec").iterdir() if path.is_dir())
    assert models == sorted(variant.replace(" ", "") for variant in ("fp32", MASKED.label, FULL_CHAIN.label))
    for row in (row for row in rows if row.variant != "null"):
        files = (run_folder / "models" / "tiny_sasrec" / row.variant.replace(" ", "")).rglob("*")
        assert row.checkpoint_bytes == sum(path.stat().st_size for path in files if path.is_file())


def test_the_environment_says_what_the_figures_depend_on(rows: list[Row]) -> None:
    environment = rows[0].environment
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["seed"] == 0
    assert set(environment["ceilings"]["flops_per_s"]) == {"float32", "bfloat16", "int8"}
    json.dumps(environment, allow_nan=False)


@pytest.fixture(scope="module")
def interrupted_folder(tiny_suite: Suite, small_ceilings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run under an impossible floor, interrupted in its first server window."""

    def interrupt(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("interrupted")
    cases = tuple(
        dataclasses.replace(case, variants=(chain(), chain(bf16())), validation_floor=1.0) for case in tiny_suite.cases
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure.LoadGenerator, "measure", interrupt)
        assert run_suite(dataclasses.replace(tiny_suite, cases=cases), jax.devices("cpu")[0], folder) == 130
    return folder


def test_an_interrupted_run_keeps_its_finished_rows_and_its_report(interrupted_folder: Path) -> None:
    kept = read_rows(interrupted_folder / "results.jsonl")
    assert [row.scenario for row in kept] == [scenario for scenario, _ in SCENARIOS[:3] for _ in range(3)]
    for row in kept:
        check_row(row)
    assert "ndcg@10" in (interrupted_folder / "report.md").read_text()
    assert (interrupted_folder / "report.html").is_file()
    assert len(read_row_samples(interrupted_folder / "samples.npz")) == len(kept)
    assert {row.processes for row in kept} == {1}


def test_rows_below_the_floor_are_invalid_and_say_so(interrupted_folder: Path) -> None:
    for row in read_rows(interrupted_folder / "results.jsonl"):
        if row.variant == "null":
            assert row.valid
            continue
        assert not row.valid
        reached = f"{row.validation_quality:.4f}"
        assert row.invalid_reason == f"validation ndcg@10 {reached} is below the case's floor, 1"


QUALITY = ("quality", "quality_reference", "validation_quality", "quality_retained", "transform_report")


def test_the_same_seed_gives_the_same_quality_bit_for_bit(rows: list[Row], interrupted_folder: Path) -> None:
    first, again = of_variant(rows, "fp32"), of_variant(read_rows(interrupted_folder / "results.jsonl"), "fp32")
    for name in QUALITY:
        assert getattr(again[0], name) == getattr(first[0], name), name


@pytest.mark.slow
def test_the_same_seed_prepares_the_same_variants_bit_for_bit(tiny_suite: Suite, tmp_path: Path) -> None:
    first, again = (prepare_case(tiny_suite.cases[0], tmp_path / name) for name in ("first", "again"))
    for one, other in zip(first.variants, again.variants, strict=True):
        for name in (*QUALITY, "parameter_bytes", "model_config"):
            assert other.row[name] == one.row[name], f"{one.label}: {name}"


def test_an_interruption_before_the_first_row_leaves_no_report(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure_ceilings", interrupt)
    assert run_suite(tiny_suite, jax.devices("cpu")[0], tmp_path) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "results.jsonl", "run.json"]
    assert read_rows(tmp_path / "results.jsonl") == []
