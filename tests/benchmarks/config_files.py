"""A config file that tests write: biased matrix factorisation, which trains in a second."""

from pathlib import Path

SEARCH = '{"model.l2": (0.1, 0.01), "training.learning_rate": (1e-2, 1e30)}'


def write_config(
    folder: Path,
    source: Path | str,
    *,
    search: str = f"SEARCH = {SEARCH}",
    split: str = "random",
    epochs: int = 2,
    learning_rate: float = 1e-2,
    name: str = "tiny",
) -> Path:
    """Returns the path of the file, whose name is the experiment's."""
    path = folder / f"{name}.py"
    path.write_text(
        "from recjax.config import Dataset, Experiment, Training\n"
        "from recjax.models.matrix_factorization import MatrixFactorizationConfig\n\n"
        f"RATIOS = (0.6, 0.2, 0.2)\n{search}\n\n\n"
        "def get_config():\n"
        f"    training = Training(epochs={epochs}, batch_size=64, learning_rate={learning_rate})\n"
        "    return Experiment(\n"
        f"        name={name!r},\n"
        f"        dataset=Dataset(source={str(source)!r}, min_interactions=1, split={split!r}, ratios=RATIOS),\n"
        "        model=MatrixFactorizationConfig(embedding_dim=4, l2=0.1),\n"
        "        training=training,\n"
        "        finetuning=training,\n"
        "    )\n"
    )
    return path
