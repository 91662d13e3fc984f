"""What the commands of `recjax` do once the command line is understood."""

import argparse
import json
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from recjax.command_line import make_output_folder, parse_mesh
from recjax.config import Experiment
from recjax.data.sources import check_source
from recjax.errors import DeviceError, UserError
from recjax.evaluation import ONE_DEVICE_EVALUATION, Data, Quality, make_evaluator, sanity_rows
from recjax.hardware.facts import PRICES, load_prices
from recjax.parallel.start import is_writer
from recjax.parallel.table_plan import describe_plan
from recjax.plan_table import WIDTH, plan_table
from recjax.planning import PROGRAMS, parse_targets, plan
from recjax.progress import console, stage
from recjax.training.checkpoint import complete_epochs
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import EpochRecord
from recjax.training.pipeline import finalize, load_data, spread_over_processes, train
from recjax.transforms.explain import explain
from recjax.transforms.protocol import chain


def train_command(experiment: Experiment, folder: Path) -> None:
    """Trains, transforms and stores the experiment in `folder`, and prints its quality on the test part."""
    from tensorboardX import SummaryWriter

    data = load_data(experiment)
    experiment = spread_over_processes(experiment, data)
    is_shared = jax.process_count() > 1
    if is_shared and experiment.parallel.strategy == "single":
        raise UserError(
            f"{experiment.name} is solved from all interactions at once, which several processes cannot share; run it "
            "in one process"
        )
    make_output_folder(folder)
    metric = data.selection_metric
    saved = max(complete_epochs(folder / "checkpoints"), default=0)
    title = f"{experiment.name}: training{f' from epoch {saved + 1}' if saved else ''}"
    if saved >= experiment.training.epochs:
        title = f"{experiment.name}: trained before"
    with (
        SummaryWriter(str(folder / "tensorboard"), write_to_disk=is_writer()) as scalars,
        stage(title, experiment.training.epochs - saved) as advance,
    ):

        def on_epoch(record: EpochRecord, epochs: int) -> None:
            scalars.add_scalar("train/loss", record.train_loss, record.step)
            for name, value in record.validation.items():
                scalars.add_scalar(f"valid/{name}", value, record.step)
            values = f"valid {metric} {record.validation[metric]:.4f}" if record.validation else ""
            note = f"epoch {record.epoch} loss {record.train_loss:.4f} {values}{' best' if record.is_best else ''}"
            advance(note, remaining=epochs - record.epoch)  # if a checkpoint is lost, more than was thought

        try:
            result = train(
                experiment,
                data,
                folder=folder / "checkpoints",
                on_epoch=on_epoch,
                on_plan=lambda plan: console.print(describe_plan(plan)),
            )
        except KeyboardInterrupt:
            if complete_epochs(folder / "checkpoints"):
                console.print("the same command goes on from the last validated epoch", markup=False)
            raise
    # On a mesh of several processes no device need have room for the whole model, but transforms look at all of it.
    in_parts = is_shared and experiment.parallel.strategy == "pjit" and not experiment.transforms
    model = finalize(experiment, data, result.spread if in_parts else result.params)
    devices = result.devices.evaluation if in_parts else ONE_DEVICE_EVALUATION
    quality = make_evaluator(model.score, data, "test", devices)(model.variables)
    if in_parts or is_writer():
        model.save(folder / "final", experiment, quality)
    console.print(f"best epoch {result.best.epoch}, valid {metric} {result.best.validation[metric]:.4f}")
    print_quality(experiment, model, data, quality)
    console.print(
        f"final model in {folder / 'final'}; curves, with TensorBoard installed: tensorboard --logdir "
        f"{folder / 'tensorboard'}",
        markup=False,
    )


def evaluate_command(experiment: Experiment, folder: Path) -> None:
    """Prints the test quality of the final model that `train` stored in `folder`.

    Raises:
      CheckpointError: no such model, a corrupt one, or one of another experiment.
    """
    data = load_data(experiment)
    model = load_final_model(folder / "final", experiment, data)
    print_quality(experiment, model, data, make_evaluator(model.score, data, "test")(model.variables))


def explain_command(experiment: Experiment) -> None:
    """Prints what the experiment's transforms do to each layer, without training."""
    explain(chain(*experiment.transforms), experiment)


def plan_command(experiment: Experiment, options: argparse.Namespace) -> None:
    """Prints what the experiment would need, and do at best, on the hardware of `options.devices`.

    Raises:
      UserError: options that cannot be, or a data set that is not there.
      DeviceError: no program compiled for any of the hardware; the table says why for each.
    """
    parallel = experiment.parallel
    mesh = {"data": parallel.data, "model": parallel.model} | (parse_mesh(options.mesh) if options.mesh else {})
    targets = parse_targets(options.devices)
    programs, prices = PROGRAMS[options.program], load_prices(options.prices or PRICES)
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}; allowed: >= 1")
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        wrong = f"there is no folder {options.json.parent}" if not options.json.is_dir() else "that is a folder"
        raise UserError(f"--json is {options.json}, and {wrong}; give a file in a folder that is there")
    check_source(experiment.dataset)
    with stage(f"{experiment.name}: compiling for absent hardware", len(targets) * len(programs)) as advance:
        rows = plan(
            options.config,
            targets,
            programs,
            overrides=options.overrides,
            mesh=mesh,
            batch_size=options.batch_size,
            prices=prices,
            advance=advance,
        )
    reasons = list(dict.fromkeys(row.reason for row in rows))
    if reasons != [rows[0].reason] or rows[0].reason is None:  # a table that says one thing again and again says little
        Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(plan_table(rows))
    if options.json:
        try:
            options.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write --json={options.json}: {error.strerror}") from error
    if None not in reasons:
        raise DeviceError(f"nothing compiles for {options.devices}: {reasons[0]}")


def print_quality(experiment: Experiment, model: FinalModel, data: Data, quality: Quality) -> None:
    """Prints the model's metrics beside those of the sanity models, under their protocol, to standard output."""
    rows = {f"{experiment.name} ({model.transform.label})": quality, **sanity_rows(data, "test")}
    output = Console(soft_wrap=True)
    output.print(f"protocol {quality.protocol}, n={quality.n}", markup=False, highlight=False)
    table = Table("metric", *rows)
    for metric in quality.metrics:
        table.add_row(metric, *(f"{row.metrics[metric]:.4f}" for row in rows.values()))
    output.print(table)
