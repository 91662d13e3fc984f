"""What is refused for want of memory, and the advice: each piece of it is taken, and then the training fits."""

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from assertions import assert_one_line

from recjax.config import Dataset, Experiment, Parallel, Training
from recjax.config_files import load_config
from recjax.data import sources
from recjax.data.interactions import Interactions, KnowledgeGraph
from recjax.data.synthetic import SyntheticInteractions, synthetic_interactions
from recjax.errors import UserError
from recjax.evaluation import Data
from recjax.free_memory import FreeMemory
from recjax.models.matrix_factorization import MatrixFactorizationConfig
from recjax.models.sasrec import SASRecConfig
from recjax.serving.bucket_memory import check_bucket
from recjax.training.first_step import plan_step
from recjax.training.memory import training_needs, validation_bytes
from recjax.training.memory_check import MOST_COPIES, check_draw, check_training, surely_fits
from recjax.training.pipeline import load_data, one_batch
from recjax.training.step import init_params
from recjax.transforms.protocol import chain

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(
    path for folder in (".", "ml_100k", "filmtrust") for path in (REPOSITORY / "configs" / folder).glob("*.py")
)
LAPTOP = FreeMemory(24 * 10**9, "this host")
ROWS, DIM, BATCH = 30 + 24, 64, 8


def drawn(data: Data, model: Any) -> Any:
    return jax.eval_shape(lambda: init_params(model.build(data.schema), one_batch(data, 1), 0))


def plan_of(model: Any, data: Data, training: Training, parallel: Parallel) -> functools.partial:
    context = {"context": dict(data.context)} if data.context else {}
    return functools.partial(
        plan_step,
        model_config=model,
        params=drawn(data, model),
        schema=data.schema,
        batch={**next(iter(data.train_batches(training.batch_size, 0, 1))), **context},
        training=training,
        transform=chain(),
        total_steps=10,
        parallel=parallel,
    )


@pytest.fixture(scope="module")
def ratings(ratings_file: Path) -> Data:
    training = Training()
    dataset = Dataset(source=str(ratings_file), min_interactions=1, split="random")
    model = MatrixFactorizationConfig()
    return load_data(Experiment(name="mf", dataset=dataset, model=model, training=training, finetuning=training))


class Case:
    """A training of a matrix factorisation with a table optimizer, over devices."""

    def __init__(self, data: Data, parallel: Parallel | None = None, keeps_drawn: bool = True, **training: Any) -> None:
        settings = Training(**{"batch_size": BATCH, **training})
        self.data, self.keeps_drawn = data, keeps_drawn
        self.plan = plan_of(MatrixFactorizationConfig(embedding_dim=DIM), data, settings, parallel or Parallel())
        self.planned = self.plan()

    @property
    def n_bytes(self) -> int:
        """Returns what it needs, parameters not drawn yet."""
        return training_needs(self.planned, self.plan.keywords["batch"], keeps_drawn=self.keeps_drawn).n_bytes

    def check(self, free: int | None) -> None:
        shapes_of, memory = functools.partial(drawn, self.data), FreeMemory(free, "this host")
        check_training(self.plan, self.planned, shapes_of, keeps_drawn=self.keeps_drawn, free=memory)

    def advice(self, free: int) -> str:
        """Returns what the refusal says, all in one line, after what is needed and free."""
        with pytest.raises(UserError) as refused:
            self.check(free)
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith("training MatrixFactorization needs at least ")
        return str(refused.value).partition("); ")[2]


def test_a_byte_less_than_is_needed_is_refused(ratings: Data):
    case = Case(ratings)
    case.check(case.n_bytes)
    case.check(None)
    with pytest.raises(UserError, match=r"needs at least .* kB of memory and .* kB are free on this host \("):
        case.check(case.n_bytes - 1)


def test_row_updates_are_named_where_they_fit(ratings: Data):
    by_rows = Case(ratings, table_optimizer="rowwise_adagrad").n_bytes
    for optimizer in ("dense", "lazy_adam"):
        advice = Case(ratings, table_optimizer=optimizer).advice(by_rows)
        assert advice.startswith("to make it fit, set training.table_optimizer=rowwise_adagrad (")
        advice = Case(ratings, table_optimizer=optimizer).advice(by_rows - 1)
        assert "table_optimizer" not in advice
    assert "table_optimizer" not in Case(ratings, table_optimizer="rowwise_adagrad").advice(by_rows - 1)


def test_row_updates_are_not_named_to_a_model_that_cannot_have_them(next_item: Data):
    def check(model: Any, free: int) -> None:
        plan = plan_of(model, next_item, Training(batch_size=BATCH), Parallel())
        check_training(plan, plan(), functools.partial(drawn, next_item), free=FreeMemory(free, "this host"))

    model = SASRecConfig(embedding_dim=64, heads=2, mlp_dims=(16,))
    with pytest.raises(UserError, match="SASRec needs") as refused:
        check(model, 400_000)
    assert "table_optimizer" not in str(refused.value)
    (dim,) = re.findall(r"set model.embedding_dim=(\d+) \(", str(refused.value))
    check(dataclasses.replace(model, embedding_dim=int(dim)), 400_000)
    with pytest.raises(UserError):
        check(dataclasses.replace(model, embedding_dim=2 * int(dim)), 400_000)


def test_a_smaller_batch_is_named_where_batches_are_what_is_too_much(ratings: Data):
    large = Case(ratings, batch_size=4096, table_optimizer="sgd")
    free = large.n_bytes - 100_000  # a batch has 16 bytes a sample, and five are in flight
    advice = large.advice(free)
    assert advice.startswith("to make it fit, set training.batch_size=2048 (")
    Case(ratings, batch_size=2048, table_optimizer="sgd").check(free)
    assert "batch_size" not in Case(ratings, batch_size=64, table_optimizer="sgd").advice(40_000)


def test_narrower_rows_are_named_and_only_where_they_fit(ratings: Data):
    case = Case(ratings, table_optimizer="sgd")
    rest = case.n_bytes - 3 * 4 * ROWS * (DIM + 1)  # beside the tables drawn, trained and kept
    for dim in (32, 16, 4):
        needed = 3 * 4 * ROWS * (dim + 1) + rest
        assert f"set model.embedding_dim={dim} (" in case.advice(needed)
        assert f"set model.embedding_dim={dim} (" not in case.advice(needed - 1)


def test_a_combination_is_named_where_nothing_alone_fits(ratings: Data):
    # Dense Adam holds six times the tables, row updates three times and a number a row.
    case = Case(ratings)
    tables = 3 * 4 * ROWS * (4 + 1)
    advice = case.advice(tables + 2_000)
    assert "set training.table_optimizer=rowwise_adagrad and model.embedding_dim=4 (" in advice


@pytest.mark.parametrize(("keeps_drawn", "room"), [(True, 2), (False, 1)])
def test_more_hosts_are_named_where_their_parts_fit(ratings: Data, keeps_drawn: bool, room: int):
    case = Case(ratings, keeps_drawn=keeps_drawn, table_optimizer="sgd", batch_size=64)
    free = room * 4 * ROWS * (DIM + 1) + 6_000
    advice = case.advice(free)
    (n,) = re.findall(r"take (\d+) such hosts with one device each and set parallel.strategy=pjit", advice)
    split = Parallel(strategy="pjit", fully_sharded=True)
    for size, fits in ((int(n), True), (int(n) // 2, False)):
        planned = case.plan(parallel=split, jax_devices=jax.devices()[:size])
        needs = training_needs(planned, case.plan.keywords["batch"], keeps_drawn=keeps_drawn, sharing=1)
        assert (needs.n_bytes <= free) == fits


def test_a_split_of_copies_is_named(ratings: Data):
    # Eight CPU devices of one host: dense tables are eight copies, or parts of one.
    case, split = Case(ratings, Parallel(strategy="pjit")), Parallel(strategy="pjit", fully_sharded=True)
    free = Case(ratings, split).n_bytes
    assert free < case.n_bytes
    assert "set parallel.strategy=pjit and parallel.fully_sharded=true (" in case.advice(free)


def test_what_nothing_makes_fit_says_how_much_is_missing(ratings: Data):
    advice = Case(ratings).advice(1_000)
    assert re.fullmatch(
        r"even with training.table_optimizer=rowwise_adagrad and model.embedding_dim=4 it needs (\d+\.\d) kB, "
        r"(\d+\.\d) kB too much; more devices do not help, as one of them draws all parameters; take a data set with "
        r"fewer ids, or a machine with more memory",
        advice,
    )
    needed, missing = map(float, re.findall(r"(\d+\.\d) kB", advice))
    assert needed - missing == pytest.approx(1.0, abs=0.11)


def test_parameters_are_refused_before_they_are_drawn(ratings: Data):
    model, shapes_of = MatrixFactorizationConfig(embedding_dim=DIM), functools.partial(drawn, ratings)
    n_bytes = 4 * ROWS * (DIM + 1)
    check_draw(model, shapes_of(model), shapes_of, FreeMemory(n_bytes, "this host"))
    with pytest.raises(UserError, match=r"^drawing the parameters of MatrixFactorization needs .*embedding_dim=32$"):
        check_draw(model, shapes_of(model), shapes_of, FreeMemory(n_bytes - 1, "this host"))
    with pytest.raises(UserError, match=r"take a data set with fewer ids, or a machine with more memory$"):
        check_draw(model, shapes_of(model), shapes_of, FreeMemory(10, "this host"))


@pytest.mark.parametrize("optimizer", ["dense", "lazy_adam", "rowwise_adagrad"])
def test_what_surely_fits_needs_no_plan(ratings: Data, optimizer: str):
    case = Case(ratings, table_optimizer=optimizer)
    params = case.plan.keywords["params"]
    needs = training_needs(case.planned, {}, saves=True)
    assert needs.n_bytes < MOST_COPIES * 4 * ROWS * (DIM + 1)
    assert surely_fits(params, FreeMemory(MOST_COPIES * 4 * ROWS * (DIM + 1), "this host"))
    assert not surely_fits(params, FreeMemory(MOST_COPIES * 4 * ROWS * (DIM + 1) - 1, "this host"))
    assert surely_fits(params, FreeMemory(None, "gpu:0", "it does not say"))


def stand_in(name: str) -> Interactions:
    """Returns interactions with the sizes and columns of a set that cannot be shipped."""
    users, items, facts = {"ml-100k": (943, 1682, 91_631), "filmtrust": (1508, 2071, 1_853)}[name]
    made, rng = synthetic_interactions(SyntheticInteractions(n_users=users, n_items=items)), np.random.default_rng(0)
    genres = np.empty(items, object)
    genres[:] = [[f"genre {n}" for n in rng.choice(19, rng.integers(1, 6), replace=False)] for _ in range(items)]
    triples = rng.integers(0, 34_000, (2, facts)).astype(np.int32)
    return dataclasses.replace(
        made,
        name=name,
        item_features={"year": rng.integers(1922, 1999, items).astype(np.float32), "genres": genres},
        user_features={
            "age": rng.integers(7, 74, users).astype(np.float32),
            "gender": rng.choice(["F", "M"], users),
            "occupation": rng.choice([f"occupation {n}" for n in range(21)], users),
        },
        trust=rng.integers(0, users, (2, 1_853)).astype(np.int32),
        knowledge=KnowledgeGraph(
            head=triples[0],
            relation=rng.integers(0, 24, facts).astype(np.int32),
            tail=triples[1],
            n_entities=34_000,
            n_relations=24,
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_fits_24_gb_or_says_why_not(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """MLCommons' tables are made for many devices; everything else is for a laptop."""
    experiment = load_config(path)
    name = experiment.dataset.source
    if name in ("ml-100k", "filmtrust"):
        monkeypatch.setenv("RECJAX_DATA", str(tmp_path))
        (tmp_path / name).mkdir()
        monkeypatch.setitem(sources.PLACED, name, lambda folder: stand_in(name))
    data, model = load_data(experiment), experiment.model
    plan = plan_of(model, data, experiment.training, experiment.parallel)
    check = functools.partial(
        check_training,
        plan,
        plan(),
        functools.partial(drawn, data),
        scores_bytes=validation_bytes(data),
        saves=True,
        free=LAPTOP,
    )
    if path.stem == "dlrm_v2_full":
        with pytest.raises(
            UserError, match=r"needs at least 681\.\d GB .*float32\[40000000, 128\] 2.6 GB a device \(row_wise\)"
        ):
            check()
        return
    check()
    variables = {"params": plan.keywords["params"]}
    check_bucket(variables, data.serving_samples(), experiment.serving.buckets[-1], {}, free=LAPTOP)


def test_the_command_refuses_what_does_not_fit_and_allocates_nothing(ratings_file: Path, tmp_path: Path):
    config = tmp_path / "wide.py"
    config.write_text(
        "from recjax.config import Dataset, Experiment, Training\n"
        "from recjax.models.matrix_factorization import MatrixFactorizationConfig\n\n\n"
        "def get_config():\n"
        "    training = Training(epochs=1, batch_size=16)\n"
        "    return Experiment(\n"
        "        name='wide',\n"
        f"        dataset=Dataset(source={str(ratings_file)!r}, min_interactions=1, split='random'),\n"
        "        model=MatrixFactorizationConfig(),\n"
        "        training=training,\n"
        "        finetuning=training,\n"
        "    )\n"
    )
    # 54 rows of 2 billion columns: 432 GB. The peak memory of the process, in kB on Linux, is its only output; that of
    # getrusage would be the parent's where that is larger.
    code = """
import pathlib, re, sys
from recjax.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""
    arguments = ["train", str(config), "--out", str(tmp_path / "run"), "--set", "model.embedding_dim=2000000000"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert_one_line(
        done.stderr,
        "training MatrixFactorization needs at least 5.7 TB of memory and",
        "users/table float32[30, 2000000000] 240.0 GB; items/table float32[24, 2000000000] 192.0 GB",
        "; to make it fit, set ",
    )
    assert int(done.stdout) < 2_000_000
    assert not list((tmp_path / "run").glob("checkpoints/*"))
