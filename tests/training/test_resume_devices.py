"""A run that broke on eight devices goes on on four, two or one, with the losses of an unbroken run on eight."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_compile import quick_environment

from recjax.config import Dataset, Experiment, Parallel, Training
from recjax.models.dlrm_dcnv2 import DLRMDCNv2Config
from recjax.parallel.table_plan import TablePlan
from recjax.training.fit import EpochRecord
from recjax.training.pipeline import load_data, train

TESTS = Path(__file__).parent
AGREE = 1e-5  # of a loss
EPOCHS = 3
STRICT = ("-W", "error", "-W", "ignore:Error reading persistent compilation cache entry")  # of another process
DROPOUT_RATES = (0.1, 0.0)  # without dropout a single device, which draws other masks than a mesh, has the same losses
GO_ON = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import jax
jax.config.update("jax_platforms", "cpu")
from test_resume_devices import go_on
found = [go_on(*run) for run in json.loads(sys.argv[3])]
print(json.dumps([jax.device_count(), found]))
"""


class StoppedError(Exception):
    """Stands for a killed run."""


def experiment(ratings: str, dropout_rate: float, parallel: Parallel) -> Experiment:
    """Returns a small experiment whose tables have row updates."""
    training = Training(epochs=EPOCHS, batch_size=16, learning_rate=1e-2, patience=0, table_optimizer="rowwise_adagrad")
    return Experiment(
        name="broken",
        dataset=Dataset(source=ratings, min_interactions=1, split="random", ratios=(0.6, 0.2, 0.2)),
        model=DLRMDCNv2Config(
            embedding_dim=8, bottom_mlp=(8,), cross_ranks=(4,), top_mlp=(16, 8), dropout_rate=dropout_rate
        ),
        training=training,
        finetuning=training,
        parallel=parallel,
    )


def go_on(ratings: str, dropout_rate: float, parallel: dict[str, Any], folder: str | None) -> dict[str, list[float]]:
    """Returns the epochs that were trained here, and every epoch's loss in training and in validation.

    Args:
      ratings: path of a file.
      dropout_rate: in training.
      parallel: values of Parallel.
      folder: of the checkpoints of a broken run; None trains from the start.
    """
    trained: list[float] = []
    made = experiment(ratings, dropout_rate, Parallel(**parallel))
    of_run = train(
        made,
        load_data(made),
        folder=Path(folder) if folder else None,
        on_epoch=lambda record, _: trained.append(record.epoch),
    )
    losses = [record.train_loss for record in of_run.history if record.train_loss is not None]
    return {"trained": trained, "losses": losses, "valid": [record.validation["logloss"] for record in of_run.history]}


@pytest.fixture(scope="module")
def broken(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Returns by dropout rate the folder of a run on eight devices that broke after its first epoch."""
    folders = {}
    for rate in DROPOUT_RATES:
        made = experiment(str(ratings_file), rate, Parallel(strategy="pjit"))
        folders[rate] = tmp_path_factory.mktemp("broken") / "run"
        plans: list[TablePlan] = []

        def stop(record: EpochRecord, epochs: int) -> None:
            raise StoppedError

        with pytest.raises(StoppedError):
            train(made, load_data(made), folder=folders[rate], on_epoch=stop, on_plan=plans.append)
        assert "row_wise" in plans[0].kinds.values()
    return folders


@pytest.fixture(scope="module")
def unbroken(ratings_file: Path) -> dict[float, dict[str, list[float]]]:
    """Returns by dropout rate what an unbroken run on eight devices gives."""
    return {rate: go_on(str(ratings_file), rate, {"strategy": "pjit"}, None) for rate in DROPOUT_RATES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_devices", "runs"),
    [
        (4, [(0.1, {"strategy": "pjit", "data": 4})]),
        (2, [(0.1, {"strategy": "pjit", "data": 2}), (0.1, {"strategy": "pmap"})]),
        (1, [(0.1, {"strategy": "pjit", "data": 1}), (0.0, {"strategy": "single"})]),
    ],
    ids=["four", "two", "one"],
)
def test_a_run_that_broke_on_eight_devices_goes_on_on_fewer(
    ratings_file: Path,
    broken: dict[float, Path],
    unbroken: dict[float, dict[str, list[float]]],
    tmp_path: Path,
    n_devices: int,
    runs: list[tuple[float, dict[str, Any]]],
):
    """In a process that has no more devices."""
    arguments = []
    for number, (rate, parallel) in enumerate(runs):
        folder = shutil.copytree(broken[rate], tmp_path / str(number))
        arguments.append((str(ratings_file), rate, parallel, str(folder)))
    answer = subprocess.run(
        (sys.executable, *STRICT, "-c", GO_ON, str(TESTS), str(TESTS.parent), json.dumps(arguments)),
        env=quick_environment(JAX_NUM_CPU_DEVICES=str(n_devices)),
        check=True,
        stdout=subprocess.PIPE,
        timeout=600,
    )
    devices, found = json.loads(answer.stdout)
    assert devices == n_devices
    for (rate, parallel), of_run in zip(runs, found, strict=True):
        assert of_run["trained"] == [2, 3]
        for kind in ("losses", "valid"):
            assert len(of_run[kind]) == EPOCHS
            np.testing.assert_allclose(of_run[kind], unbroken[rate][kind], rtol=AGREE, err_msg=f"{kind} {parallel}")
