"""The check of tuning against hand-made variants: what it reads, whom it lets take part, and its table."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from assertions import REPOSITORY, assert_help_is_light, assert_one_line

from benchmarks.tune_check import HAND_MADE, main
from benchmarks.tune_check_contest import CONTEST, mix_of
from benchmarks.tune_check_page import contest_table
from benchmarks.tune_check_screen import case_of, read_screened, stored_retained
from recjax.errors import UserError
from recjax.serving.deployment import DeployedLimits, DeployedServing, Deployment
from recjax.transforms import chain, quantize

STORED = REPOSITORY / "benchmarks" / "results" / "tune"


@pytest.fixture
def deployment() -> Deployment:
    return Deployment(
        name="dlrm_dcnv2",
        config="dlrm_dcnv2.py",
        overrides=("model.top_mlp=1024,1024,512", "serving.buckets=1,64,1024"),
        model="models/x",
        transform=chain(quantize()),
        serving=DeployedServing(buckets=(64, 128), max_batch=128),
        limits=DeployedLimits(p99_ms=60.0, quality_floor=0.99, queries="64 a query, uniform rows"),
        platform="cpu",
        measured={},
        environment={},
        folder=REPOSITORY / "configs" / "ml_100k",
    )


def test_help_is_light() -> None:
    assert_help_is_light("benchmarks.tune_check", "--step")


def test_the_case_is_that_of_the_very_same_experiment(deployment: Deployment) -> None:
    case = case_of(deployment)
    assert (case.experiment.name, case.experiment.model.top_mlp) == ("dlrm_dcnv2", (1024, 1024, 512))
    with pytest.raises(UserError, match="no case of the experiment of dlrm_dcnv2"):
        case_of(dataclasses.replace(deployment, overrides=()))


def test_stored_qualities_are_found_by_variant(deployment: Deployment) -> None:
    experiment = case_of(deployment).experiment
    retained = stored_retained(REPOSITORY / HAND_MADE, experiment)
    assert retained["fp32"] == 1.0
    assert {variant.label for variant in case_of(deployment).variants} == set(retained) - {"null"}
    with pytest.raises(UserError, match=r"make it with python -m benchmarks\.run"):
        stored_retained(Path("nowhere.jsonl"), experiment)
    with pytest.raises(UserError, match="has no row of other"):
        stored_retained(REPOSITORY / HAND_MADE, dataclasses.replace(experiment, name="other"))


def test_the_queries_are_those_of_the_tuning(deployment: Deployment) -> None:
    assert mix_of(deployment).mean_samples == 64
    words = "100 to 700 a query (DLRMv2's quantiles), uniform rows"
    mixed = dataclasses.replace(deployment, limits=dataclasses.replace(deployment.limits, queries=words))
    assert mix_of(mixed).in_words() == words


def row(role: str, rate: float, **more: Any) -> dict[str, Any]:
    figure = {"value": rate, "low": 0.9 * rate, "high": 1.1 * rate}
    ratio = {"value": rate / 1000, "low": None, "high": None}
    rates = {"samples_per_s": figure, "over_best_by_hand": ratio, "over_fp32": ratio}
    quality = {"metric": "auc", "test_share": 0.9987, "test_share_ci95": [0.9951, 1.0023]}
    return {
        "role": role,
        "label": "int8",
        "buckets": [1, 64],
        "p99_limit_ms": 60.0,
        "is_best_by_hand": {"server": role == "hand-made", "closed_loop": False},
        "quality": quality,
        "server": rates | {"confirmed": [True, True, False]},
        "closed_loop": rates,
        "fault": None,
        **more,
    }


def test_the_table_is_sorted_by_the_servers_rate(tmp_path: Path) -> None:
    rows = [row("hand-made", 1000.0), row("tuned", 2500.0, fault="answers differ")]
    (tmp_path / CONTEST).write_text("\n".join(json.dumps(one) for one in rows) + "\n")
    _, _, first, second = contest_table(tmp_path).splitlines()
    assert first == (
        "| tuned | int8 | 1 64 | 2,500 [2,250, 2,750] (2 of 3 confirmed); answers differ | 2.50 | 2,500 [2,250, 2,750] "
        "| 2.50 | 0.9987 [0.9951, 1.0023] |"
    )
    assert second.startswith("| hand-made, the best | int8 | 1 64 | 1,000 [900, 1,100]")


def test_rows_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deployment.toml", "--step=show", f"--out={tmp_path}"]) == 2
    assert_one_line(capsys.readouterr().err, "--step=measure first")
    with pytest.raises(UserError, match="--step=prepare first"):
        read_screened(tmp_path)


def test_the_page_has_the_stored_tables() -> None:
    page = (REPOSITORY / "docs" / "tune.md").read_text(encoding="utf-8")
    assert contest_table(STORED) in page
    assert contest_table(STORED / "first-15m") in page
