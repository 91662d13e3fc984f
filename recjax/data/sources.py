"""From the name or path in a config to interactions."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from recjax.config import Dataset
from recjax.data import (
    amazon_reviews,
    complete_journey,
    epinions,
    epinions_trustees,
    filmtrust,
    kuairec,
    lastfm,
    mind,
    movielens_1m,
    movielens_100k,
    movielens_csv,
    yambda,
)
from recjax.data.candidates import SyntheticDLRMv3, scaled_dlrm_v3
from recjax.data.criteo import CriteoData, load_criteo
from recjax.data.delimited import read_delimited
from recjax.data.folders import data_folder
from recjax.data.interactions import Interactions
from recjax.data.movielens import NAME as MOVIELENS
from recjax.data.movielens import load_movielens_latest_small
from recjax.data.synthetic import SyntheticInteractions, synthetic_interactions
from recjax.data.synthetic_dlrm import DLRMv2Options, SyntheticDLRMv2
from recjax.errors import UserError, unknown_name

# Sets that do not travel with the package: looked for in data_folder(NAME), brought or explained by tools.fetch_data.
_OF_ONE_NAME = (complete_journey, epinions, epinions_trustees, filmtrust, kuairec, movielens_1m, movielens_100k)
_OF_SEVERAL_NAMES = (amazon_reviews, lastfm, mind, movielens_csv, yambda)
PLACED: Mapping[str, Callable[[Path], Interactions]] = {
    **{module.NAME: module.load for module in _OF_ONE_NAME},
    **{name: module.load for module in _OF_SEVERAL_NAMES for name in module.NAMES},
}
# Click logs, streamed from their folders for the labelled task alone.
CLICK_LOGS = ("criteo-kaggle", "criteo-1tb", "criteo-x1")
# Out of random generators seeded by Dataset.seed.
SYNTHETIC_INTERACTIONS, SYNTHETIC_DLRM = "synthetic-interactions", "synthetic-dlrm-v2"
SYNTHETIC_DLRM_FULL = "synthetic-dlrm-v2-full"
SYNTHETIC_DLRM_SCALES = {SYNTHETIC_DLRM: 0.01, SYNTHETIC_DLRM_FULL: 1.0}  # of MLCommons' tables: 2 or 204 million rows
# The workloads of docs/workloads.md: tables as their names say, and epochs so short that they only make weights real.
BRIEF_DLRM: Mapping[str, DLRMv2Options] = {
    "synthetic-dlrm-v2-1of100": DLRMv2Options(table_scale=0.01, n_train=16_384, n_valid=4_096, n_test=8_192),
}
SYNTHETIC_DLRM_V3_SCALES: Mapping[str, float] = {"synthetic-dlrm-v3-1of10000": 1e-4}  # requests with candidates
_LABELLED_ROWS = (*CLICK_LOGS, *SYNTHETIC_DLRM_SCALES, *BRIEF_DLRM)


def check_source(dataset: Dataset) -> None:
    """Raises UserError if `dataset.source` is no known set, or one that is not there, and no file; reads nothing."""
    source = dataset.source
    known = (MOVIELENS, *PLACED, *_LABELLED_ROWS, SYNTHETIC_INTERACTIONS, *SYNTHETIC_DLRM_V3_SCALES)
    if (source in PLACED or source in CLICK_LOGS) and not data_folder(source).is_dir():
        raise UserError(
            f"{source} is not in {data_folder(source)}; python -m tools.fetch_data {source} brings it or says how"
        )
    if source not in known and not Path(source).exists():
        if Path(source).name != source or Path(source).suffix:
            raise UserError(
                f"Dataset.source is {source!r}, and no such file exists; give the path of a file of "
                f"user,item,rating[,timestamp], or a set: {', '.join(sorted(known))}"
            )
        unknown = unknown_name("Dataset.source", source, known)
        raise UserError(f"{unknown} (or the path of a user,item,rating[,timestamp] file; no such file exists)")


def load_interactions(dataset: Dataset) -> Interactions:
    """Returns the interactions of `dataset.source`, reduced to their k-core for k = `dataset.min_interactions`.

    Raises:
      UserError: the source is neither a set that is there nor a file, it cannot be used, or the k-core is empty.
    """
    check_source(dataset)
    if dataset.source in _LABELLED_ROWS:
        raise UserError(f"{dataset.source} has labelled rows and no users; it is for models of the labelled task")
    if dataset.source in SYNTHETIC_DLRM_V3_SCALES:
        raise UserError(f"{dataset.source} has requests with candidates; it is for models of the candidates task")
    if dataset.source == MOVIELENS:
        interactions = load_movielens_latest_small()
    elif dataset.source == SYNTHETIC_INTERACTIONS:
        interactions = synthetic_interactions(SyntheticInteractions(seed=dataset.seed))
    elif dataset.source in PLACED:
        interactions = PLACED[dataset.source](data_folder(dataset.source))
    else:
        interactions = read_delimited(dataset.source)
    return interactions.k_core(dataset.min_interactions) if dataset.min_interactions > 1 else interactions


def load_labelled_stream(dataset: Dataset) -> CriteoData | SyntheticDLRMv2 | None:
    """Returns the data of a source that is labelled rows already, None for one that is interactions.

    Raises:
      UserError: a file is not there.
    """
    if dataset.source in CLICK_LOGS:
        check_source(dataset)
        return load_criteo(dataset.source)
    if dataset.source in SYNTHETIC_DLRM_SCALES:
        scale = SYNTHETIC_DLRM_SCALES[dataset.source]
        return SyntheticDLRMv2(DLRMv2Options(table_scale=scale, seed=dataset.seed))
    if dataset.source in BRIEF_DLRM:
        return SyntheticDLRMv2(dataclasses.replace(BRIEF_DLRM[dataset.source], seed=dataset.seed))
    return None


def load_candidates(dataset: Dataset) -> SyntheticDLRMv3:
    """Returns the requests of a source that has candidates to rank, with histories of up to `dataset.max_history`.

    Raises:
      UserError: the source has none.
    """
    check_source(dataset)
    if dataset.source not in SYNTHETIC_DLRM_V3_SCALES:
        allowed = ", ".join(SYNTHETIC_DLRM_V3_SCALES)
        raise UserError(
            f"{dataset.source} has no requests with candidates, which models of the candidates task rank; set "
            f"dataset.source to one that has: {allowed}"
        )
    return scaled_dlrm_v3(SYNTHETIC_DLRM_V3_SCALES[dataset.source], dataset.max_history, dataset.seed)
