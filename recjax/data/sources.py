"""From the name or path in a config to interactions."""

from pathlib import Path

from recjax.config import Dataset
from recjax.data.delimited import read_delimited
from recjax.data.interactions import Interactions
from recjax.data.movielens import NAME as MOVIELENS
from recjax.data.movielens import load_movielens_latest_small
from recjax.errors import UserError, unknown_name


def check_source(dataset: Dataset) -> None:
    """Raises UserError if `dataset.source` is neither shipped nor a file; reads nothing."""
    if dataset.source != MOVIELENS and not Path(dataset.source).exists():
        unknown = unknown_name("Dataset.source", dataset.source, [MOVIELENS])
        raise UserError(f"{unknown} (or the path of a user,item,rating[,timestamp] file; no such file exists)")


def load_interactions(dataset: Dataset) -> Interactions:
    """Returns the interactions of `dataset.source`, reduced to their k-core for k = `dataset.min_interactions`.

    Raises:
      UserError: the source is neither shipped nor a file, the file cannot be used, or the k-core is empty.
    """
    check_source(dataset)
    interactions = load_movielens_latest_small() if dataset.source == MOVIELENS else read_delimited(dataset.source)
    return interactions.k_core(dataset.min_interactions) if dataset.min_interactions > 1 else interactions
