"""From the name or path in a config to interactions."""

from collections.abc import Callable, Mapping
from pathlib import Path

from recjax.config import Dataset
from recjax.data import movielens_100k
from recjax.data.delimited import read_delimited
from recjax.data.folders import data_folder
from recjax.data.interactions import Interactions
from recjax.data.movielens import NAME as MOVIELENS
from recjax.data.movielens import load_movielens_latest_small
from recjax.errors import UserError, unknown_name

# Sets that do not travel with the package: looked for in data_folder(NAME), brought or explained by tools.fetch_data.
PLACED: Mapping[str, Callable[[Path], Interactions]] = {
    "ml-100k": movielens_100k.load,
}


def check_source(dataset: Dataset) -> None:
    """Raises UserError if `dataset.source` is no known set, or one that is not there, and no file; reads nothing."""
    source = dataset.source
    if source in PLACED and not data_folder(source).is_dir():
        raise UserError(
            f"{source} is not in {data_folder(source)}; python -m tools.fetch_data {source} brings it or says how"
        )
    if source != MOVIELENS and source not in PLACED and not Path(source).exists():
        unknown = unknown_name("Dataset.source", source, [MOVIELENS, *PLACED])
        raise UserError(f"{unknown} (or the path of a user,item,rating[,timestamp] file; no such file exists)")


def load_interactions(dataset: Dataset) -> Interactions:
    """Returns the interactions of `dataset.source`, reduced to their k-core for k = `dataset.min_interactions`.

    Raises:
      UserError: the source is neither a set that is there nor a file, it cannot be used, or the k-core is empty.
    """
    check_source(dataset)
    if dataset.source == MOVIELENS:
        interactions = load_movielens_latest_small()
    elif dataset.source in PLACED:
        interactions = PLACED[dataset.source](data_folder(dataset.source))
    else:
        interactions = read_delimited(dataset.source)
    return interactions.k_core(dataset.min_interactions) if dataset.min_interactions > 1 else interactions
