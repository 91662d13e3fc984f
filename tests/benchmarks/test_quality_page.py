"""The page from rows made by hand: every figure and verdict of a line is computed beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from config_files import write_config

from benchmarks import quality_page, references
from benchmarks.hyperparameter_search import Trial, digest, reseeded
from benchmarks.quality_page import render, write_page
from benchmarks.quality_rows import QualityRow
from benchmarks.references import REFERENCES, Reference
from recjax.config_files import load_config
from recjax.errors import UserError

RANKED = "full_catalogue/seen_items_removed/ties_against_the_target"
TOP_N = f"ml-100k/1-core/random_by_user_8:1:1/seed=0/{RANKED}/test"
NEXT_ITEM = f"ml-100k/1-core/leave_last_one_out/{RANKED}/max_history=50/test"
LABELLED = "ml-100k/1-core/random_8:1:1/seed=0/label=rating>=4/no_time_features/test"
RATING = "ml-100k/1-core/random_8.55:0.45:1/seed=0/clipped_to_the_scale/test"
RATING_80_20 = "ml-100k/1-core/random_7.2:0.8:2/seed=0/clipped_to_the_scale/test"
COMMIT = "0123456789abcdef"
REPOSITORY = Path(__file__).parents[2]


def row(experiment: str, quality: dict[str, float], seed: int = 0, **changes: Any) -> QualityRow:
    protocol = changes.get("protocol", TOP_N).replace("seed=0", f"seed={seed}")
    sanity = {"random": dict.fromkeys(quality, 0.01), "popularity": dict.fromkeys(quality, 0.1)}
    values: dict[str, Any] = {
        "experiment": experiment,
        "config": f"gone/{experiment}.py",
        "overrides": [],
        "identity": f"{experiment} {seed}",
        "seed": seed,
        "metric": next(iter(quality)),
        "validation": 0.3,
        "epoch": 5,
        "epochs": 10,
        "n": 943,
        "quality": quality,
        "sanity": sanity,
        "parameter_bytes": 4,
        "train_s": 10.0 * (seed + 1),
        "environment": {"device": "a CPU", "versions": {"jax": "0.12"}, "git": {"commit": COMMIT, "modified": False}},
    }
    return QualityRow(**(values | changes | {"protocol": protocol}))


def trial(experiment: str, validation: float | None, overrides: dict[str, Any], **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "experiment": experiment,
        "identity": f"{experiment} {overrides}",
        "overrides": overrides,
        "seed": 100,
        "metric": "ndcg@10",
        "validation": validation,
        "epoch": None if validation is None else 3,
        "train_s": 1.0,
    }
    return Trial(**(values | changes))


def page(*rows: QualityRow, trials: tuple[Trial, ...] = ()) -> str:
    return render(rows, trials, "make the page", Path("the/rows"))


def section(text: str, heading: str) -> str:
    """Returns what stands under the heading."""
    _, found, after = text.partition(f"\n{heading}\n")
    assert found, f"no {heading!r} in the page"
    return after.partition("\n## ")[0]


def lines(text: str, heading: str, first: str) -> list[str]:
    """Returns the table lines under the heading whose first cell is `first`."""
    return [line for line in section(text, heading).splitlines() if line.startswith(f"| {first} |")]


@pytest.fixture
def one_reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that makes a model `m` have that one reference."""

    def set_reference(protocol: str = "random_8_1_1/full", **values: Any) -> None:
        reference = Reference(**({"source": "S", "protocol": protocol} | values))
        for module in (references, quality_page):
            monkeypatch.setattr(module, "REFERENCES", {"m": (reference,)})

    return set_reference


@pytest.mark.parametrize(
    ("values", "figures"),
    [
        # Floor .98 x .3 = .294; (.3 + .312) / 2 = .306, 2% more; deviation .012 / sqrt 2 = .0085.
        ((0.300, 0.312), "0.3060 ±0.0085 | 0.3000 | +2.0% | 0.2940 | better"),
        ((0.3,), "0.3000 | 0.3000 | +0.0% | 0.2940 | reaches"),
        ((0.2941,), "0.2941 | 0.3000 | -2.0% | 0.2940 | reaches"),
        ((0.2939,), "0.2939 | 0.3000 | -2.0% | 0.2940 | **short**"),
        ((0.2,), "0.2000 | 0.3000 | -33.3% | 0.2940 | **short**"),
    ],
)
def test_a_ranking_metric_against_its_reference(values: tuple[float, ...], figures: str, one_reference: Any) -> None:
    one_reference(metrics={"ndcg@10": 0.3})
    text = page(*(row("m", {"ndcg@10": value}, seed) for seed, value in enumerate(values)))
    assert lines(text, "## Against references", "m") == [f"| m | ndcg@10 | {figures} | S |"]
    assert ("m" in section(text, "## What falls short, and what was tried")) == ("short" in figures)


@pytest.mark.parametrize(
    ("value", "figures"),
    [
        # Absolute for AUC: floor .78 - .005.
        (0.7850, "0.7800 | +0.0050 | 0.7750 | better"),
        (0.7751, "0.7800 | -0.0049 | 0.7750 | reaches"),
        (0.7749, "0.7800 | -0.0051 | 0.7750 | **short**"),
    ],
)
def test_auc_has_an_absolute_difference(value: float, figures: str, one_reference: Any) -> None:
    one_reference("labelled_8_1_1", metrics={"auc": 0.78}, tolerance=0.005)
    text = page(row("m", {"auc": value}, protocol=LABELLED))
    assert lines(text, "## Against references", "m") == [f"| m | auc | {value:.4f} | {figures} | S |"]


@pytest.mark.parametrize(
    ("value", "figures"),
    [
        # A lower logloss is better: floor .56 + .005.
        (0.5500, "0.5600 | -0.0100 | 0.5650 | better"),
        (0.5649, "0.5600 | +0.0049 | 0.5650 | reaches"),
        (0.5651, "0.5600 | +0.0051 | 0.5650 | **short**"),
    ],
)
def test_logloss_is_better_lower(value: float, figures: str, one_reference: Any) -> None:
    one_reference("labelled_8_1_1", metrics={"logloss": 0.56}, tolerance=0.005)
    text = page(row("m", {"logloss": value}, protocol=LABELLED))
    assert lines(text, "## Against references", "m") == [f"| m | logloss | {value:.4f} | {figures} | S |"]


@pytest.mark.parametrize(
    ("value", "figures"),
    [
        # A lower RMSE is better: floor 1.02 x .9 = .918.
        (0.891, "0.9000 | -1.0% | 0.9180 | better (cross-check)"),
        (0.909, "0.9000 | +1.0% | 0.9180 | reaches (cross-check)"),
        (0.927, "0.9000 | +3.0% | 0.9180 | **short** (cross-check)"),
    ],
)
def test_rmse_is_better_lower_and_a_cross_check_is_named(value: float, figures: str, one_reference: Any) -> None:
    one_reference("random_80_20", metrics={"rmse": 0.9}, gates=False)
    text = page(row("m", {"rmse": value}, protocol=RATING_80_20, sanity={"biases": {"rmse": 0.95}}))
    assert lines(text, "## Against references", "m") == [f"| m | rmse | {value:.4f} | {figures} | S |"]
    assert ("cross-check: S" in section(text, "## What falls short, and what was tried")) == ("short" in figures)


def test_no_tolerance_means_that_the_reference_is_the_floor(one_reference: Any) -> None:
    one_reference("leave_one_out/full", metrics={"hr@10": 0.2, "ndcg@10": 0.107}, tolerance=0.0)
    text = page(row("m", {"hr@10": 0.2, "ndcg@10": 0.1069}, protocol=NEXT_ITEM))
    assert lines(text, "## Against references", "m") == [
        "| m | hr@10 | 0.2000 | 0.2000 | +0.0% | 0.2000 | reaches | S |",
        "| m | ndcg@10 | 0.1069 | 0.1070 | -0.1% | 0.1070 | **short** | S |",
    ]


@pytest.mark.parametrize(
    "protocol",
    [
        TOP_N.replace("ml-100k", "ml-1m"),
        TOP_N.replace("1-core", "5-core"),
        TOP_N.replace("random_by_user_8:1:1", "random_7.2:0.8:2"),
        TOP_N.replace("full_catalogue", "sampled(99)"),
        NEXT_ITEM,
    ],
)
def test_a_row_of_another_protocol_is_not_held_against_the_reference(protocol: str, one_reference: Any) -> None:
    one_reference(metrics={"ndcg@10": 0.3})
    text = page(row("m", {"ndcg@10": 0.01}, protocol=protocol))
    assert lines(text, "## Against references", "m") == []
    # It is not gated any more, so that popularity, at .1, is its bar.
    assert lines(text, "## Against simple models", "m") == [
        "| m | ndcg@10 | 0.0100 | popularity 0.1000 | 0.10 | **short** |"
    ]


def test_time_features_are_another_protocol() -> None:
    (reference,) = REFERENCES["deepfm"]
    assert reference.is_for(LABELLED)
    assert not reference.is_for(LABELLED.replace("/no_time_features", ""))


@pytest.mark.parametrize(
    ("value", "ratio", "verdict"), [(0.16, "1.60", "clears"), (0.1501, "1.50", "clears"), (0.1499, "1.50", "**short**")]
)
def test_an_unreported_model_must_have_one_and_a_half_times_popularity(value: float, ratio: str, verdict: str) -> None:
    text = page(row("lightgcn", {"ndcg@10": value}))
    assert lines(text, "## Against simple models", "lightgcn") == [
        f"| lightgcn | ndcg@10 | {value:.4f} | popularity 0.1000 | {ratio} | {verdict} |"
    ]
    short = section(text, "## What falls short, and what was tried")
    assert (f"ndcg@10 {value:.4f} where 1.5 x popularity is 0.1500" in short) == (verdict == "**short**")


def test_the_bar_is_popularity_s_mean_over_the_model_s_own_seeds() -> None:
    rows = [
        row("lightgcn", {"ndcg@10": 0.2}, seed, sanity={"popularity": {"ndcg@10": value}})
        for seed, value in enumerate((0.10, 0.14))
    ]
    # Mean .12; .2 / .12 = 1.67.
    assert lines(page(*rows), "## Against simple models", "lightgcn") == [
        "| lightgcn | ndcg@10 | 0.2000 ±0.0000 | popularity 0.1200 | 1.67 | clears |"
    ]


@pytest.mark.parametrize(("value", "verdict"), [(0.94, "clears"), (0.95, "**short**"), (0.96, "**short**")])
def test_a_rating_model_must_have_a_lower_rmse_than_biases(value: float, verdict: str) -> None:
    text = page(row("autorec_users", {"rmse": value}, protocol=RATING, sanity={"biases": {"rmse": 0.95}}))
    assert lines(text, "## Against simple models", "autorec\\_users") == [
        f"| autorec\\_users | rmse | {value:.4f} | biases 0.9500 | {value / 0.95:.2f} | {verdict} |"
    ]


def test_a_model_with_a_gating_reference_has_no_such_bar() -> None:
    quality = dict.fromkeys(("recall@10", "mrr@10", "ndcg@10", "hr@10", "precision@10"), 0.5)
    text = page(row("cdae", quality), row("popularity", quality))
    assert "cdae" not in section(text, "## Against simple models")
    assert "popularity |" not in section(text, "## Against simple models")
    assert "None of these rows is of such a model." in section(page(row("cdae", quality)), "## Against simple models")
    assert len(lines(text, "## Against references", "cdae")) == 5


@pytest.mark.parametrize(("value", "verdict"), [(0.0991, "clears"), (0.0989, "**short**")])
def test_other_sequence_models_must_have_nine_tenths_of_sasrec(value: float, verdict: str) -> None:
    # SASRec: mean of .10 and .12 is .11, nine tenths of which is .099; the other model has one seed.
    sasrec = [row("sasrec", {"hr@10": v, "ndcg@10": v}, i, protocol=NEXT_ITEM) for i, v in enumerate((0.10, 0.12))]
    text = page(*sasrec, row("bert4rec", {"hr@10": 0.2, "ndcg@10": value}, protocol=NEXT_ITEM))
    assert lines(text, "## Against simple models", "bert4rec") == [
        "| bert4rec | hr@10 | 0.2000 | sasrec 0.1100 | 1.82 | clears |",
        f"| bert4rec | ndcg@10 | {value:.4f} | sasrec 0.1100 | {value / 0.11:.2f} | {verdict} |",
        f"| bert4rec | ndcg@10 | {value:.4f} | popularity 0.1000 | {value / 0.1:.2f} | **short** |",
    ]


def test_sasrec_of_another_protocol_is_no_bar() -> None:
    quality = {"hr@10": 0.2, "ndcg@10": 0.1}
    elsewhere = NEXT_ITEM.replace("ml-100k", "ml-1m")
    text = page(row("sasrec", quality, protocol=elsewhere), row("hstu", quality, protocol=NEXT_ITEM))
    assert "| sasrec 0." not in section(text, "## Against simple models")


@pytest.mark.parametrize(("value", "verdict"), [(0.7701, "clears"), (0.7699, "**short**")])
def test_a_deep_model_of_labels_must_have_the_auc_of_logistic_regression(value: float, verdict: str) -> None:
    linear = row("logistic_regression", {"auc": 0.77, "logloss": 0.56}, protocol=LABELLED)
    text = page(linear, row("din", {"auc": value, "logloss": 0.55}, protocol=LABELLED))
    assert lines(text, "## Against simple models", "din") == [
        f"| din | auc | {value:.4f} | logistic\\_regression 0.7700 | 1.00 | {verdict} |"
    ]
    assert "Without a reference" not in text


def test_what_nothing_is_said_of_is_named() -> None:
    text = page(row("din", {"auc": 0.8}, protocol=LABELLED, sanity={"constant": {"auc": 0.5}}))
    assert "Without a reference and without a bar under their protocol: din." in text
    assert "Without a reference" not in page(row("lightgcn", {"ndcg@10": 0.3}))


def test_a_shortfall_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("lightgcn", {"ndcg@10": 0.1}), row("cke", {"ndcg@10": 0.12}), row("irgan", {"ndcg@10": 0.3})]
    monkeypatch.setattr(quality_page, "TRIED", {"cke": "Seen: `docs/log.md`."})
    assert section(page(*rows), "## What falls short, and what was tried").strip().splitlines() == [
        "- **lightgcn**: ndcg@10 0.1000 where 1.5 x popularity is 0.1500. Nothing is written down of what was tried.",
        "- **cke**: ndcg@10 0.1200 where 1.5 x popularity is 0.1500. Seen: `docs/log.md`.",
    ]
    assert section(page(rows[2]), "## What falls short, and what was tried").strip() == "Nothing."


def test_a_table_for_each_protocol_whatever_the_seed_of_its_split() -> None:
    text = page(
        row("lightgcn", {"ndcg@10": 0.2, "ndcg@10/gap(gender)": 0.1, "ndcg@5": 0.1, "coverage@10": 0.5}),
        *(row("cke", {"ndcg@10": 0.2 + seed / 10, "ndcg@5": 0.1, "coverage@10": 0.5}, seed) for seed in range(3)),
        row("gru4rec", {"hr@10": 0.2, "ndcg@10": 0.1}, protocol=NEXT_ITEM),
    )
    everything = section(text, "## Everything")
    assert [line for line in everything.splitlines() if line.startswith("### ")] == [
        "### ml-100k/1-core/random\\_by\\_user\\_8:1:1/full\\_catalogue/seen\\_items\\_removed/"
        "ties\\_against\\_the\\_target/test",
        "### ml-100k/1-core/leave\\_last\\_one\\_out/full\\_catalogue/seen\\_items\\_removed/"
        "ties\\_against\\_the\\_target/max\\_history=50/test",
    ]
    # Means .2, .3, .4; deviation .1; the middle of 10, 20 and 30 s. Simple models are those of the three seeds.
    for line in (
        "| model | seeds | ndcg@10 | coverage@10 | train s |",
        "| (popularity) | 3 | 0.1000 | 0.1000 |  |",
        "| lightgcn | 1 | 0.2000 | 0.5000 | 10 |",
        "| cke | 3 | 0.3000 ±0.1000 | 0.5000 ±0.0000 | 20 |",
        "| gru4rec | 1 | 0.2000 | 0.1000 | 10 |",
    ):
        assert line in everything.splitlines()
    assert "1 or 3 of each model" in " ".join(text.split())


def test_the_metric_that_chose_the_epoch_is_always_shown() -> None:
    quality = {"ndcg@100": 0.4, "recall@20": 0.3, "coverage@10": 0.5, "ndcg@100/gap(age)": 0.1}
    text = page(row("mult_vae", quality, protocol=TOP_N.replace("random_by_user", "strong_generalisation")))
    assert "| model | seeds | ndcg@100 | recall@20 | coverage@10 | train s |" in text


def test_tuning_says_how_many_trials_and_what_won(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, "data.csv"))  # l2 = .1, learning rate .01
    rows = [row(name, {"ndcg@10": 0.3}, config=config) for name in ("lightgcn", "cke", "irgan", "two_tower")]
    trials = (
        trial("lightgcn", 0.20, {}),
        trial("lightgcn", None, {"training.learning_rate": 1.0}),
        trial("lightgcn", 0.25, {"model.l2": 0.1, "training.learning_rate": 0.01}),
        trial("cke", 0.20, {}, metric="rmse"),
        trial("cke", 0.19, {"model.l2": 0.5}, metric="rmse"),
        trial("irgan", 0.20, {}, identity=digest(reseeded(load_config(config), 100))),
        trial("irgan", 0.10, {"model.l2": 0.5}),
        trial("irgan", 0.20, {}, seed=0),
        trial("of_no_row", 0.20, {}),
    )
    text = page(*rows, trials=trials)
    assert [line for line in section(text, "## Tuning").splitlines() if line.startswith("| ")][2:] == [
        "| cke | 2 | 100 | rmse | 0.2000 | 0.1900 | model.l2=0.5 | no |",
        "| irgan | 1 | 0 | ndcg@10 | 0.2000 | 0.2000 | the config as it stands | – |",
        "| irgan | 2 | 100 | ndcg@10 | 0.2000 | 0.2000 | the config as it stands | yes |",
        "| lightgcn | 3 (1 diverged) | 100 | ndcg@10 | 0.2000 | 0.2500 | model.l2=0.1, training.learning\\_rate=0.01 "
        "| yes |",
    ]
    assert "No trials are stored of: two\\_tower." in text
    assert "Tuned under a seed that is measured here too: irgan." in text
    assert "of\\_no\\_row" not in text


def test_whether_a_config_that_is_gone_took_the_settings_cannot_be_told() -> None:
    text = page(row("lightgcn", {"ndcg@10": 0.3}), trials=(trial("lightgcn", 0.2, {"model.l2": 0.5}),))
    assert lines(text, "## Tuning", "lightgcn")[0].endswith("| model.l2=0.5 | – |")


def test_without_trials_the_page_says_so() -> None:
    text = page(row("lightgcn", {"ndcg@10": 0.3}))
    assert "No trials are stored of: lightgcn." in text
    assert "measured here too" not in text


def test_the_page_says_where_its_figures_were_had() -> None:
    changed = {"device": "a GPU", "versions": {"jax": "0.13"}, "git": {"commit": None, "modified": True}}
    text = page(row("cke", {"ndcg@10": 0.3}), row("cke", {"ndcg@10": 0.3}, 1, environment=changed))
    assert section(text, "## Where").strip().splitlines() == [
        "- Devices: a CPU, a GPU",
        "- JAX: 0.12, 0.13",
        "- Commits: 0123456789, unknown with uncommitted changes",
    ]


def test_two_settings_of_one_seed_have_no_mean() -> None:
    same = row("cke", {"ndcg@10": 0.3})
    assert "| cke | 1 |" in page(same, same)
    with pytest.raises(UserError, match="seed 0 of cke has two rows of different settings"):
        page(same, dataclasses.replace(same, identity="other"))


def test_it_is_written_from_all_rows_and_trials(tmp_path: Path) -> None:
    rows, tuning, file = tmp_path / "rows", tmp_path / "tuning", tmp_path / "docs" / "quality.md"
    for folder, values in ((rows, row("cke", {"ndcg@10": 0.3})), (tuning, trial("cke", 0.2, {}))):
        folder.mkdir()
        (folder / "cke.jsonl").write_text(json.dumps(dataclasses.asdict(values)) + "\n")
    write_page(rows, file, tuning)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Quality\n")
    assert f"    python -m benchmarks.quality --out={rows} --tuning={tuning} --page={file}\n" in text
    assert lines(text, "## Tuning", "cke") == [
        "| cke | 1 | 100 | ndcg@10 | 0.2000 | 0.2000 | the config as it stands | – |"
    ]


def test_the_published_page_is_that_of_the_published_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    results, page = Path("benchmarks/results"), tmp_path / "quality.md"
    write_page(results / "quality", page, results / "hyperparameters")
    assert page.read_text().replace(str(page), "docs/quality.md") == Path("docs/quality.md").read_text()


def test_the_lines_in_the_readme_are_lines_of_the_page() -> None:
    page = (REPOSITORY / "docs" / "quality.md").read_text().splitlines()
    _, _, after = (REPOSITORY / "README.md").read_text().partition("## Quality\n")
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(lines) > 10
    assert [line for line in lines if line not in page] == []
