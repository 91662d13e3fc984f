"""One experiment under one seed: trained as its config says, its epoch chosen on validation, tested once."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.hyperparameter_search import digest, reseeded
from benchmarks.results import keep_earlier_run
from benchmarks.stored import append_stored, read_stored
from recjax.command_line import make_output_folder
from recjax.config import Experiment
from recjax.config_files import load_config
from recjax.data.sources import check_source
from recjax.evaluation import make_evaluator, sanity_rows
from recjax.hardware.device import describe_device
from recjax.hardware.software import describe_software
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

    A file holds rows of one experiment: if the folder's has any of another one under the same name, as after a change
    of the config file, it is kept in a folder of its own, and what is still true is copied.

    Raises:
      UserError: the config file cannot be used, its data set is not there, or a stored line is not a row.
    """
    base = load_config(path, overrides)
    check_source(base.dataset)
    make_output_folder(folder)
    file = folder / f"{base.name}.jsonl"
    stored = _stored(file, base)
    rows = []
    with stage(f"{base.name}: quality", len(seeds)) as advance:
        for seed in seeds:
            row = stored.get(seed)
            if row is None:
                row = _row(reseeded(base, seed), path, overrides, seed, device)
                append_stored(file, row)
            rows.append(row)
            advance(f"seed {seed}: test {row.metric} {row.quality[row.metric]:.4f}, epoch {row.epoch} of {row.epochs}")
    return rows


def _stored(file: Path, base: Experiment) -> dict[int, QualityRow]:
    """Returns the file's rows by seed, after setting those of another experiment aside."""
    found = read_rows([file]) if file.exists() else []
    current = {row.seed: row for row in found if row.identity == digest(reseeded(base, row.seed))}
    if any(row not in current.values() for row in found):
        keep_earlier_run(file.parent, file.name)
        for row in current.values():
            append_stored(file, row)
    return current


def read_rows(files: Iterable[Path]) -> list[QualityRow]:
    """Returns the rows of the files in order.

    Raises:
      UserError: a line is not a row; with file and line.
    """
    return [row for file in files for row in read_stored(file, QualityRow, "python -m benchmarks.quality")]


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
