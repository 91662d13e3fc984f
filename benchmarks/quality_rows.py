"""One experiment under one seed: trained as its config says, its epoch chosen on validation, tested once."""

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.environment import describe_software
from benchmarks.tuning import digest, reseeded
from recjax.command_line import make_output_folder
from recjax.config import Experiment, load_config
from recjax.data.sources import check_source
from recjax.errors import UserError
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.hardware.device import describe_device
from recjax.progress import stage
from recjax.training.pipeline import finalize, load_data, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Test metrics of one experiment under one seed, with those of the models that learn next to nothing."""

    experiment: str
    config: str  # path of the config file
    overrides: list[str]  # of it, as on the command line
    identity: str  # digest of everything that was trained
    seed: int  # of split, initialisation, shuffling, dropout
    protocol: str
    metric: str  # that chose the epoch, on validation
    validation: float
    epoch: int
    epochs: int  # planned
    n: int  # queries or examples of the test part
    quality: dict[str, float]
    sanity: dict[str, dict[str, float]]
    parameter_bytes: int
    train_s: float  # wall time, evaluation after each epoch included; of a shared machine
    environment: dict[str, Any]


def measure_quality(
    path: Path, overrides: Sequence[str], seeds: Sequence[int], device: jax.Device, folder: Path
) -> list[QualityRow]:
    """Returns one row a seed, trained or, if `folder` has it already, read; new ones are written as they come.

    Raises:
      UserError: the config file cannot be used, or its data set is not there.
    """
    base = load_config(path, overrides)
    check_source(base.dataset)
    make_output_folder(folder)
    file = folder / f"{base.name}.jsonl"
    stored = {row.identity: row for row in read_rows([file])} if file.exists() else {}
    rows = []
    with stage(f"{base.name}: quality", len(seeds)) as advance:
        for seed in seeds:
            experiment = reseeded(base, seed)
            identity = digest(experiment)
            row = stored.get(identity) or _row(experiment, path, overrides, seed, device)
            if identity not in stored:
                with file.open("a") as output:
                    output.write(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n")
            rows.append(row)
            advance(f"seed {seed}: test {row.metric} {row.quality[row.metric]:.4f}, epoch {row.epoch} of {row.epochs}")
    return rows


def read_rows(files: Iterable[Path]) -> list[QualityRow]:
    """Returns the rows of the files in order.

    Raises:
      UserError: a line is not a row.
    """
    rows = []
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                rows.append(QualityRow(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise UserError(f"{file}:{number}: not a row of python -m benchmarks.quality: {error}") from error
    return rows


def _row(experiment: Experiment, path: Path, overrides: Sequence[str], seed: int, device: jax.Device) -> QualityRow:
    data, started = load_data(experiment), time.perf_counter()
    result = train(experiment, data)
    train_s = time.perf_counter() - started
    model = finalize(experiment, data, result.params)
    quality = make_evaluator(model.score, data, "test")(model.variables)
    sanity = {name: dict(values.metrics) for name, values in sanity_rows(data, "test").items()}
    return QualityRow(
        experiment=experiment.name,
        config=str(path),
        overrides=list(overrides),
        identity=digest(experiment),
        seed=seed,
        protocol=quality.protocol,
        metric=data.selection_metric,
        validation=result.best.validation[data.selection_metric],
        epoch=result.best.epoch,
        epochs=experiment.training.epochs,
        n=quality.n,
        quality=dict(quality.metrics),
        sanity=sanity,
        parameter_bytes=model.parameter_bytes(),
        train_s=round(train_s, 1),
        environment={"device": describe_device([device])["kind"]} | describe_software(),
    )
