"""One tiny data set, one tiny model of each kind, and strict types and shapes for every test.

Everything trained or compiled that two tests need is a session fixture here.
"""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

# Tests compile thousands of small programs, many of them more than once. Benchmarks never use this cache.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "recjax" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# JAX reads what another process is just writing, says so and compiles; pyproject.toml has this for pytest's process.
os.environ.setdefault("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache entry")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from quick_compile import quick_environment  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)  # for meshes; everything else runs on the first
jax.config.update("jax_numpy_rank_promotion", "raise")

# XLA reads its flags once. Processes that tests start do not have this one unless they ask for it.
_flags = os.environ.get("XLA_FLAGS")
os.environ.update(quick_environment())
jax.jit(lambda: 0)()
if _flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = _flags
if not jaxtyping.config.jaxtyping_disable:
    jaxtyping.install_import_hook(["recjax"], "beartype.beartype")  # before anything imports recjax

from random_variables import random_variables  # noqa: E402

from recjax.config import Dataset, Experiment, Training  # noqa: E402
from recjax.data.labelled import LabelledData  # noqa: E402
from recjax.data.next_item import NextItemData  # noqa: E402
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config  # noqa: E402
from recjax.models.logistic_regression import LogisticRegressionConfig  # noqa: E402
from recjax.models.sasrec import SASRecConfig  # noqa: E402
from recjax.training.final_model import FinalModel  # noqa: E402
from recjax.training.fit import FitResult  # noqa: E402
from recjax.training.pipeline import finalize, load_data, train  # noqa: E402
from recjax.transforms.quantize import quantize  # noqa: E402

settings.register_profile("recjax", deadline=None)  # an example that compiles takes longer than the others
settings.load_profile("recjax")

N_USERS, N_ITEMS = 30, 24


# Compilers and libraries that marked tests need; without them the tests are skipped.
NEEDED_MODULES = {
    "tpu_compiler": "libtpu",
    "sparsecore_library": "jax_tpu_embedding",
    "gpu_compiler": "jax_cuda13_plugin",
}


@pytest.hookimpl(trylast=True)  # when those that were not asked for are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses to time a recjax that checks the type of every argument: nobody runs that one.

    Raises:
      UsageError: tests with the marker `timed` are to run, and types are checked.
    """
    if not jaxtyping.config.jaxtyping_disable and any(item.get_closest_marker("timed") for item in items):
        raise pytest.UsageError("timed tests need JAXTYPING_DISABLE=1, which `make test-timed` sets: checks take time")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose compiler is not installed."""
    for marker, module in NEEDED_MODULES.items():
        if item.get_closest_marker(marker) and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; see the marker {marker} in pyproject.toml")


@pytest.fixture(scope="session")
def ratings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 30 users who walk through 24 items in order: the next item and the liked ones can be learned."""
    rng = np.random.default_rng(0)
    lines = ["user,item,rating,timestamp"]
    for user in range(N_USERS):
        length = int(rng.integers(5, 12))
        items = (rng.integers(N_ITEMS) + np.cumsum(rng.integers(1, 3, length))) % N_ITEMS
        times = 1_000_000_000 + np.cumsum(rng.integers(3_600, 30 * 86_400, length))
        lines += [
            f"{user},{item},{5 if (user + item) % 2 else 2},{time}" for item, time in zip(items, times, strict=True)
        ]
    path = tmp_path_factory.mktemp("data") / "tiny.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def sasrec_experiment(ratings_file: Path) -> Experiment:
    return Experiment(
        name="tiny_sasrec",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, max_history=6),
        model=SASRecConfig(embedding_dim=8, heads=2, mlp_dims=(16,), dropout_rate=0.1, loss_chunk=32),
        training=Training(epochs=8, batch_size=16, learning_rate=1e-2, patience=0),
        finetuning=Training(epochs=4, batch_size=16, learning_rate=1e-3, patience=0, seed=1),
    )


@pytest.fixture(scope="session")
def dlrm_experiment(ratings_file: Path) -> Experiment:
    training = Training(epochs=4, batch_size=32, learning_rate=1e-2, patience=0)
    return Experiment(
        name="tiny_dlrm",
        dataset=Dataset(source=str(ratings_file), min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2)),
        model=DLRMDCNv2Config(embedding_dim=4, bottom_mlp=(8,), cross_ranks=(4, 6), top_mlp=(16, 8), dropout_rate=0.1),
        training=training,
        finetuning=training,
    )


@pytest.fixture(scope="session")
def logistic_experiment(dlrm_experiment: Experiment) -> Experiment:
    training = Training(epochs=12, batch_size=32, learning_rate=0.1, patience=3)
    return dataclasses.replace(
        dlrm_experiment,
        name="tiny_logistic",
        model=LogisticRegressionConfig(),
        training=training,
        finetuning=dataclasses.replace(training, epochs=2),
    )


@pytest.fixture(scope="session")
def next_item(sasrec_experiment: Experiment) -> NextItemData:
    return load_data(sasrec_experiment)


@pytest.fixture(scope="session")
def labelled(dlrm_experiment: Experiment) -> LabelledData:
    return load_data(dlrm_experiment)


@pytest.fixture(scope="session")
def trained_sasrec(sasrec_experiment: Experiment, next_item: NextItemData) -> FitResult:
    """Returns the fit on data without a test part, which training must not need."""
    parts = dataclasses.replace(next_item.split, test=next_item.split.test.select(np.zeros(0, int)))
    return train(sasrec_experiment, dataclasses.replace(next_item, split=parts))


@pytest.fixture(scope="session")
def dlrm_params(dlrm_experiment: Experiment, labelled: LabelledData) -> Any:
    """Returns random parameters of the tiny DLRM-DCNv2, biases too."""
    batch = next(labelled.train_batches(4, 0, 1))
    return random_variables(dlrm_experiment.model.build(labelled.schema), batch)["params"]


@pytest.fixture(scope="session")
def int8_sasrec(sasrec_experiment: Experiment, next_item: NextItemData, trained_sasrec: FitResult) -> FinalModel:
    experiment = dataclasses.replace(sasrec_experiment, transforms=(quantize(),))
    return finalize(experiment, next_item, trained_sasrec.params)


@pytest.fixture(scope="session")
def int8_dlrm(dlrm_experiment: Experiment, labelled: LabelledData, dlrm_params: Any) -> FinalModel:
    return finalize(dataclasses.replace(dlrm_experiment, transforms=(quantize(),)), labelled, dlrm_params)
