"""What the commands of `recjax` do once the command line is understood."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from recjax.command_line import make_output_folder
from recjax.config import Experiment
from recjax.evaluation import Data, Quality, make_evaluator, sanity_rows
from recjax.progress import console, stage
from recjax.training.final_model import FinalModel, load_final_model
from recjax.training.fit import EpochRecord
from recjax.training.pipeline import finalize, load_data, train
from recjax.transforms.explain import explain
from recjax.transforms.protocol import chain


def train_command(experiment: Experiment, folder: Path) -> None:
    """Trains, transforms and stores the experiment in `folder`, and prints its quality on the test part."""
    from tensorboardX import SummaryWriter

    make_output_folder(folder)
    data = load_data(experiment)
    metric = data.selection_metric
    saved = max(
        (int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.name.isdecimal()), default=0
    )
    title = f"{experiment.name}: training{f' from epoch {saved + 1}' if saved else ''}"
    with (
        SummaryWriter(str(folder / "tensorboard")) as scalars,
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
            result = train(experiment, data, folder=folder / "checkpoints", on_epoch=on_epoch)
        except KeyboardInterrupt:
            if any((folder / "checkpoints").glob("[0-9]*")):
                console.print("the same command goes on from the last validated epoch", markup=False)
            raise
    model = finalize(experiment, data, result.params)
    quality = make_evaluator(model.score, data, "test")(model.variables)
    model.save(folder / "final", experiment, quality)
    console.print(f"best epoch {result.best.epoch}, valid {metric} {result.best.validation[metric]:.4f}")
    print_quality(experiment, model, data, quality)
    console.print(
        f"final model in {folder / 'final'}; curves: tensorboard --logdir {folder / 'tensorboard'}", markup=False
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


def print_quality(experiment: Experiment, model: FinalModel, data: Data, quality: Quality) -> None:
    """Prints the model's metrics beside those of the sanity models, under their protocol, to standard output."""
    rows = {f"{experiment.name} ({model.transform.label})": quality, **sanity_rows(data, "test")}
    output = Console(soft_wrap=True)
    output.print(f"protocol {quality.protocol}, n={quality.n}", markup=False, highlight=False)
    table = Table("metric", *rows)
    for metric in quality.metrics:
        table.add_row(metric, *(f"{row.metrics[metric]:.4f}" for row in rows.values()))
    output.print(table)
